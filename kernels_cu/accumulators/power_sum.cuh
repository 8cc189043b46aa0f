// PowerSum: (sum val^p)^(1/p), p being SEMICONV_PARAMETER (SEMICONV_ROOT).
#pragma once
#include "../semifield.cuh"
#include "blocked_sum.cuh"

namespace semiconv {

// The powers are relative to the window's extreme term, (val / scale)^p: none overflows. The extreme is the
// largest term for p > 0, the smallest for p < 0. Two passes as in LogSum. Terms are nonnegative; a negative
// one lies outside the semifield's set and gives NaN. Residuals: the scale and the total.
template <class V> struct PowerSum {
  static constexpr bool two_pass = true;
  static constexpr int residuals = 2;
  static constexpr double p = SEMICONV_PARAMETER;
  static constexpr bool upwards = p > 0, steep = p > 0 && p < 1;
  // The powers of some ratios beyond the range of numbers lie within it.
  static constexpr bool flat = p > -1 && p < 1;
  // Terms are multiplied by 1 / scale. The scale is the extreme, limited to numbers whose inverse is normal:
  // a larger extreme is up to 8 times the scale, a subnormal one a small part of it. If the powers of such
  // ratios leave the range of numbers, terms are divided by the extreme itself.
  static constexpr bool divides = (p > 0 ? p : 1 - p) > (sizeof(Scalar<V>) == 4 ? 5 : 19);
  V extreme, lowest, scale, divisor;
  static SEMICONV_FN V divisor_of(V scale) {
    return divides ? scale : V(constant<V>(1) / scale);
  }
  static SEMICONV_FN V ratio(V val, V divisor) {
    return divides ? V(val / divisor) : V(val * divisor);
  }
  // r^p and r^(p-1): products where the exponent is a small whole number.
  template <int MINUS> static SEMICONV_FN V power_of(V r) {
    constexpr double exponent = p - MINUS;
    constexpr int whole = exponent > -17 && exponent < 17 ? (int)exponent : 0;
    if constexpr (whole == exponent && whole >= 0) return power<whole>(r);
    else if constexpr (whole == exponent) return constant<V>(1) / power<-whole>(r);
    else return exp(constant<V>(exponent) * log(r));
  }
  // (val / scale)^(p - MINUS). If a flat power's ratio leaves the range, both of its numbers are first
  // multiplied by a power of two. The limits avoid 0 * infinity: numbers beyond them make no such ratio.
  template <int MINUS> static SEMICONV_FN V relative_power(V val, V divisor) {
    const V r = ratio(val, divisor);
    if constexpr (flat) {
      constexpr bool single = sizeof(Scalar<V>) == 4;
      constexpr double step = single ? 0x1p100 : 0x1p800, limit = single ? 0x1p27 : 0x1p200;
      constexpr double logarithm = (single ? 200 : 1600) * 0.69314718055994531;  // of step^2
      const V zero = constant<V>(0);
      if constexpr (upwards) {
        const auto left = r < constant<V>(Limits<Scalar<V>>::smallest_normal);
        const V most = constant<V>(limit), factor = constant<V>(step);
        const V near = (minimum(val, most) * factor) * (minimum(divisor, most) * factor);
        const V offset = where(left, constant<V>(-logarithm), zero);
        return exp(constant<V>(p - MINUS) * (log(where(left, near, r)) + offset));
      } else {
        const auto left = r == infinity<V>();
        const V least = constant<V>(1 / limit), factor = constant<V>(1 / step);
        const V near = (maximum(val, least) * factor) * (maximum(divisor, least) * factor);
        const V offset = where(left, constant<V>(logarithm), zero);
        return exp(constant<V>(p - MINUS) * (log(where(left, near, r)) + offset));
      }
    } else {
      return power_of<MINUS>(r);
    }
  }
  BlockedSum<V> sum;
  // total^(1/p). The whole part of 1/p is computed by products, a half by the square root: exp would multiply
  // the error of log, to some ten units in the last place at p = -1/2.
  static SEMICONV_FN V root_of(V total) {
    constexpr double exponent = 1 / p;
    constexpr int whole = exponent > -17 && exponent < 17 ? (int)exponent : 0;
    constexpr double rest = exponent - whole;
    V powers = power<(whole < 0 ? -whole : whole)>(total);
    if constexpr (whole < 0) powers = constant<V>(1) / powers;
    if constexpr (rest == 0) return powers;
    else if constexpr (rest == 0.5) return powers * sqrt(total);
    else if constexpr (rest == -0.5) return powers / sqrt(total);
    else return powers * exp(log(total) * constant<V>(rest));
  }
  static SEMICONV_FN V scale_of(V extreme) {
    const V smallest = constant<V>(Limits<Scalar<V>>::smallest_normal);
    const V one = constant<V>(1);
    if constexpr (divides) {
      const V finite = where(extreme < infinity<V>(), extreme, one);
      return where(extreme > constant<V>(0), finite, one);
    }
    // A larger number's inverse would be subnormal.
    const V largest = constant<V>(0.125) / smallest;
    return where(extreme < infinity<V>(), minimum(maximum(extreme, smallest), largest), one);
  }
  SEMICONV_FN void start() {
    extreme = upwards ? constant<V>(0) : infinity<V>();
    lowest = infinity<V>();
    scale = divisor = constant<V>(1);
    sum.start();
  }
  SEMICONV_FN void observe(V val) {
    extreme = upwards ? select_greater(extreme, val) : select_less(extreme, val);
    if (upwards) lowest = select_less(lowest, val);
  }
  SEMICONV_FN void settle() {
    const V settled = scale_of(extreme);
    divisor = divisor_of(settled);
    const V total = sum.total;
    // A ratio <= 1 to a positive power, >= 1 to a negative one.
    const V factor = flat ? relative_power<0>(scale, divisor) : power_of<0>(V(scale / settled));
    sum.scale(where(total == constant<V>(0), constant<V>(1), factor));
    scale = settled;
  }
  template <class I> SEMICONV_FN void add(V val, I) { sum.add(relative_power<0>(val, divisor)); }
  SEMICONV_FN void fold() { sum.fold(); }
  SEMICONV_FN void join(PowerSum later) {
    extreme = upwards ? select_greater(extreme, later.extreme) : select_less(extreme, later.extreme);
    lowest = select_less(lowest, later.lowest);
    settle();
    later.extreme = extreme;
    later.settle();  // its total becomes relative to the same scale
    sum.join(later.sum);
  }
  SEMICONV_FN V result() const {
    return unless_negative(scale * root_of(sum.result()));
  }
  SEMICONV_FN V unless_negative(V value) const {
    const V zero = constant<V>(0);
    return where((upwards ? lowest : extreme) < zero, V(zero / zero), value);
  }
  // The total is infinite if a term is (p < 0: if a term is 0).
  SEMICONV_FN V residual(int i) const { return i == 0 ? scale : unless_negative(sum.result()); }
  // (val / scale)^(p - 1) total^(1/p - 1), and its limits: 0 for a window of zeros (p = 1: 1); 1 for an
  // infinite term (p < 0: for a term 0), and (val / infinity)^(p - 1) for the other terms of its window. For
  // these windows the divisor makes the power NaN wherever the factor alone is the derivative.
  struct Derivative {
    V divisor, factor;  // two numbers only: schedules keep these of each output
    Derivative() = default;
    SEMICONV_FN Derivative(V scale, V total) {
      const V zero = constant<V>(0), one = constant<V>(1);
      const auto empty = total == zero, infinite = total == infinity<V>();
      const V limit = upwards == divides ? infinity<V>() : zero;
      divisor = where(infinite, limit, where(empty, V(zero / zero), divisor_of(scale)));
      const V at_empty = p == 1 ? one : zero;
      const V power = exp(log(total) * constant<V>(1 / p - 1));
      factor = where(infinite, one, where(empty, at_empty, power));
    }
    SEMICONV_FN V operator()(V val) const {
      const V power = relative_power<1>(val, divisor);
      return where(power == power, V(power * factor), factor);
    }
  };
};

}  // namespace semiconv
