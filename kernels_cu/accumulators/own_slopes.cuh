// WithOwnSlopes: a sum or an addition of the user's own, and the value's derivatives by the parameters that the
// addition or post_sum takes. Those that terms take change the value through them.
//
// Needs SEMICONV_SLOPE_COUNT, SEMICONV_D_POST_D_OWN, and with SEMICONV_ADD also SEMICONV_D_ADD_D_LEFT and
// SEMICONV_D_ADD_D_OWN (README.md).
#pragma once
#include "../semifield.cuh"

namespace semiconv {

constexpr int slope_count = SEMICONV_SLOPE_COUNT;

// d post_sum / d parameter i at the sum `acc`; a window of zeros has no infinite one.
template <class V> SEMICONV_FN V d_post_d_own(V acc, int i, SEMICONV_SETTING) {
  const V slopes[slope_count] = SEMICONV_D_POST_D_OWN;
  return finite_at_zero(acc, slopes[i]);
}

#if defined(SEMICONV_ADD)

template <class V> SEMICONV_FN V d_add_d_left(V acc, V val, SEMICONV_SETTING) { return SEMICONV_D_ADD_D_LEFT; }

// With acc_k the sum of the first k terms, acc_(k+1) = add(acc_k, val_k, a), the derivative S_k = d acc_k / d a
// follows from the chain rule, as the sum does, term by term:
//
//     S_0 = 0,    S_(k+1) = d add / d left S_k + d add / d a      at (acc_k, val_k)
//
// add(zero, val) = val and add(acc, zero) = acc whatever a is: there d add / d a is 0 and the derivatives by the
// other argument are 1, also where the formulas give NaN, as 0^a ln 0 does. The residuals behind the sum are the
// derivatives of the value, S d post_sum / d acc + d post_sum / d a.
template <class V, class A> struct WithOwnSlopes : A {
  static constexpr int residuals = 1 + slope_count;
  V slopes[slope_count];
  SEMICONV_FN void start(const Setting& s) {
    A::start(s);
    for (int i = 0; i < slope_count; ++i) slopes[i] = constant<V>(0);
  }
  // 0 where the slope is, even if the factor is infinite or NaN.
  static SEMICONV_FN V times_slope(V factor, V slope) {
    const V none = constant<V>(0);
    return where(slope == none, none, V(factor * slope));
  }
  // The slopes of add(acc, val), before acc becomes that; the zero is neutral.
  SEMICONV_FN void grow(V val, SEMICONV_SETTING) {
    const V acc = A::acc, none = constant<V>(0), one = constant<V>(1), zero = semifield_zero<V>();
    const V by_left = where(val == zero, one, d_add_d_left(acc, val, setting));
    const V by_own[slope_count] = SEMICONV_D_ADD_D_OWN;
    for (int i = 0; i < slope_count; ++i)
      slopes[i] = times_slope(by_left, slopes[i]) + where((acc == zero) | (val == zero), none, by_own[i]);
  }
  template <class I> SEMICONV_FN void add(V val, I index, const Setting& s) {
    grow(val, s);
    A::add(val, index, s);
  }
  SEMICONV_FN void join(const WithOwnSlopes& later, const Setting& s) {
    const V one = constant<V>(1), zero = semifield_zero<V>();
    const V by_right = where(A::acc == zero, one, d_add_d_right(A::acc, later.acc, s));
    grow(later.acc, s);
    for (int i = 0; i < slope_count; ++i) slopes[i] = slopes[i] + times_slope(by_right, later.slopes[i]);
    A::join(later, s);
  }
  SEMICONV_FN V residual(int i, const Setting& s) const {
    const V acc = A::acc;
    if (i == 0) return acc;
    const V by_sum = times_slope(finite_at_zero(acc, d_post_d_acc(acc, s)), slopes[i - 1]);
    return by_sum + d_post_d_own(acc, i - 1, s);
  }
};

#else

// Of an ordinary sum, post_sum alone takes parameters.
template <class V, class A> struct WithOwnSlopes : A {
  static constexpr int residuals = 1 + slope_count;
  SEMICONV_FN V residual(int i, const Setting& s) const {
    const V acc = A::residual(0, s);
    return i == 0 ? acc : d_post_d_own(acc, i - 1, s);
  }
};

#endif

}  // namespace semiconv
