// A semifield's terms and accumulators in vector registers, as convolutions and matrix products take them.
#pragma once
#include "simd.hpp"
#include "accumulators.cuh"
#include "geometry.cuh"

namespace semiconv {

#if defined(SEMICONV_PLAIN_TIMES) && !defined(SEMICONV_INTEGER) && defined(__FMA__)
// img + krn as img * 1 + krn, the same bits: multipliers do it, while the adders of common machines
// are busy with the maximum. The compiler must not see that it is a 1.
SEMICONV_FN Vector times(Vector img, Vector krn, const Setting&) {
  return img * opaque(broadcast(1)) + (SEMICONV_PLAIN_TIMES);
}
#endif

template <class V> struct UsesProvenance { static constexpr bool value = false; };
#if defined(SEMICONV_SELECT)
template <class V, class I> struct UsesProvenance<Provenance<V, I>> { static constexpr bool value = true; };
#endif

// The zero that stands outside the image, and whether it changes no window.
struct Border {
  Setting setting;  // of the first kernel
  Real zero;
  bool absorbs;
  // `absorbing`: it absorbs every finite weight. Kernels whose zeros differ have none in common.
  Border(const Geometry& g, bool absorbing)
      : setting(g.parameters, 0), zero(semifield_zero<Real>(setting)), absorbs(absorbing) {
    if constexpr (zero_follows) {
      for (int64 kernel = 1; kernel < g.parameters.channels; ++kernel)
        absorbs = absorbs && semifield_zero<Real>(Setting(g.parameters, kernel)) == zero;
#if defined(SEMICONV_ROOT)
      absorbs = absorbs && setting.upwards;  // inf * 0 is NaN
#endif
    }
  }
};

// Whether the multiplication is the same in both orders, so that one loop serves these.
#if defined(SEMICONV_LOG) || defined(SEMICONV_ROOT)
constexpr bool commutes = true;
#else
constexpr bool commutes = false;
#endif

// Whether an accumulator has to fold. A selection has nothing to fold.
#if defined(SEMICONV_SELECT)
constexpr bool folds = false;
#else
constexpr bool folds = true;
#endif

}  // namespace semiconv
