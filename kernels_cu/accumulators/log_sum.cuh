// LogSum: ln(sum e^(mu val)) / mu, mu being SEMICONV_PARAMETER (SEMICONV_LOG).
#pragma once
#include "../semifield.cuh"
#include "blocked_sum.cuh"

namespace semiconv {

// ln(sum e^(mu val)) / mu, the exponentials relative to the window's own extreme term: no overflow,
// and weights that sum to 1 at any magnitude.
template <class V> struct LogSum {
  static constexpr bool two_pass = true;
  static constexpr int residuals = 2;
  static constexpr bool steep = false;
  static constexpr bool upwards = SEMICONV_PARAMETER > 0;
  V extreme, shift;
  BlockedSum<V> sum;
  static SEMICONV_FN V mu() { return constant<V>(SEMICONV_PARAMETER); }
  static SEMICONV_FN V most_exponent() { return constant<V>(Limits<Scalar<V>>::most_exponent); }
  // The infinity that is not the zero: one such term makes the result, and all of the gradient.
  static SEMICONV_FN V infinite() { return upwards ? infinity<V>() : negative_infinity<V>(); }
  // Of windows of zeros only, 0. Of those with an infinity the last number before it.
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
    // Exponents are at most 0 but for an infinite term's, whose e^most_exponent counts it: beside it
    // all others vanish. NaN stays NaN in this order of minimum()'s arguments, not in select_less().
    sum.add(bounded_exp(minimum(mu() * (val - shift), most_exponent())));
  }
  SEMICONV_FN void fold() { sum.fold(); }
  SEMICONV_FN V result() const {
    const V total = sum.result();
    const V value = shift + log(total) / mu();
    return where(extreme == infinite(), where(total == total, infinite(), total), value);
  }
  // Of a window with infinite terms: what they are, and how many.
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
    // An infinite term minus an infinite shift is NaN, of which this order of minimum()'s arguments
    // makes 0. (Where a term is NaN, so is the total.)
    SEMICONV_FN V operator()(V val) const {
      return bounded_exp(minimum(constant<V>(0), V(mu() * (val - shift)))) * scale;
    }
  };
};

}  // namespace semiconv
