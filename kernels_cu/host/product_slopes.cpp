// Exports semiconv_product_slopes: values, the residual that the derivative needs, and the slopes by parameters;
// called by ctypes from semiconv_cupy/backends/host/products.py.
//
// One shared object serves one semifield and one storage type, any sizes.
#define SEMICONV_SLOPES
#include "product.hpp"
#include "exports.hpp"

using namespace semiconv;

SEMICONV_EXPORT void semiconv_use_walk(OverBlocks walk) { over_blocks = walk; }

// residual: see semiconv_cupy/residual.py; itemsize of a winner, plane: elements between the arrays of the
// others.
SEMICONV_EXPORT int semiconv_product_slopes(const Product* p, const Storage* img, const Storage* krn,
                                              Storage* out, void* residual, int64 itemsize, int64 plane,
                                              int threads) {
  const Target target{*p, out, residual, itemsize, plane};
  return product<WithResidual<Vector, Mask>>(*p, img, krn, target, threads);
}
