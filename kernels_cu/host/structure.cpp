// Exports semiconv_structure: erosions and dilations by a structure, of one storage type; called by
// semiconv_cupy/ndimage/host/structures.py. Values are added in erosions too: the caller negates them.
#if !defined(__clang__)
#pragma GCC optimize("O2", "tree-vectorize", "vect-cost-model=dynamic")  // as fast as -O3, compiled in half the time
#endif
#include "structure.hpp"
#include "exports.hpp"

using namespace semiconv;

namespace {

template <class W>
bool sums_in(const Mapped& m, const int64* indices, const void* values,
             const double* first, int64 count,
             const Storage* source, Storage* out, const void* outside, int, int minimum, int threads) {
  const auto run = minimum ? structure_extremum<true, StructureReducer<W, true>, W>
                           : structure_extremum<false, StructureReducer<W, false>, W>;
  return run(m, indices, (const W*)values, first, count, source, out, *(const W*)outside, threads);
}

// Sums in SumOf<R>. 64-bit integers have no wider type: each sum saturates.
template <class R, bool SATURATING = Limits<R>::integer && sizeof(R) == 8> struct Exact {
  static constexpr auto run = sums_in<typename SumOf<R>::type>;
};
template <class R> struct Exact<R, true> {
  static bool run(const Mapped& m, const int64* indices, const void* values,
             const double* first, int64 count,
                  const Storage* source, Storage* out, const void* outside, int absent, int minimum,
                  int threads) {
    constexpr decltype(&structure_extremum<true, SaturatingReducer<R, true, false>, int64>) extrema[] = {
        structure_extremum<false, SaturatingReducer<R, false, false>, int64>,
        structure_extremum<true, SaturatingReducer<R, true, false>, int64>,
        structure_extremum<false, SaturatingReducer<R, false, true>, int64>,
        structure_extremum<true, SaturatingReducer<R, true, true>, int64>,
    };
    const auto extremum = extrema[2 * absent + minimum];
    return extremum(m, indices, (const int64*)values, first, count, source, out, *(const R*)outside, threads);
  }
};

}  // namespace

// values and outside: doubles where `precise`, else of SumOf<Real> (values of 64 bits: signed).
// first: the first value before it was rounded, or nullptr where it needed no rounding.
// absent (64-bit integers): what lies outside takes no part, and `outside` is a number that no element equals.
SEMICONV_EXPORT int semiconv_structure(const Mapped* m, const long long* indices, const void* values,
                                       const double* first, long long count, const Storage* source, Storage* out,
                                       const void* outside, int precise, int absent, int minimum,
                                       int threads) {
  const auto run = precise ? sums_in<double> : Exact<Real>::run;
  return !run(*m, indices, values, first, count, source, out, outside, absent, minimum, threads);
}
