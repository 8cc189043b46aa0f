// A matrix product: out[s, f, p] = (+) over c of img[s, f, c] (x) krn[s, p, c].
//
// semiconv_cupy/product.py makes the plan, and structs.py declares the structs' twins; a test compares the
// layouts. Each of the indices s, f, p, c counts through levels, the first one outermost. All strides are
// in elements, 0 where an array lacks the axis, and may be negative. The order of `contracted` is that of
// the kernel in memory: ties are decided by it, and winners have these numbers. A residual lies as `out`.
#pragma once
#include "integers.cuh"
#include "parameters.cuh"

namespace semiconv {

constexpr int max_levels = max_rank + 1;  // MAX_LEVELS in Python

struct Level {
  int64 size, img, krn, out;
};

struct Product {
  int64 shared_levels, free_levels, produced_levels, contracted_levels;
  Level shared[max_levels], free[max_levels], produced[max_levels], contracted[max_levels];
  int64 matrix_step;  // from the kernels of a matrix to those of the next, as they number parameters
  Parameters parameters;
};

// The number of values of an index.
SEMICONV_INLINE int64 size_of(const Level* levels, int64 count) {
  int64 size = 1;
  for (int64 l = 0; l < count; ++l) size *= levels[l].size;
  return size;
}

}  // namespace semiconv
