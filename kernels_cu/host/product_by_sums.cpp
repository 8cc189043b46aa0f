// Exports semiconv_product_by_sums: a matrix product in log or root by ordinary sums; called by ctypes from
// semiconv_cupy/backends/host/products.py.
//
// One shared object serves one semifield and one storage type, any sizes.
#define SEMICONV_ONE_LOOP  // of outputs that are computed directly: few
#include "product_by_sums.hpp"
#include "exports.hpp"

using namespace semiconv;

SEMICONV_EXPORT void semiconv_use_walk(OverBlocks walk) { over_blocks = walk; }

SEMICONV_EXPORT int semiconv_product_by_sums(const Product* p, const Storage* img, const Storage* krn,
                                             Storage* out, int threads) {
  return krn_along_lanes(*p, 2 * lanes) ? product_by_sums<true>(*p, img, krn, out, threads)
                                        : product_by_sums<false>(*p, img, krn, out, threads);
}
