// Columns of doubles to lines and back, a register of columns at a time.
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
constexpr int double_lanes = lanes_of<double>;

// The lower (upper) halves of a and b in turns.
SEMICONV_FN Doubles lower_halves(Doubles a, Doubles b) {
#if defined(__AVX512F__)
  return __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
#elif defined(__AVX__)
  return __builtin_shufflevector(a, b, 0, 4, 1, 5);
#else
  return Doubles{a[0], b[0]};
#endif
}
SEMICONV_FN Doubles upper_halves(Doubles a, Doubles b) {
#if defined(__AVX512F__)
  return __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
#elif defined(__AVX__)
  return __builtin_shufflevector(a, b, 2, 6, 3, 7);
#else
  return Doubles{a[1], b[1]};
#endif
}
SEMICONV_FN void transpose_square(Doubles* v) {
  Doubles u[double_lanes];
#pragma GCC unroll 4
  for (int round = 1; round < double_lanes; round *= 2) {
#pragma GCC unroll 8
    for (int r = 0; r < double_lanes / 2; ++r) {
      u[2 * r] = lower_halves(v[r], v[r + double_lanes / 2]);
      u[2 * r + 1] = upper_halves(v[r], v[r + double_lanes / 2]);
    }
#pragma GCC unroll 8
    for (int r = 0; r < double_lanes; ++r) v[r] = u[r];
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
inline void load_columns(double* lines, int64 pitch, const double* rows, int64 apart, int64 size, int64 count) {
  int64 i = 0;
  const int64 whole = count / double_lanes * double_lanes;
  for (; i + double_lanes <= size; i += double_lanes)
    for (int64 c = 0; c < whole; c += double_lanes) {
      Doubles v[double_lanes];
#pragma GCC unroll 8
      for (int r = 0; r < double_lanes; ++r) v[r] = load_vector<Doubles>(rows + (i + r) * apart + c);
      transpose_square(v);
#pragma GCC unroll 8
      for (int r = 0; r < double_lanes; ++r) store_vector(lines + (c + r) * pitch + i, v[r]);
    }
  for (int64 k = 0; k < size; ++k)
    for (int64 c = k < i ? whole : 0; c < count; ++c) lines[c * pitch + k] = rows[k * apart + c];
}
// `streams`: past the caches, where rows allow it.
inline void store_columns(double* rows, int64 apart, const double* lines, int64 pitch, int64 size, int64 count,
                          bool streams = false) {
  int64 i = 0;
  const int64 whole = count / double_lanes * double_lanes;
  streams = streams && (size_t)rows % sizeof(Doubles) == 0 && apart % double_lanes == 0;
  for (; i + double_lanes <= size; i += double_lanes)
    for (int64 c = 0; c < whole; c += double_lanes) {
      Doubles v[double_lanes];
#pragma GCC unroll 8
      for (int r = 0; r < double_lanes; ++r) v[r] = load_vector<Doubles>(lines + (c + r) * pitch + i);
      transpose_square(v);
#pragma GCC unroll 8
      for (int r = 0; r < double_lanes; ++r) {
        double* const to = rows + (i + r) * apart + c;
        if (streams) store_past_caches(to, v[r]);
        else store_vector(to, v[r]);
      }
    }
  if (streams) finish_stores();
  for (int64 k = 0; k < size; ++k)
    for (int64 c = k < i ? whole : 0; c < count; ++c) rows[k * apart + c] = lines[c * pitch + k];
}

}  // namespace semiconv
