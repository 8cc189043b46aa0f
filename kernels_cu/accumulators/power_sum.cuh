// PowerSum: (sum val^p)^(1/p) (SEMICONV_ROOT); p is the setting's.
#pragma once
#include "../semifield.cuh"
#include "blocked_sum.cuh"

namespace semiconv {

// r^(the number) by as many products as it has binary digits, for |number| <= 17.
template <class V> SEMICONV_FN V whole_power(V r, int number) {
  const V one = constant<V>(1);
  const int n = number < 0 ? -number : number;
  V power = n & 1 ? r : one;
  if (n > 1) {
    V square = r * r;
    if (n & 2) power = power * square;
    if (n > 3) {
      square = square * square;
      if (n & 4) power = power * square;
      square = square * square;
      if (n & 8) power = power * square;
      if (n & 16) power = power * V(square * square);
    }
  }
  return number < 0 ? V(one / power) : power;
}

// The powers are relative to the window's extreme term, (val / scale)^p: none overflows. The extreme is the
// largest term for p > 0, the smallest for p < 0. Two passes as in LogSum. Terms are nonnegative; a negative
// one lies outside the semifield's set and gives NaN. Residuals: the scale and the total.
template <class V> struct PowerSum {
  static constexpr bool two_pass = true;
  static constexpr int residuals = 2;
  static constexpr bool steep = true;  // for 0 < p < 1
  // Terms are multiplied by 1 / scale. The scale is the extreme, limited to numbers whose inverse is normal:
  // a larger extreme is up to 8 times the scale, a subnormal one a small part of it. If the powers of such
  // ratios leave the range of numbers (`divides`), terms are divided by the extreme itself.
  V extreme, lowest, scale, divisor;
  static SEMICONV_FN V divisor_of(V scale, const Setting& s) {
    return s.divides ? scale : V(constant<V>(1) / scale);
  }
  template <class S> static SEMICONV_FN V ratio(V val, V divisor, const S& s) {
    return s.divides_terms() ? V(val / divisor) : V(val * divisor);
  }
  // r^(p - MINUS), p not between -1 and 1.
  template <int MINUS, class S> static SEMICONV_FN V power_of(V r, const S& s) {
    switch (s.kind_of()) {
      case Setting::first: return power<1 - MINUS>(r);
      case Setting::second: return power<2 - MINUS>(r);
      case Setting::third: return power<3 - MINUS>(r);
      case Setting::fourth: return power<4 - MINUS>(r);
      case Setting::whole: return whole_power(r, s.power - MINUS);
      default: return exp(V(spread<V>(s.exponents[MINUS]) * log(r)));
    }
  }
  // (val / scale)^(p - MINUS). If a flat power's ratio leaves the range, both of its numbers are first
  // multiplied by a power of two. The limits avoid 0 * infinity: numbers beyond them make no such ratio.
  template <int MINUS> static SEMICONV_OUTLINED V any_power(V val, V divisor, const Setting& s) {
    return relative_power<MINUS>(val, divisor, s);
  }
  template <int MINUS, class S> static SEMICONV_FN V relative_power(V val, V divisor, const S& s) {
    if constexpr (Same<S, Outlined>::value) return any_power<MINUS>(val, divisor, s);
    const V r = ratio(val, divisor, s);
    if (s.kind_of() != Setting::flat_up && s.kind_of() != Setting::flat_down) return power_of<MINUS>(r, s);
    constexpr bool single = sizeof(Scalar<V>) == 4;
    constexpr double step = single ? 0x1p100 : 0x1p800, limit = single ? 0x1p27 : 0x1p200;
    constexpr double logarithm = (single ? 200 : 1600) * 0.69314718055994531;  // of step^2
    const V zero = constant<V>(0), exponent = spread<V>(s.exponents[MINUS]);
    if (s.kind_of() == Setting::flat_up) {
      const auto left = r < constant<V>(Limits<Scalar<V>>::smallest_normal);
      const V most = constant<V>(limit), factor = constant<V>(step);
      const V near = (minimum(val, most) * factor) * (minimum(divisor, most) * factor);
      const V offset = where(left, constant<V>(-logarithm), zero);
      return exp(V(exponent * (log(where(left, near, r)) + offset)));
    }
    const auto left = r == infinity<V>();
    const V least = constant<V>(1 / limit), factor = constant<V>(1 / step);
    const V near = (maximum(val, least) * factor) * (maximum(divisor, least) * factor);
    const V offset = where(left, constant<V>(logarithm), zero);
    return exp(V(exponent * (log(where(left, near, r)) + offset)));
  }
  BlockedSum<V> sum;
  // total^(1/p). The whole part of 1/p is computed by products, a half by the square root: exp would multiply
  // the error of log, to some ten units in the last place at p = -1/2.
  static SEMICONV_FN V root_of(V total, const Setting& s) {
    if (s.kind_of() == Setting::first) return total;
    if (s.kind_of() == Setting::second) return sqrt(total);
    return other_root(total, s);
  }
  SEMICONV_OF_ANY_KIND V other_root(V total, const Setting& s) {
    if (s.kind_of() == Setting::third || s.kind_of() == Setting::fourth)
      return exp(V(log(total) * spread<V>(s.rest_of_root)));
    const V powers = whole_power(total, s.root);
    if (s.rest_of_root == 0) return powers;
    if (s.rest_of_root == Real(0.5)) return powers * sqrt(total);
    if (s.rest_of_root == Real(-0.5)) return powers / sqrt(total);
    return powers * exp(V(log(total) * spread<V>(s.rest_of_root)));
  }
  static SEMICONV_FN V scale_of(V extreme, const Setting& s) {
    const V smallest = constant<V>(Limits<Scalar<V>>::smallest_normal);
    const V one = constant<V>(1);
    if (s.divides) {
      const V finite = where(extreme < infinity<V>(), extreme, one);
      return where(extreme > constant<V>(0), finite, one);
    }
    // A larger number's inverse would be subnormal.
    const V largest = constant<V>(0.125) / smallest;
    return where(extreme < infinity<V>(), minimum(maximum(extreme, smallest), largest), one);
  }
  // (scale / settled)^p: a ratio <= 1 to a positive power, >= 1 to a negative one.
  SEMICONV_OF_ANY_KIND V rescaled(V scale, V settled, V divisor, const Setting& s) {
    const bool flat = s.kind_of() == Setting::flat_up || s.kind_of() == Setting::flat_down;
    return flat ? relative_power<0>(scale, divisor, s) : power_of<0>(V(scale / settled), s);
  }
  SEMICONV_FN void start(const Setting& s) {
    extreme = s.upwards ? constant<V>(0) : infinity<V>();
    lowest = infinity<V>();
    scale = divisor = constant<V>(1);
    sum.start();
  }
  template <class S> SEMICONV_FN void observe(V val, const S& s) {
    lowest = select_less(lowest, val);
    extreme = s.upwards ? select_greater(extreme, val) : lowest;
  }
  // Returns what the total was multiplied by.
  SEMICONV_FN V settle(const Setting& s) {
    const V settled = scale_of(extreme, s);
    divisor = divisor_of(settled, s);
    const V total = sum.total;
    const V factor = where(total == constant<V>(0), constant<V>(1), rescaled(scale, settled, divisor, s));
    sum.scale(factor);
    scale = settled;
    return factor;
  }
  // What a term adds to the total.
  template <class S> SEMICONV_FN V share(V val, const S& s) const { return relative_power<0>(val, divisor, s); }
  template <class I, class S> SEMICONV_FN void add(V val, I, const S& s) { sum.add(share(val, s)); }
  SEMICONV_FN void fold() { sum.fold(); }
  // Two parts of a window take the same extreme; both must settle then.
  SEMICONV_FN void meet(PowerSum& later, const Setting& s) {
    extreme = s.upwards ? select_greater(extreme, later.extreme) : select_less(extreme, later.extreme);
    lowest = select_less(lowest, later.lowest);
    later.extreme = extreme;
  }
  SEMICONV_FN void join(PowerSum later, const Setting& s) {
    meet(later, s);
    settle(s);
    later.settle(s);
    sum.join(later.sum);
  }
  SEMICONV_FN V result(const Setting& s) const { return unless_negative(scale * root_of(sum.result(), s)); }
  SEMICONV_FN V unless_negative(V value) const {
    const V zero = constant<V>(0);
    return where(lowest < zero, V(zero / zero), value);
  }
  // The total is infinite if a term is (p < 0: if a term is 0).
  SEMICONV_FN V residual(int i, const Setting&) const { return i == 0 ? scale : unless_negative(sum.result()); }
  // (val / scale)^(p - 1) total^(1/p - 1), and its limits: 0 for a window of zeros (p = 1: 1); 1 for an
  // infinite term (p < 0: for a term 0), and (val / infinity)^(p - 1) for the other terms of its window. For
  // these windows the divisor makes the power NaN wherever the factor alone is the derivative.
  struct Derivative {
    V divisor, factor;  // two numbers only: schedules keep these of each output
    Derivative() = default;
    SEMICONV_FN Derivative(V scale, V total, const Setting& s) {
      const V zero = constant<V>(0), one = constant<V>(1);
      const auto empty = total == zero, infinite = total == infinity<V>();
      const V limit = s.upwards == s.divides ? infinity<V>() : zero;
      divisor = where(infinite, limit, where(empty, V(zero / zero), divisor_of(scale, s)));
      const V at_empty = s.kind == Setting::first ? one : zero;
      const V power = exp(V(log(total) * spread<V>(s.slope)));
      factor = where(infinite, one, where(empty, at_empty, power));
    }
    template <class S> SEMICONV_FN V operator()(V val, const S& s) const {
      const V power = relative_power<1>(val, divisor, s);
      return where(power == power, V(power * factor), factor);
    }
  };
};

}  // namespace semiconv
