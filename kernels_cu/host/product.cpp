// Exports semiconv_product: the values of a matrix product; called by ctypes from
// semiconv_cupy/backends/host/products.py.
//
// One shared object serves one semifield and one storage type, any sizes.
#include "product.hpp"
#include "exports.hpp"

using namespace semiconv;

SEMICONV_EXPORT void semiconv_use_walk(OverBlocks walk) { over_blocks = walk; }

SEMICONV_EXPORT int semiconv_product(const Product* p, const Storage* img, const Storage* krn,
                                     Storage* out, int threads) {
  const Target target{*p, out, nullptr, 0, 0};
  return product<Accumulator<Vector>>(*p, img, krn, target, threads);
}
