// log and root by ordinary sums: the mathematics, for GPU and host.
//
// Needs SEMICONV_LOG or SEMICONV_ROOT. A function E turns the semifield's addition into + and its
// multiplication into *, so that the value of a window comes from an ordinary sum of products:
//
//     S = sum of E(img_k) E(krn_k) over taps k,   value = E^-1(S),    one multiply-add a term
//
//            E(x)                     shift of img or krn
//     log    e^(mu (x - shift))       the extreme number: the largest for mu > 0, the smallest for mu < 0
//     root   (x / shift)^p            a power of two beside the extreme number (|p| > 8: that number)
//
// Relative to its shift, E lies in [0, 1], and the semifield's zero becomes 0. What is far below the
// extreme underflows. S shows whether that can matter: every term loses less than the smallest normal
// number, so that an S far above the sum of these losses is right (Proof). Callers compute the other
// outputs directly, from the terms of their windows. E is infinite or NaN of numbers outside the
// semifield's set and of the infinity that is not the zero; then so is S, which proves nothing.
#pragma once
#include "accumulators.cuh"

namespace semiconv {

// ---- error-free transformations (Dekker 1971; Ogita, Rump, Oishi 2005) --------------------------

// A number in twice the precision: high + low, unevaluated.
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

// E and its inverse, with their derivatives, for one setting. S is called `sum`.
template <class V> class BySums {
  const Setting& s;

 public:
  explicit SEMICONV_FN BySums(const Setting& setting) : s(setting) {}
  SEMICONV_FN bool upwards() const { return s.upwards; }
#if defined(SEMICONV_LOG)
  static constexpr bool own_derivative = true;
  SEMICONV_FN V parameter() const { return spread<V>(s.mu); }
  SEMICONV_FN bool applies() const { return true; }
#else
  static constexpr bool own_derivative = false;
  SEMICONV_FN V parameter() const { return spread<V>(s.exponents[0]); }
  SEMICONV_FN double order() const { return s.upwards ? s.p : -s.p; }
  // Powers of -1 < p < 1 make something of numbers that lie too far from the extreme one.
  SEMICONV_FN bool applies() const { return order() >= 1; }
#endif

  // Whether v takes part in the choice of a shift: not the zero, and its E is finite.
  static SEMICONV_FN auto counts(V v) {
#if defined(SEMICONV_LOG)
    return absolute(v) < infinity<V>();
#else
    return (v > constant<V>(0)) & (v < infinity<V>());
#endif
  }
  // Of numbers that count, the one with the larger E, and the one with the smaller.
  SEMICONV_FN V larger(V a, V b) const { return s.upwards ? select_greater(a, b) : select_less(a, b); }
  SEMICONV_FN V smaller(V a, V b) const { return s.upwards ? select_less(a, b) : select_greater(a, b); }
  // The shift of numbers with this extreme. Dividing by a power of two is exact; with a large p the power
  // of the remaining quotient would waste the range of E.
  SEMICONV_FN V shift_of(V extreme) const {
#if defined(SEMICONV_ROOT)
    if (order() <= 8) {
      V exponent;
      const V mantissa = mantissa_of(extreme, exponent), one = constant<V>(1);
      const V power = extreme / mantissa;
      if (s.upwards) return where(mantissa > one, V(2 * power), power);
      return where(mantissa < one, V(power / 2), power);
    }
#endif
    return extreme;
  }
  // The shift where no number takes part.
  static SEMICONV_FN V neutral() {
#if defined(SEMICONV_LOG)
    return constant<V>(0);
#else
    return constant<V>(1);
#endif
  }

  // E(v). Arguments of exponentials are kept in twice the precision: a rounded one, up to ln of the
  // smallest number, would cost its unit in the last place times that.
  SEMICONV_FN V transform(V v, V shift) const {
    const V zero = constant<V>(0);
#if defined(SEMICONV_LOG)
    const DoubleWord<V> apart = two_sum(v, V(-shift));
    DoubleWord<V> exponent = two_product(parameter(), apart.high);
    exponent.low = exponent.low + parameter() * apart.low;
    return where(exponent.high > zero, infinity<V>(), exponential(exponent));
#else
    return where(v < zero, zero / zero, raised(ratio(v, shift), 0));
#endif
  }

  // E ln E of E = E(v): what the entropy of a window's weights needs (accumulators/with_slope.cuh). Since
  // E(img) E(krn) has the logarithm ln E(img) + ln E(krn), the terms' moments are sums of products, too:
  //     T = sum of E ln E over terms = sum of moment(img) E(krn) + E(img) moment(krn).
  SEMICONV_FN V moment(V v, V shift, V transformed) const {
#if defined(SEMICONV_LOG)
    const DoubleWord<V> apart = two_sum(v, V(-shift));
    const V logarithm = parameter() * apart.high + parameter() * apart.low;
#else
    const V logarithm = spread<V>((Scalar<V>)order()) * log(ratio(v, shift));
#endif
    return where(transformed > constant<V>(0), V(transformed * logarithm), transformed);
  }
  // The entropy of a window's weights, 0 of a window of zeros.
  static SEMICONV_FN V entropy(V sum, V moments) {
    const V none = constant<V>(0);
    return where(sum > none, V(log(sum) - moments / sum), none);
  }

  // The semifield's value of a window whose sum is S.
  SEMICONV_FN V restore(V sum, V img_shift, V krn_shift) const {
    const DoubleWord<V> quotient = log_over_parameter(sum);
#if defined(SEMICONV_LOG)
    const DoubleWord<V> shift = two_sum(img_shift, krn_shift), value = two_sum(shift.high, quotient.high);
    const V result = value.high + (value.low + shift.low + quotient.low);
#else
    const V result = (img_shift * krn_shift) * root(quotient);
#endif
    return where(sum == constant<V>(0), semifield_zero<V>(s), result);
  }

  // The derivative of a window's value by one factor of a term: by img
  //   d_restore(S) * d_transform(img) * E(krn) * scale(krn's shift),
  // by krn with the roles exchanged.
  SEMICONV_FN V d_restore(V sum) const {
#if defined(SEMICONV_LOG)
    return constant<V>(1) / sum;
#else
    return root(log_over_parameter(sum)) / sum;
#endif
  }
  SEMICONV_FN V d_transform(V v, V shift, V transformed) const {
#if defined(SEMICONV_LOG)
    return transformed;
#else
    return raised(ratio(v, shift), s.upwards ? -1 : 1);
#endif
  }
  // All bits set if the derivative at a sum of 0 is taken as 0.
  SEMICONV_FN int flat_at_zero() const {
#if defined(SEMICONV_LOG)
    return -1;
#else
    return s.kind == Setting::first ? 0 : -1;
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
  SEMICONV_FN DoubleWord<V> log_over_parameter(V sum) const {
    const DoubleWord<V> logarithm = log_parts(sum);
    const V quotient = logarithm.high / parameter();
    const DoubleWord<V> back = two_product(quotient, parameter());
    return {quotient, (((logarithm.high - back.high) - back.low) + logarithm.low) / parameter()};
  }
#if defined(SEMICONV_ROOT)
  // The number whose |p|-th power is E(v).
  SEMICONV_FN V ratio(V v, V shift) const { return s.upwards ? v / shift : shift / v; }
  // ratio^(|p| + more)
  SEMICONV_FN V raised(V ratio, int more) const {
    const int whole = (s.upwards ? s.power : -s.power) + more;
    if (s.power && whole < 17) return whole_power(ratio, whole);
    const V exponent = spread<V>((Scalar<V>)(order() + more));
    const DoubleWord<V> logarithm = log_parts(ratio);
    const DoubleWord<V> product = two_product(exponent, logarithm.high);
    DoubleWord<V> sum = two_sum(product.high, V(exponent * logarithm.low));
    sum.low = sum.low + product.low;
    // 0 and infinity stay what they are, and so does NaN.
    return where((ratio > constant<V>(0)) & (ratio < infinity<V>()), exponential(sum), ratio);
  }
  // S^(1/p), its logarithm given.
  static SEMICONV_FN V root(DoubleWord<V> logarithm) {
    const DoubleWord<V> exponent = two_sum(logarithm.high, logarithm.low);
    const V value = exp(exponent.high);
    return value + value * exponent.low;
  }
#endif
};

// Of transformed numbers: their shift, and the smallest E that is not 0. Made from the numbers with the
// largest and the smallest E.
template <class V> struct Range {
  V shift, smallest;
  SEMICONV_FN Range(const BySums<V>& e, V extreme, V furthest)
      : shift(e.shift_of(extreme)), smallest(e.transform(furthest, shift)) {}
  Range() = default;
};

// Whether a sum is exact but for rounding: it is finite and at least `least`. A term loses less than the
// smallest normal number, since the factor beside one that underflowed is at most 1. `least` is so large
// that the losses of all taps together stay below a quarter of a rounding error. Where even the smallest
// factors have a normal product, nothing is lost and `least` is 0: a sum of 0 is then proven as well.
template <class V> struct Proof {
  V least;
  SEMICONV_FN Proof(const BySums<V>& e, const Range<V>& img, const Range<V>& krn, int64 taps) {
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
    if (!representable || !e.applies()) least = infinity<V>();
  }
  template <class W> SEMICONV_FN auto holds(W sum) const {
    return (sum >= constant<W>(least)) & (sum < infinity<W>());
  }
  // The same for the entropy H = ln S - T / S. What is lost is multiplied by its logarithm in T, of which no
  // factor's leaves the range of exponents. The two parts of H cancel where S is small, or one term is nearly
  // all of it: their errors are units of 1 + |T / S|, and become units of H times `most_cancelled` at most.
  template <class W> SEMICONV_FN auto holds(W sum, W moments, W entropy) const {
    constexpr V most_cancelled = 32, range = 2 * V(sizeof(V) == 4 ? 104 : 746);
    const W size = constant<W>(1) - moments / sum;
    return (holds(sum) & (sum >= constant<W>(range * least)) & (constant<W>(most_cancelled) * entropy >= size)) |
           ((sum == constant<W>(0)) & holds(sum));
  }
};

}  // namespace semiconv
