// Exports semiconv_forward_slopes: values, the residual that the derivative needs, and the slopes by parameters;
// called by ctypes from semiconv_cupy/backends/host/calls.py.
//
// One shared object serves one semifield and one storage type, any shape.
#define SEMICONV_SLOPES
#include "forward.hpp"
#include "exports.hpp"

using namespace semiconv;

SEMICONV_EXPORT void semiconv_use_walk(OverTiles walk) { over_tiles = walk; }

// residual: see semiconv_cupy/residual.py; itemsize of a provenance index, plane: elements between
// the arrays of the others.
SEMICONV_EXPORT int semiconv_forward_slopes(const Geometry* g, const Storage* img,
                                              const Storage* krn, Storage* out, void* residual,
                                              int64 itemsize, int64 plane, int absorbing,
                                              int threads) {
  const Results results{out, residual, itemsize, plane, g->pixels(), g->out_strides[g->rank + 1]};
  using A = WithResidual<Vector, Mask>;
  return forward<A, 2>(*g, img, krn, results, absorbing, threads);
}
