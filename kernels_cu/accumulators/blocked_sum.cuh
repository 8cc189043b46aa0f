// BlockedSum: a compensated sum of blocks of terms. No accumulator itself: those of sums hold one.
#pragma once
#include "../functions.cuh"

namespace semiconv {

constexpr int terms_per_fold = 16;  // terms that are added plainly before a compensated addition

// Terms are added plainly within a block; the blocks' sums are added to a total whose rounding errors are
// collected in `correction`. So the error stays that of one block, however large the window. fold() is
// Dekker's FastTwoSum (Ogita, Rump, Oishi 2005), which is exact if the total is the larger of the two;
// otherwise the correction is off by a unit roundoff of the block at most.
template <class V> struct BlockedSum {
  V partial, total, correction;
  SEMICONV_FN void start() { partial = total = correction = constant<V>(0); }
  SEMICONV_FN void add(V val) { partial = partial + val; }
  SEMICONV_FN void fold() {
    const V sum = total + partial;
    correction = correction + (partial - (sum - total));
    total = sum;
    partial = constant<V>(0);
  }
  SEMICONV_FN void scale(V factor) {
    total = total * factor;
    correction = correction * factor;
  }
  SEMICONV_FN void join(const BlockedSum& later) {  // both are folded
    partial = later.total;
    fold();
    correction = correction + later.correction;
  }
  // An infinite total has no error term (inf - inf makes it NaN).
  SEMICONV_FN V result() const {
    return where(absolute(total) < infinity<V>(), total + correction, total);
  }
};

}  // namespace semiconv
