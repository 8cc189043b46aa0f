// BlockedSum: a compensated sum of blocks of terms. No accumulator itself: those of sums hold one.
#pragma once
#include "../functions.cuh"

namespace semiconv {

constexpr int block = 16;  // terms that are added plainly before a compensated addition

// A compensated total of plainly summed blocks: the error stays that of one block, however large the
// window. (Dekker's FastTwoSum; Ogita, Rump, Oishi 2005. Where the total is the smaller of the two,
// the correction is rounded as well, by no more than a unit roundoff of the block.)
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
  // An infinite total has no error term (inf - inf makes it NaN).
  SEMICONV_FN V result() const {
    return where(absolute(total) < infinity<V>(), total + correction, total);
  }
};

}  // namespace semiconv
