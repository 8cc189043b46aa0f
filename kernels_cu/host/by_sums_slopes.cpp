// Exports semiconv_by_sums_slopes: values of log and root by ordinary sums, and their slopes by mu or p; called
// by ctypes from semiconv_cupy/backends/host/calls.py.
//
// One shared object serves one semifield and one storage type, any shape.
#define SEMICONV_SLOPES
#define SEMICONV_ONE_LOOP  // of outputs that are computed directly
#include "by_sums.hpp"
#include "exports.hpp"

using namespace semiconv;

SEMICONV_EXPORT void semiconv_use_walk(GetTileFunctions functions) { tile_functions = functions(); }

// residual: the slopes alone, as out lies; itemsize and plane as of forward_slopes.cpp.
SEMICONV_EXPORT int semiconv_by_sums_slopes(const Geometry* g, const Storage* img, const Storage* krn,
                                            Storage* out, void* residual, int64 itemsize, int64 plane,
                                            int absorbing, int threads) {
  const Results results{out, residual, itemsize, plane, g->pixels(), g->out_strides[g->rank + 1]};
  return forward_by_sums(*g, img, krn, results, absorbing, threads);
}
