// The numbers that the tiled forward pass computes with, and how they become results.
//
// This file decides all values; forward_tiled.cu decides the order of work only, winners.cuh which tap won.
//
// Needs the semifield's macros and SEMICONV_STORAGE; SEMICONV_RESIDUAL as in forward.cu.
//
//   Storage  --Packed<Value>::from-->  Number  --pack-->  Value  --Chosen-->  Number  --result_of-->  Storage
//   in memory                          one number         one register        a window's              in memory
#pragma once
#include "../accumulators.cuh"
#include "packed_pairs.cuh"

namespace semiconv {

// Whether a residual is written that is the index of the winning tap.
#if defined(SEMICONV_RESIDUAL) && defined(SEMICONV_PROVENANCE)
constexpr bool provenance = true;
#else
constexpr bool provenance = false;
#endif

#if defined(SEMICONV_INTEGER)
constexpr bool integer = true;
#else
constexpr bool integer = false;
#endif

// Whether no number stands for a position outside the image.
#if defined(SEMICONV_INTEGER) || defined(SEMICONV_TEST_BORDER)
constexpr bool tests_border = true;
#else
constexpr bool tests_border = false;
#endif

// Whether the multiplication adds something to img, and what; on integers it saturates besides.
#if defined(SEMICONV_PLAIN_TIMES)
constexpr bool adds = true;
template <class V> constexpr SEMICONV_FN V addend(V krn) { return SEMICONV_PLAIN_TIMES; }
#else
constexpr bool adds = false;
template <class V> constexpr SEMICONV_FN V addend(V krn) { return krn; }
#endif

// ---- the type of a register ----------------------------------------------------------------------

// Extrema of sums of short integers are computed on wider integers, which hold every sum. As saturation
// is monotonic, it may follow the extremum: on sm_90 that makes one instruction for a term, of bytes one
// for two terms. Extrema of sums of halves are computed in pairs too.
#if defined(SEMICONV_SELECT)
constexpr bool extrema_of_sums = adds && plain_extremum;
#else
constexpr bool extrema_of_sums = false;
#endif
#if defined(SEMICONV_RESIDUAL)
constexpr bool paired = false;
#else
constexpr bool paired = extrema_of_sums && ComputedInPairs<Storage>::value;
#endif
constexpr bool short_sums = extrema_of_sums && integer && sizeof(Storage) <= 2;

template <bool SHORT_SUMS, bool PAIRED> struct ValueOf { using type = Real; };
template <> struct ValueOf<true, false> { using type = WideInteger; };
template <> struct ValueOf<true, true> { using type = PairOfIntegers; };
template <> struct ValueOf<false, true> { using type = PairOfHalves<Storage>; };
using Value = ValueOf<short_sums, paired>::type;
using Number = Packed<Value>::Number;
constexpr int lanes = Packed<Value>::count;  // numbers of a Value

template <class V, class N> SEMICONV_FN V in_all_lanes(N number) { return Packed<V>::pack(number, number); }
template <> SEMICONV_FN WideInteger semifield_zero(const Setting& setting) {
  return in_all_lanes<WideInteger>((int32)semifield_zero<Real>(setting));
}
template <> SEMICONV_FN PairOfIntegers semifield_zero(const Setting& setting) {
  return in_all_lanes<PairOfIntegers>((int32)semifield_zero<Real>(setting));
}
template <> SEMICONV_FN PairOfHalves<float16> semifield_zero(const Setting& setting) {
  return in_all_lanes<PairOfHalves<float16>>(Store<float16>::from(semifield_zero<float>(setting)));
}
template <> SEMICONV_FN PairOfHalves<bfloat16> semifield_zero(const Setting& setting) {
  return in_all_lanes<PairOfHalves<bfloat16>>(Store<bfloat16>::from(semifield_zero<float>(setting)));
}

// The accumulator of one Value: of values alone, or with a residual.
#if defined(SEMICONV_RESIDUAL)
using Chosen = WithResidual<Value, int32>;
#else
using Chosen = Accumulator<Value>;
#endif

#if defined(SEMICONV_SELECT)
SEMICONV_FN Value extremum(Value a, Value b, const Setting& setting) { return select(a, b, setting); }
#else
SEMICONV_FN Value extremum(Value a, Value, const Setting&) { return a; }
#endif

// ---- terms ---------------------------------------------------------------------------------------

// A weight as terms take it: what is added to img, where that is all that the multiplication does.
template <class N = Number> SEMICONV_FN N weight_number(Storage stored) {
  if constexpr (short_sums) return addend((N)load(stored));
  else if constexpr (paired) return store(addend(load(stored)));
  else return (N)load(stored);
}
// img (x) krn, of the weight's number or of a stored weight; PLAIN: nothing overflows.
template <bool PLAIN, class V, class W> SEMICONV_FN V term_of(V img, W krn, const Setting& setting) {
  if constexpr (short_sums || paired) return img + krn;
  else if constexpr (PLAIN) return img + addend((V)load(krn));
  else return times(img, (V)load(krn), setting);
}

// ---- positions outside the image, saturation -----------------------------------------------------

#if defined(SEMICONV_SELECT_GREATER)
constexpr bool upwards = true;
#else
constexpr bool upwards = false;
#endif
// In short sums, a position outside the image is a number so far off that no term with it is selected.
template <class N> SEMICONV_FN N outside() {
  constexpr int bits = short_sums ? 8 * (int)sizeof(Storage) : 0;  // what is left out is compiled, too
  if constexpr (short_sums) return (upwards ? -4 : 4) * (1 << bits);
  else return N{};
}

// Saturates an extremum of short sums. The semifield's zero is one of its terms, so that only the limit
// on the other side has to be looked at.
template <class N, class R = Real> SEMICONV_FN N saturated(N number) {
  if constexpr (!short_sums) return number;
  else if constexpr (upwards) return minimum(number, (N)Limits<R>::highest);
  else return maximum(number, (N)Limits<R>::lowest);
}
// The same of a Value of one lane.
template <class V> SEMICONV_FN V saturated_value(V value) {
  return in_all_lanes<V>(saturated(Packed<V>::number(value, 0)));
}
template <class N> SEMICONV_FN Storage result_of(N number) { return store(saturated(number)); }
template <> SEMICONV_FN Storage result_of(Storage number) { return number; }

// A sum of two longer integers leaves the range only if one of them is in the outer half of the range.
template <class V> constexpr SEMICONV_FN bool may_overflow() {
  if constexpr (!Limits<V>::integer || short_sums) return false;
  else return adds && (Limits<V>::lowest < 0 || addend(1) > 0);  // unsigned: 0 - 1 overflows at once
}
template <class V> SEMICONV_FN bool is_small(V number) {
  return number >= Limits<V>::lowest / 2 && number <= Limits<V>::highest / 2;
}
// Whether terms are plain sums where all numbers of a slab are small.
constexpr bool plain = short_sums || may_overflow<Real>();

}  // namespace semiconv
