// Exports semiconv_structure: erosions and dilations by a structure, of one storage type; called by
// semiconv_cupy/ndimage/host/structures.py. Values are added in erosions too: the caller negates them.
// structure_in_double.cpp and structure_absent.cpp have what few calls need.
#include "structure.hpp"
#include "exports.hpp"

using namespace semiconv;

// values and outside: of SumOf<Real> (values of 64 bits: signed). first: the first value before it was rounded,
// or nullptr where it needed no rounding.
SEMICONV_EXPORT int semiconv_structure(const Mapped* m, const long long* indices, const void* values,
                                       const double* first, long long count, const Storage* source, Storage* out,
                                       const void* outside, int minimum, int threads) {
  return !Exact<Real>::run(*m, indices, values, first, count, source, out, outside, minimum, threads);
}
