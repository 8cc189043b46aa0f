// WithSlope: log or root, and the derivative of the value by mu or p (SEMICONV_LOG, SEMICONV_ROOT).
#pragma once
#include "../semifield.cuh"
#include "blocked_sum.cuh"

namespace semiconv {

// Of shares s_i (what LogSum and PowerSum add to their totals) and T, their sum, the window's weights are
// w_i = s_i / T. With their entropy H = -sum w_i ln w_i = ln T - (sum s_i ln s_i) / T,
//
//     d log / d mu = -H / mu^2,    d root / d p = -root H / p^2.
//
// This is (sum w_i v_i - out) / mu, and the like of root, without the difference of two large numbers. Where one
// share is nearly all of T, ln T is taken as ln(1 + what the others are), so that H stays exact to a few units in
// the last place. The last residual is the slope: 0 of a window of zeros, and beside an infinite term.
template <class V> SEMICONV_FN V slope_by_parameter(V value, V entropy, const Setting& s) {
#if defined(SEMICONV_LOG)
  const V parameter = spread<V>(s.mu), slope = -entropy / parameter / parameter;
#else
  const V parameter = spread<V>(s.exponents[0]), slope = -value * entropy / parameter / parameter;
#endif
  return where(absolute(value) < infinity<V>(), slope, where(value == value, constant<V>(0), value));
}

template <class V, class A> struct WithSlope : A {
  static constexpr int residuals = A::residuals + 1;
  BlockedSum<V> large, small, moment;  // shares of about 1 (of root: rounded); the others; sum s_i ln s_i
  SEMICONV_FN void start(const Setting& s) {
    A::start(s);
    large.start();
    small.start();
    moment.start();
  }
  SEMICONV_FN void settle(const Setting& s) {
    const V none = constant<V>(0), factor = A::settle(s);
    const V all = large.total + small.total;
    // s_i becomes factor s_i, and ln s_i grows by ln(factor).
    const V growth = where((factor > none) & (all > none), V(factor * log(factor) * all), none);
    moment.scale(factor);
    moment.total = moment.total + growth;
    small.scale(factor);
    const auto moved = factor < constant<V>(1);
    small.total = small.total + where(moved, V(factor * large.total), none);
    small.correction = small.correction + where(moved, V(factor * large.correction), none);
    large.total = where(moved, none, large.total);
    large.correction = where(moved, none, large.correction);
  }
  template <class I, class S> SEMICONV_FN void add(V val, I, const S& s) {
    const V none = constant<V>(0), half = constant<V>(0.5), share = A::share(val, s);
    A::sum.add(share);
    large.add(where(share < half, none, share));
    small.add(where(share < half, share, none));
    moment.add(where(share > none, V(share * log(share)), none));
  }
  SEMICONV_FN void fold() {
    A::fold();
    large.fold();
    small.fold();
    moment.fold();
  }
  SEMICONV_FN void join(WithSlope later, const Setting& s) {
    A::meet(later, s);
    settle(s);
    later.settle(s);
    A::sum.join(later.sum);
    large.join(later.large);
    small.join(later.small);
    moment.join(later.moment);
  }
  SEMICONV_FN V entropy() const { return entropy_of(large.result(), small.result(), moment.result()); }
  static SEMICONV_HOST_OUTLINED V entropy_of(V most, V rest, V moments) {
    const V none = constant<V>(0), one = constant<V>(1), all = most + rest;
    const V logarithm = where(rest <= most, V(log(most) + log1p(V(rest / most))), log(all));
    const V found = logarithm - moments / all;
    return where((all > none) & (found > none), found, where(all == all, none, all));
  }
  SEMICONV_FN V residual(int i, const Setting& s) const {
    if (i < A::residuals) return A::residual(i, s);
    return slope_by_parameter(A::result(s), entropy(), s);
  }
};

// Where nothing else is kept.
template <class A> struct SlopeAlone : A {
  static constexpr int residuals = 1;
  template <class S> SEMICONV_FN auto residual(int, const S& s) const { return A::residual(A::residuals - 1, s); }
};

}  // namespace semiconv
