// Exports semiconv_product_by_sums_backward: the gradients of a matrix product in log or root by ordinary sums;
// called by ctypes from semiconv_cupy/backends/host/products.py.
//
// One shared object serves one semifield and one storage type, any sizes. No level of a gradient may have the
// stride 0. Returns unproven_sums where a sum proves nothing.
#define SEMICONV_ONE_LOOP  // of outputs that are computed directly: few
#include "product_by_sums_backward.hpp"
#include "exports.hpp"

using namespace semiconv;

SEMICONV_EXPORT void semiconv_use_walk(OverBlocks walk) { over_blocks = walk; }

SEMICONV_EXPORT int semiconv_product_by_sums_backward(const Product* product, const Product* gradients,
                                                      const Storage* grad_out, const Storage* img,
                                                      const Storage* krn, Real* grad_img, Real* grad_krn,
                                                      int threads) {
  const ProductBackward call{*product, *gradients, grad_out, img, krn, nullptr, 0, 0};
  return product_by_sums_backward(call, grad_img, grad_krn, threads);
}
