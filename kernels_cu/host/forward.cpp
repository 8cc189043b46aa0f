// Exports semiconv_forward: values only; called by ctypes from
// semiconv_cupy/backends/host/calls.py.
//
// One shared object serves one semifield and one storage type, any shape.
#include "forward.hpp"
#include "exports.hpp"

using namespace semiconv;

SEMICONV_EXPORT void semiconv_use_walk(OverTiles walk) { over_tiles = walk; }

SEMICONV_EXPORT int semiconv_forward(const Geometry* g, const Storage* img, const Storage* krn,
                                     Storage* out, int absorbing, int threads) {
  const Results results{out, nullptr, 0, 0, g->pixels(), g->out_strides[g->rank + 1]};
  constexpr int strips = Accumulator<Vector>::two_pass ? 2 : 8;
  return forward<Accumulator<Vector>, strips>(*g, img, krn, results, absorbing, threads);
}
