// Exports semiconv_structure_absent: erosions and dilations of 64-bit integers by a structure, where what lies
// outside takes no part; called by semiconv_cupy/ndimage/host/structures.py as semiconv_structure is.
#include "structure.hpp"
#include "exports.hpp"

using namespace semiconv;

// `outside` is a number that no element equals.
SEMICONV_EXPORT int semiconv_structure_absent(const Mapped* m, const long long* indices, const void* values,
                                              const double* first, long long count, const Storage* source,
                                              Storage* out, const void* outside, int minimum, int threads) {
  return !saturating<Real, true>(*m, indices, values, first, count, source, out, outside, minimum, threads);
}
