// Exports semiconv_backward: gradients of image and kernel; called by ctypes from
// semiconv_cupy/backends/host/calls.py.
//
// One shared object serves one semifield and one storage type, any shape.
#include "backward.hpp"
#include "exports.hpp"

using namespace semiconv;

SEMICONV_EXPORT void semiconv_use_walk(GetTileFunctions functions) { tile_functions = functions(); }

SEMICONV_EXPORT int semiconv_backward(const Geometry* g, const Storage* grad_out, const Storage* img,
                                      const Storage* krn, const void* residual, int64 itemsize,
                                      int64 plane, Real* grad_img, Real* grad_krn,
                                      const int64* grad_img_strides, int absorbing, int threads) {
  const Backward call{grad_out, img, krn, residual, itemsize, plane, grad_img, grad_krn, grad_img_strides};
  return backward(*g, call, absorbing, threads);
}
