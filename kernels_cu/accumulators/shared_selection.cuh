// SharedSelection: the value of a selection and how many terms are equal to it (SEMICONV_SELECT).
#pragma once
#include "../semifield.cuh"

namespace semiconv {

// Equal winners share the gradient: each of n best terms receives 1 / n of it. Two passes: the first finds
// the best term of a block, the second counts the terms equal to it. A block with a better term than those
// before it starts the count anew (settle). Terms at the semifield's zero are not counted: of a window of
// zeros, no term receives a gradient. Residuals: the best term and the count.
template <class V> struct SharedSelection {
  static constexpr bool two_pass = true;
  static constexpr int residuals = 2;
  static constexpr bool steep = false;
  V best, settled, count;
  SEMICONV_FN void start(const Setting& = {}) {
    best = settled = semifield_zero<V>();
    count = constant<V>(0);
  }
  SEMICONV_FN void observe(V val, const Setting& s) { best = select(best, val, s); }
  SEMICONV_FN void settle(const Setting& = {}) {
    count = where(best == settled, count, constant<V>(0));
    settled = best;
  }
  template <class I> SEMICONV_FN void add(V val, I, const Setting& = {}) {
    const V one = constant<V>(1), none = constant<V>(0);
    count = count + where(val == best, where(best == semifield_zero<V>(), none, one), none);
  }
  SEMICONV_FN void fold() {}
  SEMICONV_FN void join(const SharedSelection& later, const Setting& s) {
    observe(later.best, s);
    settle();
    count = count + where(later.best == best, later.count, constant<V>(0));
  }
  SEMICONV_FN V result(const Setting& = {}) const { return best; }
  SEMICONV_FN V residual(int i, const Setting& = {}) const { return i == 0 ? best : count; }
  struct Derivative {
    V best, share;
    Derivative() = default;
    SEMICONV_FN Derivative(V best_, V count, const Setting&)
        : best(best_), share(where(count > constant<V>(0), constant<V>(1) / count, constant<V>(0))) {}
    SEMICONV_FN V operator()(V val, const Setting&) const { return where(val == best, share, constant<V>(0)); }
  };
};

}  // namespace semiconv
