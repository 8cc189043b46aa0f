// Arithmetic of integers: exact and saturating, never wrapping.
#pragma once
#include "limits.cuh"

namespace semiconv {

template <class V> using Unsigned = typename Limits<V>::Unsigned;
template <class V> using Wide = typename Limits<V>::Wide;

template <class V> SEMICONV_FN Wide<V> widen(V a) { return (Wide<V>)a; }
template <class V> SEMICONV_FN V narrow(Wide<V> a) {
  const Wide<V> low = (Wide<V>)Limits<V>::lowest, high = (Wide<V>)Limits<V>::highest;
  return (V)(a < low ? low : a > high ? high : a);
}
template <class V> SEMICONV_FN V saturating_add(V a, V b) {
  const V sum = (V)((Unsigned<V>)a + (Unsigned<V>)b);
  if (Limits<V>::lowest == 0) return sum < a ? Limits<V>::highest : sum;
  const V overflow = (V)((a ^ sum) & (b ^ sum));
  return overflow < 0 ? (a < 0 ? Limits<V>::lowest : Limits<V>::highest) : sum;
}
template <class V> SEMICONV_FN V saturating_subtract(V a, V b) {
  const V difference = (V)((Unsigned<V>)a - (Unsigned<V>)b);
  if (Limits<V>::lowest == 0) return a < b ? (V)0 : difference;
  const V overflow = (V)((a ^ b) & (a ^ difference));
  return overflow < 0 ? (a < 0 ? Limits<V>::lowest : Limits<V>::highest) : difference;
}
template <class V> SEMICONV_FN V saturating_multiply(V a, V b) { return narrow<V>(widen(a) * widen(b)); }
template <> SEMICONV_FN uint32 saturating_multiply(uint32 a, uint32 b) {
  const uint64 product = (uint64)a * b;
  return product > Limits<uint32>::highest ? Limits<uint32>::highest : (uint32)product;
}
template <> SEMICONV_FN uint64 saturating_multiply(uint64 a, uint64 b) {
  return a != 0 && b > Limits<uint64>::highest / a ? Limits<uint64>::highest : a * b;
}

}  // namespace semiconv
