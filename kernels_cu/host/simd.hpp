// SIMD vectors (GCC/Clang vector extensions) with the functions of functions.cuh.
//
// Defines Vector (one hardware register of Real), VectorOf<T> (one of T), Mask, loads and stores of any
// alignment, and exp and log whose errors stay below 2 ulp. Rarer functions call the C library lane by lane.
#pragma once
#include "functions.cuh"

namespace semiconv {

#if defined(__AVX512F__)
constexpr int register_bytes = 64;
#elif defined(__AVX__)
constexpr int register_bytes = 32;
#else
constexpr int register_bytes = 16;
#endif

template <class T> struct VectorType {
  typedef T type __attribute__((vector_size(register_bytes)));
};
template <class T> using VectorOf = typename VectorType<T>::type;
template <class T> constexpr int lanes_of = register_bytes / (int)sizeof(T);
template <class T> struct SignedOf;
template <> struct SignedOf<float> { using type = int32_t; };
template <> struct SignedOf<double> { using type = int64; };
template <> struct SignedOf<int8> { using type = int8; };
template <> struct SignedOf<uint8> { using type = int8; };
template <> struct SignedOf<int16> { using type = int16; };
template <> struct SignedOf<uint16> { using type = int16; };
template <> struct SignedOf<int32> { using type = int32; };
template <> struct SignedOf<uint32> { using type = int32; };
template <> struct SignedOf<int64> { using type = int64; };
template <> struct SignedOf<uint64> { using type = int64; };

template <size_t BYTES> struct UnsignedOf;
template <> struct UnsignedOf<1> { using type = uint8; };
template <> struct UnsignedOf<2> { using type = uint16; };
template <> struct UnsignedOf<4> { using type = uint32; };

using Vector = VectorOf<Real>;
// The lanes of a Mask are 0 or -1, as wide as Real's. Taps are counted in such lanes too.
using MaskLane = SignedOf<Real>::type;
using Mask = VectorOf<MaskLane>;
constexpr int lanes = lanes_of<Real>;

template <> struct ScalarOf<Vector> { using type = Real; };

template <class V> struct VectorElement { using type = Real; };
template <> struct VectorElement<Mask> { using type = MaskLane; };

template <class V, class S> inline __attribute__((always_inline)) V load_vector(const S* from) {
  V vector;
  __builtin_memcpy(&vector, from, sizeof(V));
  return vector;
}
template <class V, class S> inline __attribute__((always_inline)) void store_vector(S* to, V vector) {
  __builtin_memcpy(to, &vector, sizeof(V));
}

template <> struct Constant<Vector> {
  static SEMICONV_FN Vector of(double value) { return (Real)value - Vector{}; }
  static SEMICONV_FN Vector of_integer(int64 value) { return (Real)value - Vector{}; }
};
template <> SEMICONV_FN Vector infinity<Vector>() { return Extreme<Real>::highest() - Vector{}; }
template <> SEMICONV_FN Vector negative_infinity<Vector>() { return Extreme<Real>::lowest() - Vector{}; }
SEMICONV_FN Vector broadcast(Real value) { return value - Vector{}; }  // 0 + value would add

// The same value, kept in a register: the compiler knows nothing about it.
template <class V> SEMICONV_FN V opaque(V value) {
#if defined(__x86_64__)
  asm("" : "+x"(value));
#elif defined(__aarch64__)
  asm("" : "+w"(value));
#endif
  return value;
}

SEMICONV_FN Mask logical_not(Mask mask) { return ~mask; }
SEMICONV_FN bool any(Mask mask) {
  MaskLane some = 0;
#pragma GCC unroll 64
  for (int i = 0; i < lanes; ++i) some |= mask[i];
  return some != 0;
}

#if defined(__AVX__) && !defined(__AVX512F__)
// maxps and minps are exactly "right if strictly better, else left"; GCC does not see it.
template <> SEMICONV_FN VectorOf<float> select_greater(VectorOf<float> left,
                                                             VectorOf<float> right) {
  return __builtin_ia32_maxps256(right, left);
}
template <> SEMICONV_FN VectorOf<float> select_less(VectorOf<float> left,
                                                          VectorOf<float> right) {
  return __builtin_ia32_minps256(right, left);
}
template <> SEMICONV_FN VectorOf<double> select_greater(VectorOf<double> left,
                                                              VectorOf<double> right) {
  return __builtin_ia32_maxpd256(right, left);
}
template <> SEMICONV_FN VectorOf<double> select_less(VectorOf<double> left,
                                                           VectorOf<double> right) {
  return __builtin_ia32_minpd256(right, left);
}
#endif

#define SEMICONV_LANEWISE(name)                            \
  template <class V> inline V name(V a) {                  \
    for (int i = 0; i < lanes; ++i) a[i] = name(a[i]);     \
    return a;                                              \
  }
#define SEMICONV_LANEWISE_PAIR(name)                              \
  template <class V> inline V name(V a, V b) {                    \
    for (int i = 0; i < lanes; ++i) a[i] = name(a[i], b[i]);      \
    return a;                                                     \
  }
SEMICONV_LANEWISE(expm1)
SEMICONV_LANEWISE(log1p)
SEMICONV_LANEWISE(sqrt)
SEMICONV_LANEWISE(sin)
SEMICONV_LANEWISE(cos)
SEMICONV_LANEWISE(tan)
SEMICONV_LANEWISE(asin)
SEMICONV_LANEWISE(acos)
SEMICONV_LANEWISE(atan)
SEMICONV_LANEWISE(sinh)
SEMICONV_LANEWISE(cosh)
SEMICONV_LANEWISE(tanh)
SEMICONV_LANEWISE(asinh)
SEMICONV_LANEWISE(acosh)
SEMICONV_LANEWISE(atanh)
SEMICONV_LANEWISE(erf)
SEMICONV_LANEWISE(erfc)
SEMICONV_LANEWISE(tgamma)
SEMICONV_LANEWISE(lgamma)
SEMICONV_LANEWISE(floor)
SEMICONV_LANEWISE(ceil)
SEMICONV_LANEWISE(rint)
SEMICONV_LANEWISE_PAIR(pow)
SEMICONV_LANEWISE_PAIR(atan2)
#undef SEMICONV_LANEWISE
#undef SEMICONV_LANEWISE_PAIR

// ---- integers: the same rules as the scalars, lane by lane in registers ------------------------

template <class V, class F> inline V each_lane(V a, V b, F function) {
  for (int i = 0; i < lanes; ++i) a[i] = function((Real)a[i], (Real)b[i]);
  return a;
}
// The mask of the lanes whose numbers satisfy a condition.
template <class V, class F> inline auto where_lanes(V a, V b, F condition) {
  auto mask = a < b;
  for (int i = 0; i < lanes; ++i) mask[i] = condition((Real)a[i], (Real)b[i]) ? -1 : 0;
  return mask;
}
#if defined(SEMICONV_INTEGER)
// a is clamped before the addition so that the sum stays in range. The limits depend on b alone: a loop in
// which b does not change computes them once.
SEMICONV_FN Vector clamped(Vector a, Vector low, Vector high) {
  const Vector least = a < low ? low : a;
  return least < high ? least : high;
}
SEMICONV_FN Vector saturating_add(Vector a, Vector b) {
  const Vector lowest = negative_infinity<Vector>(), highest = infinity<Vector>(), zero{};
  const Vector down = b < zero ? b : zero, up = b < zero ? zero : b;
  return clamped(a, lowest - down, highest - up) + b;
}
SEMICONV_FN Vector saturating_subtract(Vector a, Vector b) {
  const Vector lowest = negative_infinity<Vector>(), highest = infinity<Vector>(), zero{};
  const Vector down = b < zero ? b : zero, up = b < zero ? zero : b;
  return clamped(a, lowest + up, highest + down) - b;
}
SEMICONV_FN Vector saturating_multiply(Vector a, Vector b) {
  return each_lane(a, b, [](Real x, Real y) { return saturating_multiply(x, y); });
}
#else

// ---- exp and log ------------------------------------------------------------------------------

template <class T> struct ExpLog;
template <> struct ExpLog<float> {
  static constexpr float log2_e = 1.44269504f;
  static constexpr float shifter = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  static constexpr float lowest = -87.3365448f, highest = 88.7228391f, underflow = -104.0f;
  static constexpr int mantissa_bits = 23, bias = 127;
  static constexpr int exp_terms = 7;   // degree of the Taylor polynomial of e^r, |r| <= ln(2)/2
  static constexpr int log_terms = 5;   // odd powers of s in 2 artanh(s), |s| <= 0.172
};
template <> struct ExpLog<double> {
  static constexpr double log2_e = 1.4426950408889634;
  static constexpr double shifter = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr double lowest = -708.39641853226408, highest = 709.78271289338397,
                          underflow = -746.0;
  static constexpr int mantissa_bits = 52, bias = 1023;
  static constexpr int exp_terms = 13;
  static constexpr int log_terms = 11;
};

// The coefficients 1 / k! of e^r, found at compile time.
template <int TERMS> struct ExpSeries {
  Real inverse_factorial[TERMS + 1];
  constexpr ExpSeries() : inverse_factorial() {
    Real factorial = 1;
    for (int k = 0; k <= TERMS; ++k) {
      if (k > 1) factorial *= k;
      inverse_factorial[k] = 1 / factorial;
    }
  }
};

// e^r on the reduced range by Horner's rule; the integer part n of a/ln2 as bits of `shifted`.
SEMICONV_FN Vector exp_reduced(Vector a, Vector& shifted) {
  using C = ExpLog<Real>;
  shifted = a * C::log2_e + C::shifter;
  const Vector n = shifted - C::shifter;
  const Vector r = (a - n * Limits<Real>::ln2_high) - n * Limits<Real>::ln2_low;
  if constexpr (sizeof(Real) == 4) {
    // Minimax coefficients (Cephes, S. Moshier): error below 1 ulp on |r| <= ln(2)/2.
    Vector p = broadcast(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    return p * (r * r) + r + (Real)1;
  } else {
    constexpr ExpSeries<C::exp_terms> series;
    Vector p = broadcast(series.inverse_factorial[C::exp_terms]);
#pragma GCC unroll 16
    for (int k = C::exp_terms - 1; k >= 0; --k) p = p * r + series.inverse_factorial[k];
    return p;
  }
}
SEMICONV_FN Vector two_to_the(Mask n) {
  return (Vector)((n + ExpLog<Real>::bias) << ExpLog<Real>::mantissa_bits);
}
SEMICONV_FN Mask shifted_integer(Vector shifted) {
  return (Mask)shifted - (Mask)broadcast(ExpLog<Real>::shifter);
}

SEMICONV_FN Vector bounded_exp(Vector a) {
  using C = ExpLog<Real>;
  Vector shifted;
  const Mask underflows = a < C::lowest;
  const Vector reduced = exp_reduced(a, shifted);
  const Vector value = reduced * two_to_the(shifted_integer(shifted));
  return underflows ? Vector{} : value;  // NaN compares false and stays
}
inline Vector exp(Vector a) {
  using C = ExpLog<Real>;
  const Vector within = a < C::underflow ? broadcast(C::underflow)
                                         : (a > C::highest ? broadcast(C::highest) : a);
  Vector shifted;
  const Vector reduced = exp_reduced(within, shifted);
  const Mask n = shifted_integer(shifted), half = n >> 1;
  const Vector value = reduced * two_to_the(half) * two_to_the(n - half);
  return a > C::highest ? infinity<Vector>() : (a < C::underflow ? Vector{} : value);
}
inline Vector mantissa_of(Vector a, Vector& exponent) {
  using C = ExpLog<Real>;
  const Mask tiny = a < Limits<Real>::smallest_normal;
  const Vector scaled = tiny ? a * (Real)(1ll << C::mantissa_bits) : a;
  const Mask root_half_bits = (Mask)broadcast((Real)0.70710678118654752);
  const Mask e = ((Mask)scaled - root_half_bits) >> C::mantissa_bits;
  exponent = __builtin_convertvector(e + (tiny & -C::mantissa_bits), Vector);
  return (Vector)((Mask)scaled - (e << C::mantissa_bits));
}
// log of m in [sqrt(1/2), sqrt(2)): 2 artanh((m - 1)/(m + 1)) as its odd series.
SEMICONV_FN Vector log_of_mantissa(Vector m) {
  using C = ExpLog<Real>;
  const Vector f = m - (Real)1;
  const Vector s = f / (m + (Real)1);
  const Vector z = s * s;
  Vector p = broadcast((Real)2 / (2 * C::log_terms + 1));
#pragma GCC unroll 16
  for (int k = C::log_terms - 1; k > 0; --k) p = p * z + (Real)2 / (2 * k + 1);
  // 2s = f - s f keeps the leading term exact.
  return f - s * (f - z * p);
}
inline Vector log(Vector a) {
  const Vector zero{};
  Vector exponent;
  const Vector log_m = log_of_mantissa(mantissa_of(a, exponent));
  const Vector value =
      exponent * Limits<Real>::ln2_high + (log_m + exponent * Limits<Real>::ln2_low);
  const Vector special = a == zero ? negative_infinity<Vector>() : zero / zero;
  return a > zero ? (a < infinity<Vector>() ? value : a) : (a != a ? a : special);
}
SEMICONV_FN Vector upper_bits(Vector a) {
  return (Vector)((Mask)a & (MaskLane)(sizeof(Real) == 4 ? -0x1000 : -0x8000000ll));
}
#endif  // SEMICONV_INTEGER

}  // namespace semiconv
