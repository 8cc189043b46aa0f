// Columns of doubles or floats to lines and back, a register of columns at a time.
//
//     line[c][i] = row[i * apart + c]
//
// Rows far apart share a set of the cache, so each is read or written once, as a whole register: squares of as
// many rows as a register has lanes are transposed in registers. Each round interleaves the first half of the
// registers with the second one (see transpose.hpp).
#pragma once
#include "simd.hpp"

namespace semiconv {

using Doubles = VectorOf<double>;
typedef float HalfOfFloats __attribute__((vector_size(register_bytes / 2)));
constexpr int double_lanes = lanes_of<double>;

// The lower (upper) halves of a and b in turns.
template <class V> SEMICONV_FN V lower_halves(V a, V b) {
  constexpr int n = sizeof(V) / sizeof(a[0]);
  if constexpr (n == 16)
    return __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  else if constexpr (n == 8) return __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
  else if constexpr (n == 4) return __builtin_shufflevector(a, b, 0, 4, 1, 5);
  else return V{a[0], b[0]};
}
template <class V> SEMICONV_FN V upper_halves(V a, V b) {
  constexpr int n = sizeof(V) / sizeof(a[0]);
  if constexpr (n == 16)
    return __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
  else if constexpr (n == 8) return __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
  else if constexpr (n == 4) return __builtin_shufflevector(a, b, 2, 6, 3, 7);
  else return V{a[1], b[1]};
}
template <class V> SEMICONV_FN void transpose_square(V* v) {
  constexpr int n = sizeof(V) / sizeof(v[0][0]);
  V u[n];
#pragma GCC unroll 4
  for (int round = 1; round < n; round *= 2) {
#pragma GCC unroll 16
    for (int r = 0; r < n / 2; ++r) {
      u[2 * r] = lower_halves(v[r], v[r + n / 2]);
      u[2 * r + 1] = upper_halves(v[r], v[r + n / 2]);
    }
#pragma GCC unroll 16
    for (int r = 0; r < n; ++r) v[r] = u[r];
  }
}

// A store past the caches, of a register that lies within a line: what is overwritten is not read before.
SEMICONV_FN void store_past_caches(double* to, Doubles v) {
#if defined(__clang__)
  __builtin_nontemporal_store(v, (Doubles*)to);
#elif defined(__AVX512F__)
  __builtin_ia32_movntpd512(to, v);
#elif defined(__AVX__)
  __builtin_ia32_movntpd256(to, v);
#else
  store_vector(to, v);
#endif
}
// Such stores are seen by other threads before whatever this thread writes next.
SEMICONV_FN void finish_stores() {
#if defined(__x86_64__)
  __builtin_ia32_sfence();
#endif
}

// The elements of `count` columns, at most as many as `lines` are there, into lines that are `pitch` apart.
template <class T>
void load_columns(T* lines, int64 pitch, const T* rows, int64 apart, int64 size, int64 count) {
  using V = VectorOf<T>;
  constexpr int n = lanes_of<T>;
  int64 i = 0;
  const int64 whole = count / n * n;
  for (; i + n <= size; i += n)
    for (int64 c = 0; c < whole; c += n) {
      V v[n];
#pragma GCC unroll 16
      for (int r = 0; r < n; ++r) v[r] = load_vector<V>(rows + (i + r) * apart + c);
      transpose_square(v);
#pragma GCC unroll 16
      for (int r = 0; r < n; ++r) store_vector(lines + (c + r) * pitch + i, v[r]);
    }
  for (int64 k = 0; k < size; ++k)
    for (int64 c = k < i ? whole : 0; c < count; ++c) lines[c * pitch + k] = rows[k * apart + c];
}
// Back: put(i, c, register) of the columns c, c + 1, ... of a row, and put_one(i, c, number) of what is left.
template <class T, class Put, class PutOne>
SEMICONV_FN void for_rows(const T* lines, int64 pitch, int64 size, int64 count, const Put& put,
                          const PutOne& put_one) {
  using V = VectorOf<T>;
  constexpr int n = lanes_of<T>;
  int64 i = 0;
  const int64 whole = count / n * n;
  for (; i + n <= size; i += n)
    for (int64 c = 0; c < whole; c += n) {
      V v[n];
#pragma GCC unroll 16
      for (int r = 0; r < n; ++r) v[r] = load_vector<V>(lines + (c + r) * pitch + i);
      transpose_square(v);
#pragma GCC unroll 16
      for (int r = 0; r < n; ++r) put(i + r, c, v[r]);
    }
  for (int64 k = 0; k < size; ++k)
    for (int64 c = k < i ? whole : 0; c < count; ++c) put_one(k, c, lines[c * pitch + k]);
}
template <class T>
void store_columns(T* rows, int64 apart, const T* lines, int64 pitch, int64 size, int64 count) {
  for_rows(
      lines, pitch, size, count,
      [=](int64 i, int64 c, VectorOf<T> v) { store_vector(rows + i * apart + c, v); },
      [=](int64 i, int64 c, T one) { rows[i * apart + c] = one; });
}
// The same past the caches. Rows begin with whole registers (`fits_registers`).
inline bool fits_registers(const double* rows, int64 apart) {
  return (size_t)rows % sizeof(Doubles) == 0 && apart % double_lanes == 0;
}
inline void stream_columns(double* rows, int64 apart, const double* lines, int64 pitch, int64 size, int64 count) {
  for_rows(
      lines, pitch, size, count,
      [=](int64 i, int64 c, Doubles v) { store_past_caches(rows + i * apart + c, v); },
      [=](int64 i, int64 c, double one) { rows[i * apart + c] = one; });
  finish_stores();
}
// The same, of the square roots of floats.
SEMICONV_FN Doubles roots(Doubles v) {
#if defined(__AVX512F__) && !defined(__clang__)
  return __builtin_ia32_sqrtpd512_mask(v, v, (unsigned char)-1, 4);
#elif defined(__AVX__) && !defined(__AVX512F__) && !defined(__clang__)
  return __builtin_ia32_sqrtpd256(v);
#else
#pragma GCC unroll 8
  for (int i = 0; i < double_lanes; ++i) v[i] = __builtin_sqrt(v[i]);
  return v;
#endif
}
inline void stream_roots(double* rows, int64 apart, const float* lines, int64 pitch, int64 size, int64 count) {
  for_rows(
      lines, pitch, size, count,
      [=](int64 i, int64 c, VectorOf<float> v) {
        HalfOfFloats halves[2];
        __builtin_memcpy(halves, &v, sizeof(v));
#pragma GCC unroll 2
        for (int h = 0; h < 2; ++h)
          store_past_caches(rows + i * apart + c + h * double_lanes,
                            roots(__builtin_convertvector(halves[h], Doubles)));
      },
      [=](int64 i, int64 c, float one) { rows[i * apart + c] = ::sqrt((double)one); });
  finish_stores();
}

}  // namespace semiconv
