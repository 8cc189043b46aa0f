// Exports semiconv_product_linear_backward: the gradients of an ordinary matrix product; called by ctypes from
// semiconv_cupy/backends/host/products.py.
//
// One shared object serves one storage type, any sizes. Returns unproven_sums where a sum is NaN.
#include "product_linear_backward.hpp"
#include "exports.hpp"

using namespace semiconv;

SEMICONV_EXPORT void semiconv_use_walk(OverBlocks walk) { over_blocks = walk; }

SEMICONV_EXPORT int semiconv_product_linear_backward(const Product* product, const Product* gradients,
                                                     const Storage* grad_out, const Storage* img,
                                                     const Storage* krn, Real* grad_img, Real* grad_krn,
                                                     int threads) {
  return product_linear_backward(ProductBackward{*product, *gradients, grad_out, img, krn, nullptr, 0, 0},
                                 grad_img, grad_krn, threads);
}
