// Loads and stores of a register of which only the first lanes count.
#pragma once
#include "simd.hpp"

namespace semiconv {

// The first `count` elements of a vector, in the order of memory.
template <class V> SEMICONV_FN void store_first(void* to, const V& vector, int64 bytes) {
  char buffer[sizeof(V)];
  __builtin_memcpy(buffer, &vector, sizeof(V));
  char* at = (char*)to;
  const char* from = buffer;
#pragma GCC unroll 6
  for (int64 piece = sizeof(V) / 2; piece > 0; piece /= 2)
    if (bytes & piece) {
      __builtin_memcpy(at, from, piece);
      at += piece;
      from += piece;
    }
}

// The first `count` elements, `step` from each other, as Real, 0 behind them.
template <class S> SEMICONV_FN Vector load_lanes(const S* from, int count, int64 step) {
  if constexpr (Same<S, Real>::value)
    if (count == lanes && step == 1) return load_vector<Vector>(from);
  Real buffer[lanes] = {};
  for (int i = 0; i < count; ++i) buffer[i] = load(from[i * step]);
  return load_vector<Vector>(buffer);
}

// Not inlined: the conversion would be compiled for each register of each loop.
template <class S, class V>
__attribute__((noinline)) void store_converted(S* to, V values, int count, int64 step) {
  using T = typename VectorElement<V>::type;
  T buffer[sizeof(V) / sizeof(T)];
  store_vector(buffer, values);
  for (int i = 0; i < count; ++i) to[i * step] = Store<S>::from(buffer[i]);
}
// Store the first `count` lanes, `step` elements from each other.
template <class S, class V> SEMICONV_FN void store_lanes(S* to, V values, int count, int64 step) {
  using T = typename VectorElement<V>::type;
  constexpr int width = sizeof(V) / sizeof(T);
  if constexpr (Same<S, T>::value) {
    if (step == 1) {
      if (count == width) store_vector(to, values);
      else store_first(to, values, count * (int64)sizeof(T));
      return;
    }
    T buffer[width];
    store_vector(buffer, values);
    for (int i = 0; i < count; ++i) to[i * step] = buffer[i];
  } else {
    store_converted(to, values, count, step);
  }
}

}  // namespace semiconv
