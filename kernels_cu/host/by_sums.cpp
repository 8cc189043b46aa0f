// Exports semiconv_by_sums: values of log and root by ordinary sums; called by ctypes from
// semiconv_cupy/backends/host/calls.py.
//
// One shared object serves one semifield and one storage type, any shape.
#define SEMICONV_ONE_LOOP  // of outputs that are computed directly: few
#include "by_sums.hpp"
#include "exports.hpp"

using namespace semiconv;

SEMICONV_EXPORT void semiconv_use_walk(GetTileFunctions functions) { tile_functions = functions(); }

SEMICONV_EXPORT int semiconv_by_sums(const Geometry* g, const Storage* img, const Storage* krn,
                                    Storage* out, int absorbing, int threads) {
  const Results results{out, nullptr, 0, 0, g->pixels(), g->out_strides[g->rank + 1]};
  return forward_by_sums(*g, img, krn, results, absorbing, threads);
}
