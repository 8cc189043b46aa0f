// Provenance: the value of a selection and the tap that won (SEMICONV_SELECT).
#pragma once
#include "../semifield.cuh"

namespace semiconv {

// The winner is the index of the first tap with the best term, -1 where all terms are the zero or NaN.
template <class V, class I> struct Provenance {
  static constexpr bool two_pass = false;
  static constexpr int residuals = 0;
  V best;
  I winner;
  SEMICONV_FN void start(const Setting& = {}) {
    best = semifield_zero<V>();
    winner = no_winner();
  }
  static SEMICONV_FN I no_winner() { return I{} - 1; }
  SEMICONV_FN void add(V val, I index, const Setting& s) {
    const auto better = selects_right(best, val, s);
    winner = where(better, index, winner);
    if constexpr (plain_extremum && !moves_apart) best = select(best, val, s);
    else assign_where(better, best, val);
  }
  SEMICONV_FN void fold() {}
  SEMICONV_FN void join(const Provenance& later, const Setting& s) { add(later.best, later.winner, s); }
  SEMICONV_FN V result(const Setting& = {}) const { return best; }
};

}  // namespace semiconv
