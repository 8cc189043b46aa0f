// Exports semiconv_by_sums_backward: gradients of log and root by ordinary sums; called by ctypes from
// semiconv_cupy/backends/host/calls.py.
//
// One shared object serves one semifield and one storage type, any shape.
#define SEMICONV_ONE_LOOP  // of outputs that are computed directly: few
#include "by_sums_backward.hpp"
#include "exports.hpp"

using namespace semiconv;

SEMICONV_EXPORT void semiconv_use_walk(GetTileFunctions functions) { tile_functions = functions(); }

SEMICONV_EXPORT int semiconv_by_sums_backward(const Geometry* g, const Storage* grad_out,
                                             const Storage* img, const Storage* krn, Real* grad_img,
                                             Real* grad_krn, const int64* grad_img_strides,
                                             int absorbing, int threads) {
  const Backward call{grad_out, img, krn, nullptr, 0, 0, grad_img, grad_krn, grad_img_strides};
  return backward_by_sums(*g, call, absorbing, threads);
}
