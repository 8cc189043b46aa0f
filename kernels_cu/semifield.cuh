// The semifield's functions, from the launcher's macros (README.md lists them).
//
// The macros are expressions in img, krn, left, right, acc, res, val; V is a scalar or a SIMD vector. On
// the host, include host/simd.hpp first: it defines for vectors what the expressions call.
#pragma once
#include "functions.cuh"
#include "setting.cuh"

namespace semiconv {

// Expressions name it only where a semifield has parameters of its own.
#define SEMICONV_SETTING [[maybe_unused]] const Setting& setting

// The addition's neutral element. Of log and root it follows from the sign of their parameter.
#if defined(SEMICONV_LOG) || defined(SEMICONV_ROOT)
constexpr bool zero_follows = true;
template <class V> SEMICONV_FN V semifield_zero(const Setting& setting) {
#if defined(SEMICONV_LOG)
  return setting.upwards ? negative_infinity<V>() : infinity<V>();
#else
  return setting.upwards ? constant<V>(0) : infinity<V>();
#endif
}
#else
constexpr bool zero_follows = false;
template <class V> SEMICONV_FN V zero_expression() { return SEMICONV_ZERO; }
template <class V> SEMICONV_FN V semifield_zero(const Setting& = {}) {
#if defined(SEMICONV_INTEGER)  // its expression may need wider numbers, which vectors do not have
  return spread<V>(zero_expression<Scalar<V>>());
#else
  return zero_expression<V>();
#endif
}
#endif

// Whether the zero, times this weight, is the zero: of a semifield whose zero absorbs every finite weight. The
// zero of a root with p < 0 is infinite, and does not absorb 0.
SEMICONV_FN bool absorbed(Real weight, const Setting& setting) {
#if defined(SEMICONV_ROOT)
  if (!setting.upwards && weight == 0) return false;
#endif
  return absolute(weight) < infinity<Real>();
}

template <class V> SEMICONV_FN V times_expression(V img, V krn, SEMICONV_SETTING) { return SEMICONV_TIMES; }
template <class V> SEMICONV_FN V times(V img, V krn, const Setting& setting) {
#if defined(SEMICONV_WIDE_TIMES)  // an integer expression whose intermediate results need wider lanes than V's
  if constexpr (sizeof(V) != sizeof(Scalar<V>))
    return each_lane(img, krn, [&](Real a, Real b) { return times_expression(a, b, setting); });
  else
#endif
    return times_expression(img, krn, setting);
}

#if defined(SEMICONV_D_TIMES_D_IMG)
template <class V> SEMICONV_FN V d_times_d_img(V img, V krn, SEMICONV_SETTING) { return SEMICONV_D_TIMES_D_IMG; }
template <class V> SEMICONV_FN V d_times_d_krn(V img, V krn, SEMICONV_SETTING) { return SEMICONV_D_TIMES_D_KRN; }
#endif

#if defined(SEMICONV_SELECT)
#if defined(SEMICONV_SELECT_GREATER) || defined(SEMICONV_SELECT_LESS)
constexpr bool plain_extremum = true;  // the selection is max or min
#else
constexpr bool plain_extremum = false;
#endif

template <class V> SEMICONV_FN auto selection(V left, V right, SEMICONV_SETTING) { return SEMICONV_SELECT; }
template <class V> SEMICONV_FN auto selects_right(V left, V right, const Setting& setting) {
#if defined(SEMICONV_WIDE_SELECT)  // as WIDE_TIMES
  if constexpr (sizeof(V) != sizeof(Scalar<V>))
    return where_lanes(left, right, [&](Real a, Real b) { return selection(a, b, setting); });
  else
#endif
    return selection(left, right, setting);
}
template <class V> SEMICONV_FN V select(V left, V right, SEMICONV_SETTING) {
#if defined(SEMICONV_SELECT_GREATER)
  return select_greater(left, right);
#elif defined(SEMICONV_SELECT_LESS)
  return select_less(left, right);
#else
  return where(selects_right(left, right, setting), right, left);
#endif
}
#endif

#if defined(SEMICONV_ADD)
template <class V> SEMICONV_FN V add(V left, V right, SEMICONV_SETTING) { return SEMICONV_ADD; }
#endif

template <class V> SEMICONV_FN V post_sum(V acc, SEMICONV_SETTING) {
#if defined(SEMICONV_POST_SUM)
  return SEMICONV_POST_SUM;
#else
  return acc;
#endif
}
template <class V> SEMICONV_FN V d_post_d_acc(V acc, SEMICONV_SETTING) {
#if defined(SEMICONV_D_POST_D_ACC)
  return SEMICONV_D_POST_D_ACC;
#else
  return constant<V>(1);
#endif
}
// The derivative by a term of the sum `acc`: 0 instead of infinity and NaN where the sum is the zero (of a
// window of zeros), as of sqrt at 0.
template <class V> SEMICONV_FN V finite_at_zero(V acc, V derivative) {
  const V none = constant<V>(0), finite = where(absolute(derivative) < infinity<V>(), derivative, none);
  return where(acc == semifield_zero<V>(), finite, derivative);
}
#if defined(SEMICONV_SUBTRACT)
template <class V> SEMICONV_FN V subtract(V res, V val, SEMICONV_SETTING) { return SEMICONV_SUBTRACT; }
template <class V> SEMICONV_FN V d_add_d_right(V acc, V val, SEMICONV_SETTING) { return SEMICONV_D_ADD_D_RIGHT; }
#endif

}  // namespace semiconv
