// Exports semiconv_structure_in_double: erosions and dilations of integers by a structure whose values need sums in
// double; called by semiconv_cupy/ndimage/host/structures.py as semiconv_structure is.
#include "structure.hpp"
#include "exports.hpp"

using namespace semiconv;

// values and outside are doubles.
SEMICONV_EXPORT int semiconv_structure_in_double(const Mapped* m, const long long* indices, const void* values,
                                                 const double* first, long long count, const Storage* source,
                                                 Storage* out, const void* outside, int minimum, int threads) {
  return !sums_in<double>(*m, indices, values, first, count, source, out, outside, minimum, threads);
}
