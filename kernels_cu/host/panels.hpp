// Panels: parts of an operand of a matrix product, copied in the order in which they are read.
//
// An operand's numbers lie anywhere: its own index (rows of the image, columns of the kernel) and the
// contracted one count through levels of any strides (product.cuh). A panel holds `width` neighbours of the
// own index for each term, converted to Real:
//
//     operand, terms along the rows        panels of width 2
//       a0 a1 a2 a3                          a0 b0  a1 b1  a2 b2  a3 b3
//       b0 b1 b2 b3                          c0 d0  c1 d1  c2 d2  c3 d3
//       c0 c1 c2 c3
//       d0 d1 d2 d3
#pragma once
#include "simd.hpp"
#include "product.cuh"

namespace semiconv {

// Which array's strides of a level: &Level::img, &Level::krn or &Level::out.
using Stride = int64 Level::*;

// An index that counts through levels, none of which is empty, and the offset in one array that belongs to it.
class Walk {
  const Level* levels;
  int64 count, index[2 * max_levels];
  Stride stride;

 public:
  int64 offset = 0;

  Walk(const Level* levels_, int64 count_, Stride stride_, int64 start)
      : levels(levels_), count(count_), stride(stride_) {
    for (int64 l = count - 1; l >= 0; --l) {
      index[l] = start % levels[l].size;
      start /= levels[l].size;
      offset += index[l] * step(l);
    }
  }
  // From here to the end of the innermost level: how many indices, and how far apart they are.
  int64 run() const { return count ? levels[count - 1].size - index[count - 1] : 1; }
  int64 pitch() const { return count ? step(count - 1) : 0; }
  void skip(int64 indices) {  // at most run()
    int64 l = count - 1;
    if (l < 0) return;
    index[l] += indices;
    offset += indices * step(l);
    for (; l > 0 && index[l] == levels[l].size; --l) {
      offset += step(l - 1) - index[l] * step(l);
      index[l] = 0;
      ++index[l - 1];
    }
  }

 private:
  int64 step(int64 level) const { return levels[level].*stride; }
};

// One operand of a product, img or krn, of numbers of type T.
template <class T> struct Operand {
  const T* data;  // at index 0 of all levels
  const Level *shared, *own, *terms;
  int64 shared_levels, own_levels, term_levels;
  Stride stride;
};

// ---- transposing by blocks in registers ----------------------------------------------------------

// 16 bytes, which every machine can interleave in one instruction: a block has `side` x `side` numbers.
template <class T> struct QuarterType {
  typedef T type __attribute__((vector_size(16)));
};
using Quarter = QuarterType<Real>::type;
constexpr int side = 16 / (int)sizeof(Real);

// a0 b0 a1 b1 ... of the first half of a and b, or of the second: lane i is the result's, N and I count them.
#if defined(__clang__)
template <bool SECOND, int N, int... I> SEMICONV_FN Quarter interleave_lanes(Quarter a, Quarter b) {
  if constexpr (N == 0) return __builtin_shufflevector(a, b, I...);
  else {
    constexpr int i = N - 1;
    return interleave_lanes<SECOND, i, i / 2 + (SECOND ? side / 2 : 0) + (i % 2) * side, I...>(a, b);
  }
}
template <bool SECOND> SEMICONV_FN Quarter interleave(Quarter a, Quarter b) {
  return interleave_lanes<SECOND, side>(a, b);
}
#else
template <bool SECOND> SEMICONV_FN Quarter interleave(Quarter a, Quarter b) {
  typedef QuarterType<SignedOf<Real>::type>::type Order;
  Order order;
#pragma GCC unroll 16
  for (int i = 0; i < side; ++i) order[i] = i / 2 + (SECOND ? side / 2 : 0) + (i % 2) * side;
  return __builtin_shuffle(a, b, order);
}
#endif

// Rows become columns: each step interleaves row i with row i + side / 2, so that after log2(side) steps
// number j of row i is number i of row j.
template <int STEPS = side> SEMICONV_FN void transpose(Quarter* rows) {
  if constexpr (STEPS > 1) {
    Quarter next[side];
#pragma GCC unroll 16
    for (int i = 0; i < side / 2; ++i) {
      next[2 * i] = interleave<false>(rows[i], rows[i + side / 2]);
      next[2 * i + 1] = interleave<true>(rows[i], rows[i + side / 2]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < side; ++i) rows[i] = next[i];
    transpose<STEPS / 2>(rows);
  }
}

// Copy `count` rows of `terms` contiguous numbers, `pitch` apart, as columns: to[t * width + i]. BACKWARDS:
// neighbouring terms lie before each other in memory. Behind the last row it repeats that. Groups of rows
// are copied from the last to the first, and each writes whole blocks: what it writes behind its place, the
// next term or group overwrites. `to` has room for one block more.
template <bool BACKWARDS, class T>
SEMICONV_FN void copy_columns(const T* from, int64 pitch, int64 count, int64 terms, Real* to, int64 width) {
  constexpr bool converts = !Same<T, Real>::value;
  constexpr int64 some = converts ? 64 : (int64)1 << 40;  // terms at a time
  alignas(16) Real converted[converts ? side * some : 1];
  for (int64 i = (count - 1) / side * side; i >= 0; i -= side) {
    for (int64 first = 0; first < terms; first += some) {
      const int64 length = smaller_of(some, terms - first);
      const Real* row[side];  // in the order of memory
      for (int r = 0; r < side; ++r) {
        const T* const source =
            from + smaller_of(i + r, count - 1) * pitch + (BACKWARDS ? 1 - first - length : first);
        if constexpr (converts) {
          row[r] = converted + r * some;
          for (int64 t = 0; t < length; ++t) converted[r * some + t] = load(source[t]);
        } else {
          row[r] = source;
        }
      }
      Real* column = to + first * width + i;
      int64 t = 0;
      for (; t + side <= length; t += side, column += side * width) {
        Quarter block[side];
#pragma GCC unroll 16
        for (int r = 0; r < side; ++r)
          block[r] = load_vector<Quarter>(row[r] + (BACKWARDS ? length - side - t : t));
        transpose(block);
#pragma GCC unroll 16
        for (int r = 0; r < side; ++r) store_vector(column + r * width, block[BACKWARDS ? side - 1 - r : r]);
      }
      for (; t < length; ++t, column += width)
        for (int r = 0; r < side; ++r) column[r] = row[r][BACKWARDS ? length - 1 - t : t];
    }
  }
}

// ---- panels --------------------------------------------------------------------------------------

// Copy WIDTH contiguous neighbours of each of `terms` terms.
template <int WIDTH, class T>
SEMICONV_FN void copy_neighbours(const T* from, int64 term_pitch, int64 terms, Real* to) {
  for (int64 t = 0; t < terms; ++t, from += term_pitch, to += WIDTH) {
    Real numbers[WIDTH];  // so that they are moved by vectors: `to` could overlap `from`
    for (int i = 0; i < WIDTH; ++i) numbers[i] = load(from[i]);
    __builtin_memcpy(to, numbers, sizeof(numbers));
  }
}
// The same for the widths of panels: one or two registers, or the rows of a register block. False: another one.
template <class T>
SEMICONV_FN bool copy_neighbours(const T* from, int64 term_pitch, int64 terms, Real* to, int64 width) {
  if (width == 2 * lanes) copy_neighbours<2 * lanes>(from, term_pitch, terms, to);
  else if (width == lanes) copy_neighbours<lanes>(from, term_pitch, terms, to);
  else if (width == 6) copy_neighbours<6>(from, term_pitch, terms, to);
  else if (width == 3) copy_neighbours<3>(from, term_pitch, terms, to);
  else if (width == 12) copy_neighbours<12>(from, term_pitch, terms, to);
  else return false;
  return true;
}

// Copy a rectangle of an operand: `count` neighbours, `pitch` apart, of each of `terms` terms, to a panel.
template <class T>
SEMICONV_FN void copy_rectangle(const T* from, int64 pitch, int64 count, int64 term_pitch, int64 terms, Real* to,
                                int64 width) {
  if (pitch == 1 && count == width && copy_neighbours(from, term_pitch, terms, to, width)) return;
  for (int64 t = 0; t < terms; ++t, from += term_pitch, to += width)
    for (int64 i = 0; i < count; ++i) to[i] = load(from[i * pitch]);
}

// The panel of `count` <= `width` neighbours from `first` on, terms first_term .. + terms - 1. Behind `count`
// it repeats the last one: numbers of which any formula has a value. `to` has room for 16 bytes more.
template <class T>
__attribute__((noinline)) void fill_panel(const Operand<T>& x, int64 first, int64 count, int64 first_term,
                                          int64 terms, Real* to, int64 width) {
  if (terms == 0) return;
  Walk own(x.own, x.own_levels, x.stride, first);
  const bool one_run = own.run() >= count;
  for (int64 i = 0; i < count;) {
    const int64 some = smaller_of(own.run(), count - i);
    Walk term(x.terms, x.term_levels, x.stride, first_term);
    for (int64 t = 0; t < terms;) {
      const int64 few = smaller_of(term.run(), terms - t);
      const T* const from = x.data + own.offset + term.offset;
      const bool columns = one_run && own.pitch() != 1;
      if (columns && term.pitch() == 1)
        copy_columns<false>(from, own.pitch(), some, few, to + t * width, width);
      else if (columns && term.pitch() == -1)
        copy_columns<true>(from, own.pitch(), some, few, to + t * width, width);
      else
        copy_rectangle(from, own.pitch(), some, term.pitch(), few, to + t * width + i, width);
      term.skip(few);
      t += few;
    }
    own.skip(some);
    i += some;
  }
  if (count < width)
    for (int64 t = 0; t < terms; ++t, to += width)
      for (int64 i = count; i < width; ++i) to[i] = to[count - 1];
}

// The panels of `count` neighbours, of which each has room for `room` terms.
template <class T>
inline void fill_panels(const Operand<T>& x, int64 first, int64 count, int64 first_term, int64 terms, Real* to,
                        int64 width, int64 room) {
  int64 done = 0;
  const Walk own(x.own, x.own_levels, x.stride, first);
  if (own.pitch() == 1 && own.run() >= count && terms) {  // along rows, which lie in memory as they are read
    done = count / width * width;
    Walk term(x.terms, x.term_levels, x.stride, first_term);
    for (int64 t = 0; t < terms; ++t, term.skip(1))
      for (int64 c = 0; c < done; c += width)
        copy_rectangle(x.data + own.offset + term.offset + c, 1, width, 0, 1, to + c * room + t * width, width);
  }
  for (int64 c = done; c < count; c += width)
    fill_panel(x, first + c, smaller_of(width, count - c), first_term, terms, to + c * room, width);
}

}  // namespace semiconv
