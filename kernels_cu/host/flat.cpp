// Exports semiconv_flat: flat erosions and dilations over boxes, of one storage type; called by
// semiconv_cupy/ndimage/host/flat.py.
#if !defined(__clang__)
#pragma GCC optimize("O2", "tree-vectorize", "vect-cost-model=dynamic")  // as fast as -O3, compiled in half the time
#endif
#include "boxes.hpp"
#include "exports.hpp"

using namespace semiconv;

SEMICONV_EXPORT int semiconv_flat(const Box* box, const Storage* source, Storage* out,
                                  const Storage* outside, int minimum, int threads) {
  return !box_extremum(*box, (const Key*)source, (Key*)out, bits_of(*outside), minimum, threads);
}
