// LogSum: ln(sum e^(mu val)) / mu, mu being SEMICONV_PARAMETER (SEMICONV_LOG).
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
  static constexpr bool upwards = SEMICONV_PARAMETER > 0;
  V extreme, shift;
  BlockedSum<V> sum;
  static SEMICONV_FN V mu() { return constant<V>(SEMICONV_PARAMETER); }
  static SEMICONV_FN V most_exponent() { return constant<V>(Limits<Scalar<V>>::most_exponent); }
  // The infinity that is not the zero: one such term decides the result, and receives all of the gradient.
  static SEMICONV_FN V infinite() { return upwards ? infinity<V>() : negative_infinity<V>(); }
  // 0 for a window of zeros; the largest finite number where the extreme is infinite.
  static SEMICONV_FN V shift_of(V extreme) {
    const V largest = constant<V>(Limits<Scalar<V>>::largest);
    const V shift = upwards ? minimum(extreme, largest) : maximum(extreme, V(-largest));
    return where(extreme == semifield_zero<V>(), constant<V>(0), shift);
  }
  SEMICONV_FN void start() {
    extreme = semifield_zero<V>();
    shift = constant<V>(0);
    sum.start();
  }
  SEMICONV_FN void observe(V val) {
    extreme = upwards ? select_greater(extreme, val) : select_less(extreme, val);
  }
  SEMICONV_FN void settle() {
    const V settled = shift_of(extreme);
    // A total of 0 (nothing yet) stays 0; e^(mu (shift - settled)) <= 1 otherwise.
    const V exponent = mu() * (shift - settled);
    const V factor = bounded_exp(minimum(exponent, constant<V>(0)));
    sum.scale(factor);
    shift = settled;
  }
  template <class I> SEMICONV_FN void add(V val, I) {
    // An exponent is at most 0, but for an infinite term: that adds e^most_exponent, beside which all other
    // terms vanish, so that the total counts infinite terms. minimum() returns its first argument if that is
    // NaN; select_less() would not.
    sum.add(bounded_exp(minimum(mu() * (val - shift), most_exponent())));
  }
  SEMICONV_FN void fold() { sum.fold(); }
  SEMICONV_FN void join(LogSum later) {
    observe(later.extreme);
    settle();
    later.extreme = extreme;
    later.settle();  // its total becomes relative to the same shift
    sum.join(later.sum);
  }
  SEMICONV_FN V result() const {
    const V total = sum.result();
    const V value = shift + log(total) / mu();
    return where(extreme == infinite(), where(total == total, infinite(), total), value);
  }
  // Of a window with infinite terms: the infinity and their number.
  SEMICONV_FN V residual(int i) const {
    const auto counted = extreme == infinite();
    const V total = sum.result();
    return i == 0 ? where(counted, infinite(), shift)
                  : where(counted, V(total / bounded_exp(most_exponent())), total);
  }
  struct Derivative {
    V shift, scale;
    Derivative() = default;
    SEMICONV_FN Derivative(V shift_, V total)
        : shift(shift_),
          scale(where(total == constant<V>(0), constant<V>(0), V(constant<V>(1) / total))) {}
    // An infinite term minus an infinite shift is NaN, for which minimum() returns its first argument, 0.
    // (If a term is NaN, the total is NaN too.)
    SEMICONV_FN V operator()(V val) const {
      return bounded_exp(minimum(constant<V>(0), V(mu() * (val - shift)))) * scale;
    }
  };
};

}  // namespace semiconv
