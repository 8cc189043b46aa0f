// The limits of each type of arithmetic, constants of a value type, and its infinities.
//
// V is a scalar or, on the host, a SIMD vector (host/simd.hpp).
#pragma once
#include "integers.cuh"

namespace semiconv {

// Scalar<V>: the element of a value type (a vector type says so in host/simd.hpp).
template <class V> struct ScalarOf { using type = V; };
template <class V> using Scalar = typename ScalarOf<V>::type;

template <class T> struct Limits;
template <> struct Limits<float> {
  static constexpr bool integer = false;
  static constexpr float smallest_normal = 1.17549435e-38f, largest = 3.40282347e38f;
  static constexpr float epsilon = 1.1920929e-7f;  // the spacing at 1
  // ln 2 in two parts; the first times any exponent is exact.
  static constexpr float ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
  // Terms of at most 1 vanish beside e^most_exponent, and any number of these has a finite sum.
  static constexpr float most_exponent = 40;
};
template <> struct Limits<double> {
  static constexpr bool integer = false;
  static constexpr double smallest_normal = 2.2250738585072014e-308,
                          largest = 1.7976931348623157e308;
  static constexpr double epsilon = 2.220446049250313e-16;
  static constexpr double ln2_high = 6.93145751953125e-1, ln2_low = 1.42860682030941723212e-6;
  static constexpr double most_exponent = 300;
};
#if defined(SEMICONV_INT128)  // formulas whose intermediate results need them
using WideEnough = __int128;
#else
using WideEnough = int64;
#endif
#define SEMICONV_INTEGER_LIMITS(T, U, W, LOWEST, HIGHEST) \
  template <> struct Limits<T> {                          \
    static constexpr bool integer = true;                 \
    static constexpr T lowest = LOWEST;                   \
    static constexpr T highest = HIGHEST;                 \
    using Unsigned = U;                                   \
    using Wide = W;                                       \
  };
SEMICONV_INTEGER_LIMITS(int8, uint8, WideEnough, -128, 127)
SEMICONV_INTEGER_LIMITS(uint8, uint8, WideEnough, 0, 255)
SEMICONV_INTEGER_LIMITS(int16, uint16, WideEnough, -32768, 32767)
SEMICONV_INTEGER_LIMITS(uint16, uint16, WideEnough, 0, 65535)
SEMICONV_INTEGER_LIMITS(int32, uint32, WideEnough, -2147483647 - 1, 2147483647)
SEMICONV_INTEGER_LIMITS(uint32, uint32, __int128, 0u, 4294967295u)  // int64 holds no product
SEMICONV_INTEGER_LIMITS(int64, uint64, __int128, -9223372036854775807ll - 1, 9223372036854775807ll)
SEMICONV_INTEGER_LIMITS(uint64, uint64, __int128, 0ull, 18446744073709551615ull)
#undef SEMICONV_INTEGER_LIMITS

template <class V> struct Constant {
  static SEMICONV_FN V of(double value) { return (V)value; }
  static SEMICONV_FN V of_integer(int64 value) { return (V)value; }
};
template <class V> SEMICONV_FN V constant(double value) { return Constant<V>::of(value); }
template <class V> SEMICONV_FN V constant(int value) { return Constant<V>::of_integer(value); }
template <class V> SEMICONV_FN V constant(int64 value) { return Constant<V>::of_integer(value); }

template <class T, bool INTEGER = Limits<T>::integer> struct Extreme;  // the values next to +-inf
template <class T> struct Extreme<T, true> {
  static SEMICONV_FN T highest() { return Limits<T>::highest; }
  static SEMICONV_FN T lowest() { return Limits<T>::lowest; }
};
template <> struct Extreme<float, false> {
#if defined(SEMICONV_GPU)
  static SEMICONV_FN float highest() { return __int_as_float(0x7f800000); }
#else
  static SEMICONV_FN float highest() { return __builtin_inff(); }
#endif
  static SEMICONV_FN float lowest() { return -highest(); }
};
template <> struct Extreme<double, false> {
#if defined(SEMICONV_GPU)
  static SEMICONV_FN double highest() { return __longlong_as_double(0x7ff0000000000000ll); }
#else
  static SEMICONV_FN double highest() { return __builtin_inf(); }
#endif
  static SEMICONV_FN double lowest() { return -highest(); }
};
// infinity<V>(): +inf, or the largest integer (an integer's saturated infinity).
template <class V> SEMICONV_FN V infinity() { return Constant<V>::of(0) + Extreme<Scalar<V>>::highest(); }
template <class V> SEMICONV_FN V negative_infinity() {
  return Constant<V>::of(0) + Extreme<Scalar<V>>::lowest();
}

}  // namespace semiconv
