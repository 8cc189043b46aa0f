// A semifield's terms and accumulators in vector registers, as convolutions and matrix products take them.
#pragma once
#include "simd.hpp"
#include "accumulators.cuh"

namespace semiconv {

#if defined(SEMICONV_PLAIN_TIMES) && !defined(SEMICONV_INTEGER) && defined(__FMA__)
// img + krn as img * 1 + krn, the same bits: multipliers do it, while the adders of common machines
// are busy with the maximum. The compiler must not see that it is a 1.
SEMICONV_FN Vector times(Vector img, Vector krn) {
  return img * opaque(broadcast(1)) + (SEMICONV_PLAIN_TIMES);
}
#endif

template <class V> struct UsesProvenance { static constexpr bool value = false; };
#if defined(SEMICONV_SELECT)
template <class V, class I> struct UsesProvenance<Provenance<V, I>> { static constexpr bool value = true; };
#endif

// Whether an accumulator has to fold. A selection has nothing to fold.
#if defined(SEMICONV_SELECT)
constexpr bool folds = false;
#else
constexpr bool folds = true;
#endif

}  // namespace semiconv
