// Exports semiconv_footprint: flat erosions and dilations over footprints, of one storage type; called by
// semiconv_cupy/ndimage/host/flat.py.
#if !defined(__clang__)
#pragma GCC optimize("O2", "tree-vectorize", "vect-cost-model=dynamic")  // as fast as -O3, compiled in half the time
#endif
#include "footprints.hpp"
#include "exports.hpp"

using namespace semiconv;

SEMICONV_EXPORT int semiconv_footprint(const Mapped* mapped, const Lookup* lookups, long long count,
                                       long long levels, const Storage* source, Storage* out,
                                       const Storage* outside, int minimum, int threads) {
  const auto run = minimum ? footprint_extremum<true> : footprint_extremum<false>;
  return !run(*mapped, lookups, count, levels, (const Key*)source, (Key*)out, bits_of(*outside), threads);
}
