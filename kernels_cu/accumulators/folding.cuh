// Folding: an addition of the user's own, folded from the left (SEMICONV_ADD).
#pragma once
#include "../semifield.cuh"

namespace semiconv {

// The sum of all terms so far is the residual; the derivative by a term subtracts it again.
template <class V> struct Folding {
  static constexpr bool two_pass = false;
  static constexpr int residuals = 1;
  static constexpr bool steep = true;
  V acc;
  SEMICONV_FN void start(const Setting& = {}) { acc = semifield_zero<V>(); }
  template <class I> SEMICONV_FN void add(V val, I, const Setting& s) { acc = semiconv::add(acc, val, s); }
  SEMICONV_FN void fold() {}
  SEMICONV_FN void join(const Folding& later, const Setting& s) { acc = semiconv::add(acc, later.acc, s); }
  SEMICONV_FN V result(const Setting& s) const { return post_sum(acc, s); }
  SEMICONV_FN V residual(int, const Setting& = {}) const { return acc; }
#if defined(SEMICONV_SUBTRACT)
  struct Derivative {
    V acc, d_post;
    Derivative() = default;
    SEMICONV_FN Derivative(V acc_, const Setting& s) : acc(acc_), d_post(d_post_d_acc(acc_, s)) {}
    SEMICONV_FN V operator()(V val, const Setting& s) const {
      // What is left of numbers without the last of them may be less than nothing, by rounding: a
      // root of it is NaN. Then nothing is left.
      const V left = subtract(acc, val, s);
      const V rest = where(left == left, left, where(acc == acc, semifield_zero<V>(), left));
      return finite_at_zero(acc, V(d_add_d_right(rest, val, s) * d_post));
    }
  };
#endif
};

}  // namespace semiconv
