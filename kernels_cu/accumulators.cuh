// How the terms of one window become one value: a class for each kind of addition.
//
// Each class has these members; the functions but fold() also take a Setting (setting.cuh):
//   two_pass                 whether terms are seen twice: observe() all of a block, then add() them
//   start()                  the empty window: the semifield's zero
//   observe(val)             the first pass, of two_pass only
//   settle()                 between the passes of a block: rescale the total to the new extreme
//   add(val, index)          one term; index counts the taps in the kernel's memory order
//   fold()                   after about `terms_per_fold` terms: move their sum into the total
//   join(later)              the terms of `later`, all of which come behind its own: blocks that share an output
//   result()                 the window's value, before rounding to Storage
//   residuals, residual(i)   the numbers that the derivative needs besides the terms (not for Provenance)
//   steep                    whether d result / d term can be infinite where the result is finite
//   Derivative(residual...)  d result / d term, a function of the term: derivative(val)
// A schedule may cut a window into blocks as it likes; values differ by rounding only, and not at
// all for selections. V is a scalar (GPU) or a SIMD vector (host).
#pragma once
#include "semifield.cuh"
#include "accumulators/blocked_sum.cuh"
#if defined(SEMICONV_SELECT)
#include "accumulators/selection.cuh"
#include "accumulators/provenance.cuh"
#include "accumulators/shared_selection.cuh"
#elif defined(SEMICONV_LOG)
#include "accumulators/log_sum.cuh"
#elif defined(SEMICONV_ROOT)
#include "accumulators/power_sum.cuh"
#elif defined(SEMICONV_SUM)
#include "accumulators/summation.cuh"
#else
#include "accumulators/folding.cuh"
#endif
#if defined(SEMICONV_SLOPE_COUNT)
#include "accumulators/own_slopes.cuh"
#elif defined(SEMICONV_SLOPES)
#include "accumulators/with_slope.cuh"
#endif

// Whether the residual is the index of the winning tap (semiconv_cupy/residual.py: is_provenance).
#if defined(SEMICONV_SELECT) && !defined(SEMICONV_SPREAD_GRADIENT)
#define SEMICONV_PROVENANCE
#endif

namespace semiconv {

// The accumulator that gives values, and the one whose numbers the derivative needs.
#if defined(SEMICONV_SELECT)
template <class V> using Accumulator = Selection<V>;
template <class V> using Differentiable = SharedSelection<V>;
#elif defined(SEMICONV_LOG)
template <class V> using Accumulator = LogSum<V>;
template <class V> using Differentiable = LogSum<V>;
#elif defined(SEMICONV_ROOT)
template <class V> using Accumulator = PowerSum<V>;
template <class V> using Differentiable = PowerSum<V>;
#elif defined(SEMICONV_SUM)
template <class V> using Accumulator = Summation<V>;
template <class V> using Differentiable = Summation<V>;
#else
template <class V> using Accumulator = Folding<V>;
template <class V> using Differentiable = Folding<V>;
#endif

// The accumulator of a forward pass that writes a residual; I is the type of a tap's index.
#if defined(SEMICONV_PROVENANCE)
template <class V, class I> using WithResidual = Provenance<V, I>;
#elif defined(SEMICONV_SLOPE_COUNT)  // and the derivatives by parameters of the user's own
template <class V, class I> using WithResidual = WithOwnSlopes<V, Differentiable<V>>;
#elif defined(SEMICONV_SLOPES)  // and the derivative by mu or p
template <class V, class I> using WithResidual = WithSlope<V, Differentiable<V>>;
#else
template <class V, class I> using WithResidual = Differentiable<V>;
#endif

// The last product of the chain rule: `flow`, grad_out * d out / d term, times a derivative of the term. If
// one factor is 0 the product is 0, even if the other is infinite: the term does not depend on the number,
// or the output not on the term. NaN in `flow` stays. (docs/numerics.md: "Infinite slopes")
template <class V> SEMICONV_FN V chained(V flow, V derivative) {
  const V none = constant<V>(0), product = flow * derivative;
#if defined(SEMICONV_CONSTANT_DERIVATIVES)
  return where(derivative == none, none, product);
#else
  if constexpr (Differentiable<V>::steep)
    return where((flow == none) | ((derivative == none) & (flow == flow)), none, product);
  else
    return where(flow == none, none, product);
#endif
}
// The same in a loop that knows the kind of a root's p: slopes of p >= 1 are finite.
#if defined(SEMICONV_ROOT)
template <class V, class S> SEMICONV_FN V chained_of_kind(V flow, V derivative, const S& setting) {
  if (setting.kind_of() == Setting::flat_up) return chained(flow, derivative);
  const V none = constant<V>(0);
  return where(flow == none, none, V(flow * derivative));
}
#else
template <class V, class S> SEMICONV_FN V chained_of_kind(V flow, V derivative, const S&) {
  return chained(flow, derivative);
}
#endif

}  // namespace semiconv
