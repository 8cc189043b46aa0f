// The one file that tells the GPU from the host: qualifiers, number types, mathematics by name.
//
// Needs (from the launcher): SEMICONV_STORAGE, one of the storage names of `storage names` below.
// Defines: Storage (what memory holds), Real (what arithmetic uses), load/store between them, and
// for scalars every function that a semifield's expressions may call. host/simd.hpp adds the same
// functions for SIMD vectors, so that the algebra is written once for both.
#pragma once

#if defined(__CUDACC_RTC__) || defined(__CUDACC__)
#define SEMICONV_GPU 1
#define SEMICONV_FN __device__ __forceinline__
#else
#if !defined(__CUDACC_RTC__)
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#endif
#if defined(SEMICONV_CUDA_ON_CPU)
#define SEMICONV_FN inline
#else
#define SEMICONV_FN inline __attribute__((always_inline))
#endif
#endif

namespace semiconv {

using int64 = long long;

// ---- storage names -----------------------------------------------------------------------------

struct float16 {
  unsigned short bits;
};
struct bfloat16 {
  unsigned short bits;
};
using float32 = float;
using float64 = double;
using int8 = signed char;
using uint8 = unsigned char;
using int16 = short;
using uint16 = unsigned short;
using int32 = int;
using uint32 = unsigned int;
using uint64 = unsigned long long;
struct boolean {
  unsigned char bits;
};

// Real: the type of arithmetic on a storage type; same width lanes wherever that is possible.
template <class S> struct RealOf { using type = S; };
template <> struct RealOf<float16> { using type = float; };
template <> struct RealOf<bfloat16> { using type = float; };
template <> struct RealOf<boolean> { using type = unsigned char; };

using Storage = SEMICONV_STORAGE;
using Real = RealOf<Storage>::type;

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
  // e^most_exponent terms of 1 vanish beside one of it, and any number of it has a finite sum.
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
#define SEMICONV_INTEGER_LIMITS(T, U, W, LOWEST, HIGHEST) \
  template <> struct Limits<T> {                          \
    static constexpr bool integer = true;                 \
    static constexpr T lowest = LOWEST;                   \
    static constexpr T highest = HIGHEST;                 \
    using Unsigned = U;                                   \
    using Wide = W;                                       \
  };
SEMICONV_INTEGER_LIMITS(int8, uint8, int64, -128, 127)
SEMICONV_INTEGER_LIMITS(uint8, uint8, int64, 0, 255)
SEMICONV_INTEGER_LIMITS(int16, uint16, int64, -32768, 32767)
SEMICONV_INTEGER_LIMITS(uint16, uint16, int64, 0, 65535)
SEMICONV_INTEGER_LIMITS(int32, uint32, int64, -2147483647 - 1, 2147483647)
SEMICONV_INTEGER_LIMITS(uint32, uint32, __int128, 0u, 4294967295u)  // int64 holds no product
SEMICONV_INTEGER_LIMITS(int64, uint64, __int128, -9223372036854775807ll - 1, 9223372036854775807ll)
SEMICONV_INTEGER_LIMITS(uint64, uint64, __int128, 0ull, 18446744073709551615ull)
#undef SEMICONV_INTEGER_LIMITS

// ---- bit patterns ------------------------------------------------------------------------------

template <class To, class From> SEMICONV_FN To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "bit_cast keeps the size");
  To to;
#if defined(SEMICONV_GPU)
  memcpy(&to, &from, sizeof(To));
#else
  __builtin_memcpy(&to, &from, sizeof(To));
#endif
  return to;
}

// ---- load and store: IEEE half and bfloat16 without any library header -------------------------

template <class T> SEMICONV_FN T load(T stored) { return stored; }
SEMICONV_FN unsigned char load(boolean stored) { return stored.bits != 0; }
SEMICONV_FN float load(bfloat16 stored) { return bit_cast<float>((uint32)stored.bits << 16); }
SEMICONV_FN float load(float16 stored) {
#if defined(SEMICONV_GPU)
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(stored.bits));
  return value;
#else
  // Shift the half's exponent and mantissa into a float's place; a multiplication by 2^112
  // corrects the exponent bias and normalises subnormals; infinities and NaN get the full exponent.
  const uint32 magnitude = (uint32)(stored.bits & 0x7fff) << 13;
  uint32 bits = bit_cast<uint32>(bit_cast<float>(magnitude) * bit_cast<float>(0x77800000u));
  bits |= magnitude >= 0x0f800000u ? 0x7f800000u : 0u;
  return bit_cast<float>(bits | (uint32)(stored.bits & 0x8000) << 16);
#endif
}

template <class S> struct Store {
  template <class T> static SEMICONV_FN S from(T value) { return value; }
};
template <> struct Store<boolean> {
  static SEMICONV_FN boolean from(unsigned char value) { return boolean{(unsigned char)(value != 0)}; }
};
template <> struct Store<bfloat16> {
  static SEMICONV_FN bfloat16 from(float value) {
    const uint32 bits = bit_cast<uint32>(value);
    const uint32 rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
    return bfloat16{(unsigned short)(nan ? (bits >> 16) | 0x40u : rounded)};
  }
};
template <> struct Store<float16> {
  static SEMICONV_FN float16 from(float value) {
#if defined(SEMICONV_GPU)
    float16 stored;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(stored.bits) : "f"(value));
    return stored;
#else
    const uint32 bits = bit_cast<uint32>(value);
    const uint32 sign = (bits >> 16) & 0x8000u;
    const uint32 magnitude = bits & 0x7fffffffu;
    // Subnormal halves: adding 0.5 lets the float unit round to the half's last place.
    const uint32 small =
        bit_cast<uint32>(bit_cast<float>(magnitude) + 0.5f) - 0x3f000000u;
    // Normal halves: rebias the exponent, round to nearest even on the 13 bits that go.
    const uint32 normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
    const uint32 large = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
    const uint32 half = magnitude < 0x38800000u ? small : magnitude < 0x47800000u ? normal : large;
    return float16{(unsigned short)(sign | half)};
#endif
  }
};
template <class T> SEMICONV_FN Storage store(T value) { return Store<Storage>::from(value); }

// ---- what expressions may call, for scalars ----------------------------------------------------

SEMICONV_FN bool logical_not(bool mask) { return !mask; }
template <class M, class V> SEMICONV_FN V where(M mask, V a, V b) { return mask ? a : b; }

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
// What error-free transformations need: a product that no later addition swallows unrounded, and a
// number's upper bits, two of which multiply exactly.
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
// exp where a <= Limits::most_exponent is known and a result below the smallest normal number may be 0.
SEMICONV_FN float bounded_exp(float a) { return ::expf(a); }
SEMICONV_FN double bounded_exp(double a) { return ::exp(a); }

// The two selections of the ready-made semifields: right if it is strictly better, else left, so
// that NaN on the right never wins. The GPU's fmaxf does the same in half the instructions (of two
// zeros it returns the positive one), but a NaN on the left is lost there: left must be a number.
template <class T> SEMICONV_FN T select_greater(T left, T right) { return right > left ? right : left; }
template <class T> SEMICONV_FN T select_less(T left, T right) { return right < left ? right : left; }
#if defined(SEMICONV_GPU) || defined(SEMICONV_CUDA_ON_CPU)
template <> SEMICONV_FN float select_greater(float left, float right) { return fmaxf(left, right); }
template <> SEMICONV_FN float select_less(float left, float right) { return fminf(left, right); }
template <> SEMICONV_FN double select_greater(double left, double right) { return fmax(left, right); }
template <> SEMICONV_FN double select_less(double left, double right) { return fmin(left, right); }
#endif

// to = from where `mask`. A GPU compares, selects and takes extrema on one pipe, which provenance
// fills: there a predicated addition (of -0, which changes nothing) moves the value on another.
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

// One definition for scalars and SIMD vectors: comparisons give masks, where() chooses.
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

// ---- integers: exact and saturating, never wrapping --------------------------------------------

template <class V> using Unsigned = typename Limits<V>::Unsigned;
template <class V> using Wide = typename Limits<V>::Wide;

template <class V> SEMICONV_FN Wide<V> widen(V a) { return (Wide<V>)a; }
template <class V> SEMICONV_FN V narrow(Wide<V> a) {
  const Wide<V> low = (Wide<V>)Limits<V>::lowest, high = (Wide<V>)Limits<V>::highest;
  return (V)(a < low ? low : a > high ? high : a);
}
template <class V> SEMICONV_FN V saturating_add(V a, V b) {
  const V sum = (V)((Unsigned<V>)a + (Unsigned<V>)b);
  if (Limits<V>::lowest == 0) return sum < a ? Limits<V>::highest : sum;
  const V overflow = (V)((a ^ sum) & (b ^ sum));
  return overflow < 0 ? (a < 0 ? Limits<V>::lowest : Limits<V>::highest) : sum;
}
template <class V> SEMICONV_FN V saturating_subtract(V a, V b) {
  const V difference = (V)((Unsigned<V>)a - (Unsigned<V>)b);
  if (Limits<V>::lowest == 0) return a < b ? (V)0 : difference;
  const V overflow = (V)((a ^ b) & (a ^ difference));
  return overflow < 0 ? (a < 0 ? Limits<V>::lowest : Limits<V>::highest) : difference;
}
template <class V> SEMICONV_FN V saturating_multiply(V a, V b) { return narrow<V>(widen(a) * widen(b)); }
template <> SEMICONV_FN uint32 saturating_multiply(uint32 a, uint32 b) {
  const uint64 product = (uint64)a * b;
  return product > Limits<uint32>::highest ? Limits<uint32>::highest : (uint32)product;
}
template <> SEMICONV_FN uint64 saturating_multiply(uint64 a, uint64 b) {
  return a != 0 && b > Limits<uint64>::highest / a ? Limits<uint64>::highest : a * b;
}

}  // namespace semiconv
