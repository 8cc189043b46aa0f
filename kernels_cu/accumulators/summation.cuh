// Summation: the ordinary sum, then post_sum (SEMICONV_SUM).
#pragma once
#include "../semifield.cuh"
#include "blocked_sum.cuh"

namespace semiconv {

// Ordinary addition, then post_sum.
template <class V> struct Summation {
  static constexpr bool two_pass = false;
#if defined(SEMICONV_POST_SUM)
  static constexpr int residuals = 1;
#else
  static constexpr int residuals = 0;
#endif
  static constexpr bool steep = residuals > 0;
  BlockedSum<V> sum;
  SEMICONV_FN void start(const Setting& = {}) {
    sum.start();
    sum.total = semifield_zero<V>();
  }
  template <class I> SEMICONV_FN void add(V val, I, const Setting& = {}) { sum.add(val); }
  SEMICONV_FN void fold() { sum.fold(); }
  SEMICONV_FN void join(const Summation& later, const Setting& = {}) { sum.join(later.sum); }
  SEMICONV_FN auto finite() const { return absolute(sum.total) < infinity<V>(); }  // once folded
  SEMICONV_FN V result(const Setting& s = {}) const { return post_sum(sum.result(), s); }
  SEMICONV_FN V residual(int, const Setting& = {}) const { return sum.result(); }
  struct Derivative {
    V d_post;
    SEMICONV_FN Derivative() : d_post(constant<V>(1)) {}
    SEMICONV_FN Derivative(V acc, const Setting& s) : d_post(finite_at_zero(acc, d_post_d_acc(acc, s))) {}
    SEMICONV_FN V operator()(V, const Setting&) const { return d_post; }
  };
};

}  // namespace semiconv
