// Setting: a semifield's parameters as the kernels compute with them, those of one output channel.
//
// A kernel makes one for each output channel, from the numbers that the launch received. It is empty if the semifield
// has no parameters. An addition may have several loops, each quicker for some values, which it calls kinds:
//
//   by_kind(setting, [&](auto of_kind) { the loop, of_kind in place of the setting });
#pragma once
#include "functions.cuh"
#include "parameters.cuh"

namespace semiconv {

// A number in all lanes.
template <class V> SEMICONV_FN V spread(Scalar<V> number) { return V(number - constant<V>(0)); }

#if defined(SEMICONV_CONSTANT)  // the benchmarks compile a number in, to compare with it
#define SEMICONV_PARAMETER(number) SEMICONV_CONSTANT
#else
#define SEMICONV_PARAMETER(number) number
#endif

#if defined(SEMICONV_LOG)

// mu, of ln(sum e^(mu val)) / mu.
struct Setting {
  Real mu;
  bool upwards;  // the extreme term is the largest one
  Setting() = default;
  SEMICONV_FN Setting(const Parameters& parameters, int64 kernel)
      : mu((Real)SEMICONV_PARAMETER(parameters.of<Real>(0, kernel))), upwards(mu > 0) {}
  SEMICONV_FN bool alike(const Setting& other) const { return upwards == other.upwards; }
};
constexpr bool has_kinds = false;  // of which a launch may need several
using Outlined = Setting;
template <class F> SEMICONV_FN void by_kind(const Setting& setting, F&& loop) { loop(setting); }

#elif defined(SEMICONV_ROOT)

// p, of (sum val^p)^(1/p), and what follows from it.
struct Setting {
  // Which formula gives a ratio's power: products, as many as a small whole p needs; exp and log; or these for
  // -1 < p < 1, where the powers of some ratios beyond the range of numbers lie within it.
  enum Kind { first, second, third, fourth, whole, other, flat_up, flat_down };
  // The exponents p and p - 1; 1/p without its whole part; 1/p - 1.
  Real exponents[2], rest_of_root, slope;
  double p;
  int kind, power, root;  // power: p where it is whole; root: the whole part of 1/p
  bool upwards;           // the extreme term is the largest one
  bool divides;           // see PowerSum
  Setting() = default;
  SEMICONV_FN Setting(const Parameters& parameters, int64 kernel)
      : Setting(known_or((double)SEMICONV_PARAMETER(parameters.of<Real>(0, kernel)))) {}
  SEMICONV_FN explicit Setting(double p_) : p(p_) {
    // Where 1/p overflows, the largest number serves: it sends each total to the same limit, but leaves 1, whose
    // logarithm is 0, as it is.
    constexpr double largest = (double)Limits<Real>::largest;
    double inverse = 1 / p;
    if (inverse > largest) inverse = largest;
    if (inverse < -largest) inverse = -largest;
    power = p > -17 && p < 17 && (int)p == p ? (int)p : 0;
    root = inverse > -17 && inverse < 17 ? (int)inverse : 0;
    upwards = p > 0;
    divides = (upwards ? p : 1 - p) > (sizeof(Real) == 4 ? 5 : 19);
    exponents[0] = (Real)p;
    exponents[1] = (Real)(p - 1);
    rest_of_root = (Real)(inverse - root);
    slope = (Real)(inverse - 1);
    if (p > -1 && p < 1) kind = upwards ? flat_up : flat_down;
    else if (power == 0) kind = other;
    else kind = p >= 1 && p <= 4 ? first + power - 1 : whole;
  }
  // The p of these kinds; 0 of the others.
  static constexpr SEMICONV_FN double p_of(int kind) { return kind <= fourth ? 1 + kind - first : 0; }
  SEMICONV_FN bool alike(const Setting& other) const { return kind == other.kind && upwards == other.upwards; }
  SEMICONV_FN bool divides_terms() const { return divides; }
#if defined(SEMICONV_KIND)
  static constexpr SEMICONV_FN int kind_of() { return SEMICONV_KIND; }
  // A p that follows from the kind, so that the compiler computes all of the above from it.
  static SEMICONV_FN double known_or(double p) { return p_of(SEMICONV_KIND) != 0 ? p_of(SEMICONV_KIND) : p; }
#else
  SEMICONV_FN int kind_of() const { return kind; }
  static SEMICONV_FN double known_or(double p) { return p; }
#endif
};
#if defined(SEMICONV_KIND)  // the launcher knows it
constexpr bool has_kinds = false;
#define SEMICONV_OF_ANY_KIND static SEMICONV_FN
#else
constexpr bool has_kinds = true;
#define SEMICONV_OF_ANY_KIND static SEMICONV_OUTLINED  // functions that are called once for many terms
#endif
// A setting whose kind the compiler knows.
template <int KIND> struct OfKind : Setting {
  SEMICONV_FN explicit OfKind(const Setting& setting)
      : Setting(Setting::p_of(KIND) != 0 ? Setting(Setting::p_of(KIND)) : setting) {}
  static constexpr SEMICONV_FN int kind_of() { return KIND; }
};
// A setting of any kind, whose powers a function computes: for loops that run rarely, or in many places.
struct Outlined : Setting {
  SEMICONV_FN explicit Outlined(const Setting& setting) : Setting(setting) {}
};
template <class F> SEMICONV_FN void by_kind(const Setting& setting, F&& loop) {
#if defined(SEMICONV_KIND)
  loop(OfKind<Setting::SEMICONV_KIND>(setting));
#elif defined(SEMICONV_ONE_LOOP)
  loop(Outlined(setting));
#elif defined(SEMICONV_GPU) || defined(SEMICONV_CUDA_ON_CPU)
  if (setting.kind == Setting::other) loop(OfKind<Setting::other>(setting));
  else loop(Outlined(setting));
#else
  switch (setting.kind) {
    case Setting::first: return loop(OfKind<Setting::first>(setting));
    case Setting::second: return loop(OfKind<Setting::second>(setting));
    case Setting::third: return loop(OfKind<Setting::third>(setting));
    case Setting::fourth: return loop(OfKind<Setting::fourth>(setting));
    case Setting::whole: return loop(OfKind<Setting::whole>(setting));
    case Setting::other: return loop(OfKind<Setting::other>(setting));
    case Setting::flat_up: return loop(OfKind<Setting::flat_up>(setting));
    default: return loop(Outlined(setting));
  }
#endif
}

#elif defined(SEMICONV_OWN)

// The parameters of a semifield of the user's own, in the order in which it names them; SEMICONV_OWN of them.
struct Setting {
  Real own[SEMICONV_OWN];
  Setting() = default;
  SEMICONV_FN Setting(const Parameters& parameters, int64 kernel) {
    for (int i = 0; i < SEMICONV_OWN; ++i) own[i] = (Real)parameters.of<Real>(i, kernel);
  }
  SEMICONV_FN bool alike(const Setting& other) const {
    for (int i = 0; i < SEMICONV_OWN; ++i)
      if (own[i] != other.own[i]) return false;
    return true;
  }
};
// What the semifield's expressions call a parameter.
template <class V, int I> SEMICONV_FN V own(const Setting& setting) { return spread<V>(setting.own[I]); }
constexpr bool has_kinds = false;  // of which a launch may need several
using Outlined = Setting;
template <class F> SEMICONV_FN void by_kind(const Setting& setting, F&& loop) { loop(setting); }

#else

struct Setting {
  Setting() = default;
  SEMICONV_FN Setting(const Parameters&, int64) {}
  SEMICONV_FN bool alike(const Setting&) const { return true; }
};
constexpr bool has_kinds = false;  // of which a launch may need several
using Outlined = Setting;
template <class F> SEMICONV_FN void by_kind(const Setting& setting, F&& loop) { loop(setting); }

#endif

// For loops that find extremes: on a GPU a loop for each direction of settings that are alike, so that one instruction
// finds the larger number, or the smaller one.
//
//   by_direction(setting, [&](auto directed) { the loop, directed in place of the setting });
#if (defined(SEMICONV_LOG) || defined(SEMICONV_ROOT)) && (defined(SEMICONV_GPU) || defined(SEMICONV_CUDA_ON_CPU))
template <bool UPWARDS> struct Directed : Setting {
  static constexpr bool upwards = UPWARDS;
  SEMICONV_FN explicit Directed(const Setting& setting) : Setting(setting) {}
};
template <class F> SEMICONV_FN void by_direction(const Setting& setting, F&& loop) {
  if (setting.upwards) loop(Directed<true>(setting));
  else loop(Directed<false>(setting));
}
#else
template <class F> SEMICONV_FN void by_direction(const Setting& setting, F&& loop) { loop(setting); }
#endif

}  // namespace semiconv
