// Envelopes of parabolas along a line: what counts as a value, when two candidates are too close to be told
// apart, and what is stored; on GPU and host.
//
//     out[x] = min over y of value[y] + cost[|x - y|],    cost[r] = weight r^2
//
// Everything is computed in double, of any storage type; a maximum is the minimum of negated values. Among equal
// candidates the one of least y wins.
//
// The y that wins never decreases with x, since cost is convex. So if `first` is the least y that might win at an
// x, and `last` the greatest, everything on the right needs no y before `first`, everything on the left none after
// `last`. That holds for exact sums; rounding may turn two candidates about whose sums differ by less than
// `near_ties` times the greatest finite magnitude on the line. Where sums are rounded, `first` and `last` enclose
// all candidates that are so close to the best one. Then the result is the least of all rounded sums, in whatever
// order they are compared.
#pragma once
#include "filters.cuh"

namespace semiconv {

// Of any two candidates that matter, values and costs are at most twice the greatest magnitude; each of four sums
// is off by half a last place of them.
constexpr double near_ties = 16 * 1.1102230246251565e-16;
// From here on `first` and `last` are the best candidate itself: scales so large that nearly equal candidates are
// so many change a value by its last place only, and time would grow with the square of the length.
constexpr int64 most_near_ties = 1024;

// What a result becomes when it is stored.
enum Finish { to_nearest = 0, upward = 1, downward = 2, square_root = 3 };
// A double that is so little beside an integer stands for the integer: sums of the values of an image and of costs,
// of which a cost was added and subtracted again. Never so much that an integer would stand for another one.
constexpr double near_whole = 2.3283064365386963e-10, near_whole_relative = 8.881784197001252e-16, nearest_whole = 0.25;

// A stored number, negated in a maximum; NaN never wins.
SEMICONV_FN double parabola_value(double stored, bool maximum) {
  const double value = maximum ? -stored : stored;
  return value == value ? value : Extreme<double>::highest();
}

// A result as the number that is stored: a root, or the integer that is nearest, or the next one up or down.
template <class S> SEMICONV_FN S finished(double result, bool maximum, int finish) {
  const double value = maximum ? 0 - result : result;  // never -0, as sums are
  if constexpr (Same<S, boolean>::value) {
    return Converted<S>::from(value);
  } else if constexpr (Limits<typename RealOf<S>::type>::integer) {
    const double off = near_whole + near_whole_relative * (value < 0 ? -value : value);
    const double near = off < nearest_whole ? off : nearest_whole;
    const double whole = finish == to_nearest ? ::rint(value)
                         : finish == upward   ? ::ceil(value - near)
                                              : ::floor(value + near);
    return stored_sum<double, S, typename RealOf<S>::type>(whole);
  } else if constexpr (sizeof(S) == 2) {
    return Converted<S>::from(value);
  } else {
    return (S)(finish == square_root ? ::sqrt(value) : value);
  }
}

}  // namespace semiconv
