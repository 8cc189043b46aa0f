// The extreme numbers of what is transformed together, from which its shift follows (by_sums.cuh).
#pragma once
#include "../by_sums.cuh"

namespace semiconv {

// The extreme numbers of an array or a part of it; none: those of nothing.
struct Extremes {
  Real first, last;
  SEMICONV_FN Extremes()
      : first(BySums<Real>::upwards ? negative_infinity<Real>() : infinity<Real>()), last(-first) {}
  SEMICONV_FN void see(Real a, Real b) {
    first = BySums<Real>::larger(first, a);
    last = BySums<Real>::smaller(last, b);
  }
  SEMICONV_FN Range<Real> range() const {
    const bool any = absolute(first) < infinity<Real>();
    const Real none = BySums<Real>::neutral();
    return Range<Real>(any ? first : none, any ? last : none);
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
