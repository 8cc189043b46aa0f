// What a semifield's expressions and the accumulators may call, for scalars: mathematics by name.
//
// host/simd.hpp defines the same functions for SIMD vectors, so that the algebra is written once for
// both. Includes storage.cuh, which needs SEMICONV_STORAGE.
#pragma once
#include "storage.cuh"
#include "limits.cuh"
#include "saturating.cuh"

namespace semiconv {

SEMICONV_FN bool logical_not(bool mask) { return !mask; }
template <class M, class V> SEMICONV_FN V where(M mask, V a, V b) { return mask ? a : b; }

// ---- mathematics by name -----------------------------------------------------------------------

#define SEMICONV_UNARY(name)                                     \
  SEMICONV_FN float name(float a) { return ::name##f(a); }       \
  SEMICONV_FN double name(double a) { return ::name(a); }
#define SEMICONV_BINARY(name)                                                 \
  SEMICONV_FN float name(float a, float b) { return ::name##f(a, b); }        \
  SEMICONV_FN double name(double a, double b) { return ::name(a, b); }
SEMICONV_UNARY(exp)
SEMICONV_UNARY(expm1)
SEMICONV_UNARY(log)
SEMICONV_UNARY(log1p)
SEMICONV_UNARY(sqrt)
SEMICONV_UNARY(sin)
SEMICONV_UNARY(cos)
SEMICONV_UNARY(tan)
SEMICONV_UNARY(asin)
SEMICONV_UNARY(acos)
SEMICONV_UNARY(atan)
SEMICONV_UNARY(sinh)
SEMICONV_UNARY(cosh)
SEMICONV_UNARY(tanh)
SEMICONV_UNARY(asinh)
SEMICONV_UNARY(acosh)
SEMICONV_UNARY(atanh)
SEMICONV_UNARY(erf)
SEMICONV_UNARY(erfc)
SEMICONV_UNARY(tgamma)
SEMICONV_UNARY(lgamma)
SEMICONV_UNARY(floor)
SEMICONV_UNARY(ceil)
SEMICONV_UNARY(rint)
SEMICONV_BINARY(pow)
SEMICONV_BINARY(atan2)
#undef SEMICONV_UNARY
#undef SEMICONV_BINARY

// ---- parts of numbers, for sums and logarithms in twice the precision ---------------------------

// For error-free transformations: a rounded product, which the compiler must not fuse with a later addition,
// and the upper bits of a number, whose products are exact.
#if defined(SEMICONV_GPU)
SEMICONV_FN float rounded_product(float a, float b) { return __fmul_rn(a, b); }
SEMICONV_FN double rounded_product(double a, double b) { return __dmul_rn(a, b); }
#else
template <class V> SEMICONV_FN V rounded_product(V a, V b) {
  V product = a * b;
#if defined(__x86_64__)
  asm("" : "+x"(product));
#else
  asm("" : "+m"(product));
#endif
  return product;
}
#endif
SEMICONV_FN float upper_bits(float a) { return bit_cast<float>(bit_cast<uint32>(a) & 0xfffff000u); }
SEMICONV_FN double upper_bits(double a) {
  return bit_cast<double>(bit_cast<uint64>(a) & 0xfffffffff8000000ull);
}
// a > 0 as mantissa * 2^exponent, the mantissa in [sqrt(1/2), sqrt(2)).
SEMICONV_FN float mantissa_of(float a, float& exponent) {
  int power;
  const float mantissa = ::frexpf(a, &power);
  const bool low = mantissa < 0.70710678f;
  exponent = (float)(low ? power - 1 : power);
  return low ? 2 * mantissa : mantissa;
}
SEMICONV_FN double mantissa_of(double a, double& exponent) {
  int power;
  const double mantissa = ::frexp(a, &power);
  const bool low = mantissa < 0.70710678118654752;
  exponent = (double)(low ? power - 1 : power);
  return low ? 2 * mantissa : mantissa;
}
SEMICONV_FN float log_of_mantissa(float m) { return log(m); }
SEMICONV_FN double log_of_mantissa(double m) { return log(m); }
// exp of a <= Limits::most_exponent; a result below the smallest normal number may be 0.
SEMICONV_FN float bounded_exp(float a) { return ::expf(a); }
SEMICONV_FN double bounded_exp(double a) { return ::exp(a); }

// ---- selections and powers ----------------------------------------------------------------------

// Maximum and minimum as selections: right if it is strictly better, else left, so that a NaN on the right
// never wins. The GPU's fmaxf does the same in half the instructions (of two
// zeros it returns the positive one), but a NaN on the left is lost there: left must be a number.
template <class T> SEMICONV_FN T select_greater(T left, T right) { return right > left ? right : left; }
template <class T> SEMICONV_FN T select_less(T left, T right) { return right < left ? right : left; }
#if defined(SEMICONV_GPU) || defined(SEMICONV_CUDA_ON_CPU)
template <> SEMICONV_FN float select_greater(float left, float right) { return fmaxf(left, right); }
template <> SEMICONV_FN float select_less(float left, float right) { return fminf(left, right); }
template <> SEMICONV_FN double select_greater(double left, double right) { return fmax(left, right); }
template <> SEMICONV_FN double select_less(double left, double right) { return fmin(left, right); }
#endif

// to = from where `mask`. A GPU compares, selects and takes extrema on one pipe, which Provenance keeps busy;
// a predicated addition of -0, which changes no value, moves the number on another one.
template <class M, class V> SEMICONV_FN void assign_where(M mask, V& to, V from) { to = where(mask, from, to); }
#if defined(SEMICONV_GPU)
SEMICONV_FN void assign_where(bool mask, float& to, float from) {
  asm("{ .reg .pred p; setp.ne.b32 p, %2, 0; @p add.f32 %0, %1, 0f80000000; }"
      : "+f"(to) : "f"(from), "r"((int)mask));
}
constexpr bool moves_apart = true;
#else
constexpr bool moves_apart = false;
#endif

// For scalars and SIMD vectors alike: comparisons give masks, where() chooses.
template <class V> SEMICONV_FN V maximum(V a, V b) { return where(a < b, b, a); }
template <class V> SEMICONV_FN V minimum(V a, V b) { return where(b < a, b, a); }
template <class V> SEMICONV_FN V absolute(V a) { return where(a < constant<V>(0), V(-a), a); }
template <class V> SEMICONV_FN V sign(V a) {
  const V zero = constant<V>(0);
  return where(a > zero, constant<V>(1), where(a < zero, constant<V>(-1), a));
}
// The derivative of where(condition, a, b) from those of a and b: on a boundary at which a and b
// are equal (`meet`) the mean of both sides, if it is finite. `strict` and `loose` are the condition
// without and with its boundary.
template <class M, class Strict, class Loose, class Meet, class V>
SEMICONV_FN V slope_of_where(M condition, Strict strict, Loose loose, Meet meet, V by_a, V by_b) {
  const V mean = (by_a + by_b) * constant<V>(0.5);
  const V sides = where(strict, by_a, where(loose, mean, by_b));
  const V chosen = where(condition, by_a, by_b);
  return where(meet & (absolute(sides) < infinity<V>()), sides, chosen);
}

template <int N, class V> struct Power {
  static SEMICONV_FN V of(V a) {
    const V half = Power<N / 2, V>::of(a);
    if constexpr (N % 2) return V(V(half * half) * a);
    return V(half * half);
  }
};
template <class V> struct Power<1, V> {
  static SEMICONV_FN V of(V a) { return a; }
};
template <class V> struct Power<0, V> {
  static SEMICONV_FN V of(V) { return constant<V>(1); }
};
template <int N, class V> SEMICONV_FN V power(V a) { return Power<N, V>::of(a); }

}  // namespace semiconv
