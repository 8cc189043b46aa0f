// Exports semiconv_correlate: weighted sums in double precision for every pair of dtypes; called by
// semiconv_cupy/ndimage/host/sums.py.
//
// One shared object serves all dtypes. Products are rounded, and added tap by tap in the given order:
// results are SciPy's to the last bit.
#if defined(__clang__)
#pragma clang fp contract(off)
#else
#pragma GCC optimize("fp-contract=off")
#endif
#include "mapped.hpp"
#include "types.hpp"
#include "exports.hpp"

using namespace semiconv;

namespace {

// Store n sums from element `at` on, `apart` elements from each other.
template <class S> void convert_to(const double* from, void* to, int64 at, int64 apart, int n) {
  S* const first = (S*)to + at;
  if (apart == 1)  // a loop of its own, which is vectorised
    for (int i = 0; i < n; ++i) first[i] = Converted<S>::from(from[i]);
  else
    for (int i = 0; i < n; ++i) first[i * apart] = Converted<S>::from(from[i]);
}

using Sums = VectorOf<double>;

struct Weighted {
  using Lane = double;
  using Value = Sums;
  const int64* offsets;
  const double* weights;
  SEMICONV_FN int64 begin() const { return 0; }
  SEMICONV_FN Sums start(const double*) const { return Sums{}; }
  SEMICONV_FN Sums step(Sums sum, const double* window, int64 tap) const {
    return sum + load_vector<Sums>(window + offsets[tap]) * weights[tap];
  }
};
// Pairs of taps with equal (SIGN 1) or opposite (-1) weights; the first tap stands alone.
template <int SIGN> struct Symmetric {
  using Lane = double;
  using Value = Sums;
  const int64* offsets;
  const double* weights;
  int64 taps;
  SEMICONV_FN int64 begin() const { return 1; }
  SEMICONV_FN Sums start(const double* window) const {
    return load_vector<Sums>(window + offsets[0]) * weights[0];
  }
  SEMICONV_FN Sums step(Sums sum, const double* window, int64 tap) const {
    const Sums a = load_vector<Sums>(window + offsets[tap]);
    const Sums b = load_vector<Sums>(window + offsets[taps - tap]);
    return sum + (SIGN > 0 ? a + b : a - b) * weights[tap];
  }
};

using Writer = void (*)(const double*, void*, int64, int64, int);
Writer writer(int type) {
  switch (type) {
#define SEMICONV_WRITER(code, S) \
  case code: return convert_to<S>;
    SEMICONV_EACH_TYPE(SEMICONV_WRITER)
#undef SEMICONV_WRITER
  }
  return nullptr;
}

template <class Reducer>
bool correlate(const Mapped& m, const MappedTiles& t, const Reducer& reducer, int64 taps, Elements source,
               Reader read, double outside, void* out, Writer write, int threads) {
  const auto put = [&](int64 to, int64 apart, const Sums* sums, auto strips, int n) {
    constexpr int count = decltype(strips)::value;
    double buffer[count * lanes_of<double>];
#pragma GCC unroll 8
    for (int s = 0; s < count; ++s) store_vector(buffer + s * lanes_of<double>, sums[s]);
    write(buffer, out, to, apart, n);
  };
  const auto work = [&](double* scratch, const int64* origin, const int64* outputs) {
    fill_mapped(m, t, origin, source, scratch, outside, read);
    reduce_tile(m, t, origin, outputs, reducer, taps, scratch, put);
  };
  return for_each_tile<double>(m, t, t.positions + 2 * lanes_of<double>, threads, work);
}

}  // namespace

// symmetry 0: a weighted sum. +1, -1: the taps are (centre, all before it in order, all behind it in
// order); tap k and tap count - k lie opposite and are added (subtracted) before they are weighted.
SEMICONV_EXPORT int semiconv_correlate(const Mapped* mapped, const long long* indices,
                                       const double* weights, long long count, int symmetry,
                                       const void* source, int source_type, void* out, int out_type,
                                       double outside, int threads) {
  const Mapped& m = *mapped;
  const MappedTiles t(m, sizeof(double), lanes_of<double>, threads);
  AlignedBuffer<int64> offsets;
  if (!offsets.allocate(count)) return 1;
  for (int64 n = 0; n < count; ++n) {
    offsets.data[n] = 0;
    for (int a = 0; a < m.rank; ++a) offsets.data[n] += indices[n * m.rank + a] * m.step(a, t.pitch[a]);
  }
  const Elements elements{(const char*)source, itemsize(source_type)};
  const Reader read = reader(source_type);
  const Writer write = writer(out_type);
  const auto run = [&](const auto& reducer, int64 taps) {
    return !correlate(m, t, reducer, taps, elements, read, outside, out, write, threads);
  };
  if (symmetry > 0) return run(Symmetric<1>{offsets.data, weights, count}, count / 2 + 1);
  if (symmetry < 0) return run(Symmetric<-1>{offsets.data, weights, count}, count / 2 + 1);
  return run(Weighted{offsets.data, weights}, count);
}
