// The extreme numbers of what is transformed together, from which its shift follows (by_sums.cuh).
#pragma once
#include "../by_sums.cuh"

namespace semiconv {

// The extreme numbers of an array or a part of it; none: those of nothing.
struct Extremes {
  const BySums<Real>& e;
  Real first, last;
  SEMICONV_FN explicit Extremes(const BySums<Real>& e_)
      : e(e_), first(e_.upwards() ? negative_infinity<Real>() : infinity<Real>()), last(-first) {}
  SEMICONV_FN void see(Real a, Real b) {
    first = e.larger(first, a);
    last = e.smaller(last, b);
  }
  SEMICONV_FN Range<Real> range() const {
    const bool any = absolute(first) < infinity<Real>();
    const Real none = e.neutral();
    return Range<Real>(e, any ? first : none, any ? last : none);
  }
};

// The n-th of the ranges that a kernel left, two numbers each.
SEMICONV_FN Range<Real> range_of(const Real* ranges, int64 n) {
  Range<Real> range;
  range.shift = ranges[n * 2];
  range.smallest = ranges[n * 2 + 1];
  return range;
}

}  // namespace semiconv
