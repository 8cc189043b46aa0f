// Exports semiconv_product_backward: the gradients of a matrix product's operands; called by ctypes from
// semiconv_cupy/backends/host/products.py.
//
// One shared object serves one semifield and one storage type, any sizes.
#include "product_backward.hpp"
#include "exports.hpp"

using namespace semiconv;

SEMICONV_EXPORT int semiconv_product_backward(const Product* product, const Product* gradients,
                                              const Storage* grad_out, const Storage* img,
                                              const Storage* krn, const void* residual, int64 itemsize,
                                              int64 plane, Real* grad_img, Real* grad_krn, int threads) {
  const ProductBackward call{*product, *gradients, grad_out, img, krn, residual, itemsize, plane};
  return product_backward(call, grad_img, grad_krn, threads);
}
