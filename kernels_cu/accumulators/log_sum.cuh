// LogSum: ln(sum e^(mu val)) / mu (SEMICONV_LOG); mu is the setting's.
#pragma once
#include "../semifield.cuh"
#include "blocked_sum.cuh"

namespace semiconv {

// The exponentials are relative to the window's extreme term, e^(mu (val - shift)): none overflows, and the
// derivatives sum to 1 at any magnitude. The first pass finds the extreme, the second adds the exponentials;
// a block with a new extreme scales the total down (settle). Residuals: the shift and the total.
template <class V> struct LogSum {
  static constexpr bool two_pass = true;
  static constexpr int residuals = 2;
  static constexpr bool steep = false;
  V extreme, shift;
  BlockedSum<V> sum;
  static SEMICONV_FN V mu(const Setting& s) { return spread<V>(s.mu); }
  static SEMICONV_FN V most_exponent() { return constant<V>(Limits<Scalar<V>>::most_exponent); }
  // The infinity that is not the zero: one such term decides the result, and receives all of the gradient.
  static SEMICONV_FN V infinite(const Setting& s) { return s.upwards ? infinity<V>() : negative_infinity<V>(); }
  // 0 for a window of zeros; the largest finite number where the extreme is infinite.
  static SEMICONV_FN V shift_of(V extreme, const Setting& s) {
    const V largest = constant<V>(Limits<Scalar<V>>::largest);
    const V shift = s.upwards ? minimum(extreme, largest) : maximum(extreme, V(-largest));
    return where(extreme == semifield_zero<V>(s), constant<V>(0), shift);
  }
  // e^(mu (val - shift)). An exponent is at most 0, but for an infinite term: that gives e^most_exponent, beside
  // which all other terms vanish, so that the total counts infinite terms. minimum() returns its first argument
  // if that is NaN; select_less() would not.
  static SEMICONV_FN V exponent_of(V val, V shift, const Setting& s) {
    return minimum(V(mu(s) * (val - shift)), most_exponent());
  }
  SEMICONV_FN void start(const Setting& s) {
    extreme = semifield_zero<V>(s);
    shift = constant<V>(0);
    sum.start();
  }
  template <class S> SEMICONV_FN void observe(V val, const S& s) {
    extreme = s.upwards ? select_greater(extreme, val) : select_less(extreme, val);
  }
  // Returns what the total was multiplied by.
  SEMICONV_FN V settle(const Setting& s) {
    const V settled = shift_of(extreme, s);
    // A total of 0 (nothing yet) stays 0; e^(mu (shift - settled)) <= 1 otherwise.
    const V exponent = mu(s) * (shift - settled);
    const V factor = bounded_exp(minimum(exponent, constant<V>(0)));
    sum.scale(factor);
    shift = settled;
    return factor;
  }
  // What a term adds to the total.
  SEMICONV_FN V share(V val, const Setting& s) const { return bounded_exp(exponent_of(val, shift, s)); }
  template <class I> SEMICONV_FN void add(V val, I, const Setting& s) { sum.add(share(val, s)); }
  SEMICONV_FN void fold() { sum.fold(); }
  // Two parts of a window take the same extreme; both must settle then.
  SEMICONV_FN void meet(LogSum& later, const Setting& s) {
    observe(later.extreme, s);
    later.extreme = extreme;
  }
  SEMICONV_FN void join(LogSum later, const Setting& s) {
    meet(later, s);
    settle(s);
    later.settle(s);
    sum.join(later.sum);
  }
  SEMICONV_FN V result(const Setting& s) const {
    const V total = sum.result();
    const V value = shift + log(total) / mu(s);
    return where(extreme == infinite(s), where(total == total, infinite(s), total), value);
  }
  // Of a window with infinite terms: the infinity and their number.
  SEMICONV_FN V residual(int i, const Setting& s) const {
    const auto counted = extreme == infinite(s);
    const V total = sum.result();
    return i == 0 ? where(counted, infinite(s), shift)
                  : where(counted, V(total / bounded_exp(most_exponent())), total);
  }
  struct Derivative {
    V shift, scale;
    Derivative() = default;
    SEMICONV_FN Derivative(V shift_, V total, const Setting&)
        : shift(shift_),
          scale(where(total == constant<V>(0), constant<V>(0), V(constant<V>(1) / total))) {}
    // An infinite term minus an infinite shift is NaN, for which minimum() returns its first argument, 0.
    // (If a term is NaN, the total is NaN too.)
    SEMICONV_FN V operator()(V val, const Setting& s) const {
      return bounded_exp(minimum(constant<V>(0), V(mu(s) * (val - shift)))) * scale;
    }
  };
};

}  // namespace semiconv
