// root and log as the linear field in disguise: x -> E(x) turns their addition and multiplication
// into + and *, so that a window's value comes from an ordinary sum S of products E(img) E(krn).
//
// Needs SEMICONV_LOG or SEMICONV_ROOT. E is relative to a shift, about the extreme number of what is
// transformed (root: E = (x / shift)^p, log: E = e^(mu (x - shift))), hence lies in [0, 1], and the
// semifield's zero becomes 0. Terms may vanish in the products; S itself tells whether that can
// matter (Proof), and whoever computes S computes a window's value directly where it can. E of what
// the semifield's set does not hold, and of the infinity that is not the zero, is not finite, which
// S tells too.
#pragma once
#include "accumulators.cuh"

namespace semiconv {

// ---- error-free transformations (Dekker 1971; Ogita, Rump, Oishi 2005) --------------------------

// high + low, unevaluated.
template <class V> struct DoubleWord {
  V high, low;
};
template <class V> SEMICONV_FN DoubleWord<V> two_sum(V a, V b) {
  const V sum = a + b, shadow = sum - a;
  return {sum, (a - (sum - shadow)) + (b - shadow)};
}
template <class V> SEMICONV_FN DoubleWord<V> two_product(V a, V b) {
  const V high = rounded_product(a, b);
  const V a_high = upper_bits(a), b_high = upper_bits(b), a_low = a - a_high, b_low = b - b_high;
  return {high, ((a_high * b_high - high) + a_high * b_low + a_low * b_high) + a_low * b_low};
}

// ---- the transformation -------------------------------------------------------------------------

template <class V> struct BySums {
#if defined(SEMICONV_LOG)
  static constexpr bool upwards = SEMICONV_PARAMETER > 0, own_derivative = true;
#else
  static constexpr double p = SEMICONV_PARAMETER;
  static constexpr bool upwards = p > 0, own_derivative = false;
  static constexpr double order = upwards ? p : -p;
#endif
  static SEMICONV_FN V parameter() { return constant<V>(SEMICONV_PARAMETER); }

  // Whether v counts when the shift is chosen: neither the zero nor what has no finite E.
  static SEMICONV_FN auto counts(V v) {
#if defined(SEMICONV_LOG)
    return absolute(v) < infinity<V>();
#else
    return (v > constant<V>(0)) & (v < infinity<V>());
#endif
  }
  // Of numbers that count, the one with the larger E, and the one with the smaller.
  static SEMICONV_FN V larger(V a, V b) { return upwards ? select_greater(a, b) : select_less(a, b); }
  static SEMICONV_FN V smaller(V a, V b) { return upwards ? select_less(a, b) : select_greater(a, b); }
  // The shift for numbers whose extreme one this is. A power of two beside it makes no rounding errors;
  // that large a power of their quotient would waste the range of E.
  static SEMICONV_FN V shift_of(V extreme) {
#if defined(SEMICONV_ROOT)
    if constexpr (order <= 8) {
      V exponent;
      const V mantissa = mantissa_of(extreme, exponent), one = constant<V>(1);
      const V power = extreme / mantissa;
      if (upwards) return where(mantissa > one, V(2 * power), power);
      return where(mantissa < one, V(power / 2), power);
    }
#endif
    return extreme;
  }
  // The shift where nothing counts.
  static SEMICONV_FN V neutral() {
#if defined(SEMICONV_LOG)
    return constant<V>(0);
#else
    return constant<V>(1);
#endif
  }

  // E(v). Arguments of exponentials are kept in twice the precision: a rounded one, up to ln of the
  // smallest number, would cost its unit in the last place times that.
  static SEMICONV_FN V transform(V v, V shift) {
    const V zero = constant<V>(0);
#if defined(SEMICONV_LOG)
    const DoubleWord<V> apart = two_sum(v, V(-shift));
    DoubleWord<V> exponent = two_product(parameter(), apart.high);
    exponent.low = exponent.low + parameter() * apart.low;
    return where(exponent.high > zero, infinity<V>(), exponential(exponent));
#else
    return where(v < zero, zero / zero, raised<0>(ratio(v, shift)));
#endif
  }

  // The semifield's value of a window whose sum is S.
  static SEMICONV_FN V restore(V sum, V img_shift, V krn_shift) {
    const DoubleWord<V> quotient = log_over_parameter(sum);
#if defined(SEMICONV_LOG)
    const DoubleWord<V> shift = two_sum(img_shift, krn_shift), value = two_sum(shift.high, quotient.high);
    const V result = value.high + (value.low + shift.low + quotient.low);
#else
    const V result = (img_shift * krn_shift) * root(quotient);
#endif
    return where(sum == constant<V>(0), semifield_zero<V>(), result);
  }

  // The derivative of a window's value by one of its terms' factors is
  //   d_restore(S) d_transform(img) E(krn) krn_scale   by img, and with the roles exchanged by krn.
  static SEMICONV_FN V d_restore(V sum) {
#if defined(SEMICONV_LOG)
    return constant<V>(1) / sum;
#else
    return root(log_over_parameter(sum)) / sum;
#endif
  }
  static SEMICONV_FN V d_transform(V v, V shift, V transformed) {
#if defined(SEMICONV_LOG)
    return transformed;
#else
    return raised<upwards ? -1 : 1>(ratio(v, shift));
#endif
  }
  // All bits set where a sum of 0 has no slope.
  static constexpr SEMICONV_FN int flat_at_zero() {
#if defined(SEMICONV_LOG)
    return -1;
#else
    return p == 1 ? 0 : -1;
#endif
  }
  static SEMICONV_FN V scale(V shift) {
#if defined(SEMICONV_LOG)
    return constant<V>(1);
#else
    return shift;
#endif
  }

 private:
  // e^(high + low) of a nonpositive high.
  static SEMICONV_FN V exponential(DoubleWord<V> exponent) {
    const V zero = constant<V>(0);
    const V value = bounded_exp(minimum(exponent.high, zero));
    return where(value > zero, V(value + value * exponent.low), value);
  }
  // log a: its first part is exact.
  static SEMICONV_FN DoubleWord<V> log_parts(V a) {
    using L = Limits<Scalar<V>>;
    V exponent;
    const V log_m = log_of_mantissa(mantissa_of(a, exponent));
    return {exponent * constant<V>(L::ln2_high), log_m + exponent * constant<V>(L::ln2_low)};
  }
  static SEMICONV_FN DoubleWord<V> log_over_parameter(V sum) {
    const DoubleWord<V> logarithm = log_parts(sum);
    const V quotient = logarithm.high / parameter();
    const DoubleWord<V> back = two_product(quotient, parameter());
    return {quotient, (((logarithm.high - back.high) - back.low) + logarithm.low) / parameter()};
  }
#if defined(SEMICONV_ROOT)
  // What E(v) is the |p|-th power of.
  static SEMICONV_FN V ratio(V v, V shift) { return upwards ? v / shift : shift / v; }
  // ratio^(|p| + MORE)
  template <int MORE> static SEMICONV_FN V raised(V ratio) {
    constexpr double exponent = order + MORE;
    if constexpr (exponent < 17 && (int)exponent == exponent) {
      return power<(int)exponent>(ratio);
    } else {
      const DoubleWord<V> logarithm = log_parts(ratio);
      const DoubleWord<V> product = two_product(constant<V>(exponent), logarithm.high);
      DoubleWord<V> sum = two_sum(product.high, V(constant<V>(exponent) * logarithm.low));
      sum.low = sum.low + product.low;
      // 0 and infinity stay what they are, and so does NaN.
      return where((ratio > constant<V>(0)) & (ratio < infinity<V>()), exponential(sum), ratio);
    }
  }
  // S^(1/p), its logarithm given.
  static SEMICONV_FN V root(DoubleWord<V> logarithm) {
    const DoubleWord<V> exponent = two_sum(logarithm.high, logarithm.low);
    const V value = exp(exponent.high);
    return value + value * exponent.low;
  }
#endif
};

// ---- the proof -----------------------------------------------------------------------------------

// What is known of transformed numbers: their shift, and the smallest E that is not 0.
template <class V> struct Range {
  V shift, smallest;
  SEMICONV_FN Range(V extreme, V furthest)
      : shift(BySums<V>::shift_of(extreme)), smallest(BySums<V>::transform(furthest, shift)) {}
  Range() = default;
};

// A sum of nonnegative terms whose losses cannot matter is at least `least`, and finite. What a term
// can lose is less than the smallest normal number: a factor that vanished has one beside it that is
// at most 1. Nothing is lost where the smallest factors have a normal product; then 0 is proven too.
template <class V> struct Proof {
  V least;
  SEMICONV_FN Proof(const Range<V>& img, const Range<V>& krn, int64 taps) {
    using L = Limits<V>;
    constexpr V margin = 4;
    const V lost = L::smallest_normal * (V)taps;
    least = img.smallest * krn.smallest >= L::smallest_normal ? V(0) : margin * lost / (L::epsilon / 2);
#if defined(SEMICONV_LOG)
    const bool representable = absolute(img.shift + krn.shift) <= L::largest;
#else
    // With room for a sum's root on either side.
    const V scale = img.shift * krn.shift;
    const bool representable = img.shift >= L::smallest_normal && krn.shift >= L::smallest_normal &&
                               scale >= L::smallest_normal / L::epsilon &&
                               scale <= L::largest * L::epsilon;
#endif
    if (!representable) least = infinity<V>();
  }
  template <class W> SEMICONV_FN auto holds(W sum) const {
    return (sum >= constant<W>(least)) & (sum < infinity<W>());
  }
};

}  // namespace semiconv
