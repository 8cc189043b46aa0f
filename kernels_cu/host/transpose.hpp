// Copies that transpose a matrix, by blocks in registers.
//
//     dst[j dst_step + i] = src[i src_step + j],    i < n,  j < m
//
// Rows of the source become columns of the destination. Each round interleaves the first half of the
// registers with the second one, and the numbers of a row move twice as far apart; of four rows of four:
//
//     a0 a1 a2 a3      a0 c0 a1 c1      a0 b0 c0 d0
//     b0 b1 b2 b3  ->  a2 c2 a3 c3  ->  a1 b1 c1 d1
//     c0 c1 c2 c3      b0 d0 b1 d1      a2 b2 c2 d2
//     d0 d1 d2 d3      b2 d2 b3 d3      a3 b3 c3 d3
//
// A register of 32 bytes holds two such blocks, one in each half: twice as many rows. Where only a few
// numbers of each row are wanted, the first rounds keep the lower halves only.
#pragma once
#include "lanes.hpp"

namespace semiconv {

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define SEMICONV_BLOCKS
#endif
#endif

template <int BYTES> struct Word;
template <> struct Word<1> { using type = uint8; };
template <> struct Word<2> { using type = uint16; };
template <> struct Word<4> { using type = uint32; };
template <> struct Word<8> { using type = uint64; };

#if defined(SEMICONV_BLOCKS)
#if defined(__AVX2__)
constexpr int halves = 2;  // blocks in one register
#else
constexpr int halves = 1;
#endif

template <class W> struct Block {
  static constexpr int size = 16 / (int)sizeof(W);     // rows and columns
  static constexpr int ahead = 256 / (int)sizeof(W);  // elements; 512 bytes are no better
  typedef W Half __attribute__((vector_size(16)));
  typedef W Whole __attribute__((vector_size(16 * halves)));

  static SEMICONV_FN Half half_at(const W* from) {
    Half half;
    __builtin_memcpy(&half, from, 16);
    return half;
  }
  // `apart` elements lie between the rows of the two blocks.
  static SEMICONV_FN Whole row_at(const W* from, int64 apart) {
    typedef uint64 Two __attribute__((vector_size(16)));
    if constexpr (halves == 1) return (Whole)half_at(from);
    else return (Whole)__builtin_shufflevector((Two)half_at(from), (Two)half_at(from + apart), 0, 1, 2, 3);
  }
  // The elements of the lower (upper) parts of a and b in turns, in each half by itself.
  static SEMICONV_FN Whole lower(Whole a, Whole b) {
#if defined(__AVX2__)
    if constexpr (size == 2) return __builtin_shufflevector(a, b, 0, 4, 2, 6);
    else if constexpr (size == 4) return __builtin_shufflevector(a, b, 0, 8, 1, 9, 4, 12, 5, 13);
    else if constexpr (size == 8)
      return __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 8, 24, 9, 25, 10, 26, 11, 27);
    else
      return __builtin_shufflevector(a, b, 0, 32, 1, 33, 2, 34, 3, 35, 4, 36, 5, 37, 6, 38, 7, 39, 16,
                                     48, 17, 49, 18, 50, 19, 51, 20, 52, 21, 53, 22, 54, 23, 55);
#else
    if constexpr (size == 2) return __builtin_shufflevector(a, b, 0, 2);
    else if constexpr (size == 4) return __builtin_shufflevector(a, b, 0, 4, 1, 5);
    else if constexpr (size == 8) return __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
    else
      return __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
#endif
  }
  static SEMICONV_FN Whole upper(Whole a, Whole b) {
#if defined(__AVX2__)
    if constexpr (size == 2) return __builtin_shufflevector(a, b, 1, 5, 3, 7);
    else if constexpr (size == 4) return __builtin_shufflevector(a, b, 2, 10, 3, 11, 6, 14, 7, 15);
    else if constexpr (size == 8)
      return __builtin_shufflevector(a, b, 4, 20, 5, 21, 6, 22, 7, 23, 12, 28, 13, 29, 14, 30, 15, 31);
    else
      return __builtin_shufflevector(a, b, 8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47,
                                     24, 56, 25, 57, 26, 58, 27, 59, 28, 60, 29, 61, 30, 62, 31, 63);
#else
    if constexpr (size == 2) return __builtin_shufflevector(a, b, 1, 3);
    else if constexpr (size == 4) return __builtin_shufflevector(a, b, 2, 6, 3, 7);
    else if constexpr (size == 8) return __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
    else
      return __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
#endif
  }

  // size * halves rows; of their first WANTED columns, `count` are stored. Loads read whole registers. So many
  // rows far apart are more streams than processors follow by themselves: each one's next lines are fetched
  // ahead, which saves a fifth to a half of the time where a batch is transposed.
  template <int WANTED>
  static SEMICONV_FN void copy(W* dst, int64 dst_step, const W* src, int64 src_step, int64 count) {
    Whole v[size];
#pragma GCC unroll 16
    for (int r = 0; r < size; ++r) v[r] = row_at(src + r * src_step, size * src_step);
    if (src_step * (int64)sizeof(W) >= 64)  // not phases of one row, which share their lines
#pragma GCC unroll 32
      for (int r = 0; r < size * halves; ++r) __builtin_prefetch(src + r * src_step + ahead);
    transpose<WANTED>(v);
#pragma GCC unroll 16
    for (int r = 0; r < WANTED; ++r)
      if (r < count) __builtin_memcpy(dst + r * dst_step, &v[r], sizeof(Whole));
  }
  // Rows become columns, of which the first WANTED ones are there afterwards.
  template <int WANTED> static SEMICONV_FN void transpose(Whole* v) {
    Whole u[size];
#pragma GCC unroll 4
    for (int rows = size; rows > WANTED; rows /= 2) {
#pragma GCC unroll 16
      for (int r = 0; r < rows / 2; ++r) v[r] = lower(v[r], v[r + rows / 2]);
    }
#pragma GCC unroll 4
    for (int round = 1; round < WANTED; round *= 2) {
#pragma GCC unroll 16
      for (int r = 0; r < WANTED / 2; ++r) {
        u[2 * r] = lower(v[r], v[r + WANTED / 2]);
        u[2 * r + 1] = upper(v[r], v[r + WANTED / 2]);
      }
#pragma GCC unroll 16
      for (int r = 0; r < WANTED; ++r) v[r] = u[r];
    }
  }
};

// The columns j .. j + count - 1 of n rows, in blocks; the last one overlaps the one before it.
template <int WANTED, class W>
__attribute__((noinline)) void copy_columns(W* dst, int64 dst_step, const W* src, int64 src_step, int64 n,
                                            int64 count) {
  constexpr int rows = Block<W>::size * halves;
  for (int64 i = 0; i < n; i += rows) {
    const int64 at = smaller_of(i, n - rows);
    Block<W>::template copy<WANTED>(dst + at, dst_step, src + at * src_step, src_step, count);
  }
}
#endif

// The same for n < size * halves rows. Where they lie next to each other in the destination (dst_step == n), a
// column is stored as a whole register, and the next columns overwrite what is too much; elsewhere, and where
// there is no room behind the last columns, in pieces. Returns how many columns are done: a row is read by whole
// registers, up to `readable` columns.
#if defined(SEMICONV_BLOCKS)
template <class W>
__attribute__((noinline)) int64 copy_short(W* dst, int64 dst_step, const W* src, int64 src_step, int64 n, int64 m,
                                           int64 readable) {
  using B = Block<W>;
  constexpr int size = B::size, wanted = size < 4 ? size : 4;
  int64 j = 0;
  for (; j < m && j + size <= readable; j += wanted) {
    typename B::Whole v[size];
#pragma GCC unroll 16
    for (int r = 0; r < size; ++r) {
      const int64 low = smaller_of((int64)r, n - 1), high = smaller_of((int64)(r + size), n - 1);
      v[r] = B::row_at(src + low * src_step + j, (high - low) * src_step);
    }
    B::template transpose<wanted>(v);
    const int64 columns = smaller_of((int64)wanted, m - j);
    const bool whole = dst_step == n && (m - j - wanted) * n + n >= size * halves && columns == wanted;
#pragma GCC unroll 4
    for (int r = 0; r < wanted; ++r) {
      if (whole) __builtin_memcpy(dst + (j + r) * n, &v[r], sizeof(v[r]));
      else if (r < columns) store_first(dst + (j + r) * dst_step, v[r], n * (int64)sizeof(W));
    }
  }
  return smaller_of(j, m);
}
#endif

// The copy above. The source's array may be read up to `end`.
template <class T>
inline void copy_transposed(T* to, int64 dst_step, const T* from, int64 src_step, int64 n, int64 m,
                            const T* from_end) {
  using W = typename Word<(int)sizeof(T)>::type;
  const auto plainly = [&](int64 first, int64 j, int64 columns) {
    for (int64 i = first; i < n; ++i)
      for (int64 k = j; k < j + columns; ++k) to[k * dst_step + i] = from[i * src_step + k];
  };
#if defined(SEMICONV_BLOCKS)
  W* const dst = (W*)to;
  const W* const src = (const W*)from;
  constexpr int size = Block<W>::size, rows = size * halves, narrow = size < 4 ? size : 4;
  int64 done = 0;
  if (n > 1 && n < rows && src_step > 0)
    done = copy_short(dst, dst_step, src, src_step, n, m, from_end - from - (n - 1) * src_step);
  for (int64 j = done; j < m; j += size) {
    const int64 columns = smaller_of((int64)size, m - j), last = from_end - from - j - size;  // of a row
    int64 safe = last < 0 ? 0 : n;
    if (src_step > 0 && last >= 0) safe = smaller_of(n, last / src_step + 1);
    if (safe < rows || columns == 1) safe = 0;
    else if (columns <= narrow) copy_columns<narrow>(dst + j * dst_step, dst_step, src + j, src_step, safe, columns);
    else copy_columns<size>(dst + j * dst_step, dst_step, src + j, src_step, safe, columns);
    plainly(safe, j, columns);
  }
#else
  (void)from_end;
  plainly(0, 0, m);
#endif
}

}  // namespace semiconv
