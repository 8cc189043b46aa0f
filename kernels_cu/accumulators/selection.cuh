// Selection: the value of a selection, which is one of the terms (SEMICONV_SELECT).
#pragma once
#include "../semifield.cuh"

namespace semiconv {

// One of the terms: the first in the kernel's memory order that no other beats.
template <class V> struct Selection {
  static constexpr bool two_pass = false;
  static constexpr int residuals = 0;
  V best;
  SEMICONV_FN void start(const Setting& = {}) { best = semifield_zero<V>(); }
  template <class I> SEMICONV_FN void add(V val, I, const Setting& s) { best = select(best, val, s); }
  SEMICONV_FN void fold() {}
  SEMICONV_FN void join(const Selection& later, const Setting& s) { best = select(best, later.best, s); }
  SEMICONV_FN V result(const Setting& = {}) const { return best; }
};

}  // namespace semiconv
