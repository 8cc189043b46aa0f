// Erosions and dilations by a structure that is not flat: the best of (element + value) over taps.
//
// Needs SEMICONV_STORAGE (and SEMICONV_INTEGER for integers). Integer sums are formed in a type that
// holds them (SumOf in filters.cuh) or, with `precise`, in double, and saturate when they are stored;
// floating sums in the element's arithmetic. As in SciPy, values are rounded to the type of the sums, but
// for the first tap's. NaN is never selected.
// Exported by structure.cpp, structure_in_double.cpp and structure_absent.cpp.
#pragma once
#if !defined(__clang__)
#pragma GCC optimize("O2", "tree-vectorize", "vect-cost-model=dynamic")  // as fast as -O3, compiled in half the time
#endif
#include "mapped.hpp"

namespace semiconv {

// element + value. Floating sums as element * 1 + value, the same bits (as in forward.hpp): multipliers do it,
// while the adders are busy with the extremum.
template <class V, class W> SEMICONV_FN V sum_of(V element, W value) {
#if defined(__FMA__)
  if constexpr (!Limits<W>::integer) return element * opaque(V{} + (W)1) + value;
#endif
  return element + value;
}

template <class W, bool MINIMUM> struct StructureReducer {
  using Lane = W;
  using Value = VectorOf<W>;
  const int64* offsets;
  const W* values;
  const double* first;  // the first tap's value where W does not hold it, else nullptr
  SharedTaps shared;
  W outside;

  SEMICONV_FN int64 begin() const { return first ? 1 : 0; }
  SEMICONV_FN Value start(const W* window) const {
    Value value = Value{} + worst<MINIMUM, W>();
    if (first) {
      W sums[lanes_of<W>];
      for (int i = 0; i < lanes_of<W>; ++i) sums[i] = (W)((double)window[offsets[0] + i] + *first);
      value = better<MINIMUM>(value, load_vector<Value>(sums));
    }
    return value;
  }
  SEMICONV_FN Value element(const W* window, int64 tap) const {
    return opaque(load_vector<Value>(window + offsets[tap]));
  }
  SEMICONV_FN Value take(Value best, Value element, int64 tap) const {
    return better<MINIMUM>(best, sum_of(element, values[tap]));
  }
  SEMICONV_FN Value step(Value best, const W* window, int64 tap) const {
    return take(best, load_vector<Value>(window + offsets[tap]), tap);
  }
};

// Sums of 64-bit integers, each saturated at once; values are signed. ABSENT: an element that equals `outside`
// takes no part; the caller has seen to it that no element of the array does.
template <class W, bool MINIMUM, bool ABSENT> struct SaturatingReducer {
  using Lane = W;
  using Value = VectorOf<W>;
  const int64* offsets;
  const int64* values;
  const double* first;
  SharedTaps shared;
  W outside;

  SEMICONV_FN int64 begin() const { return 0; }
  SEMICONV_FN Value start(const W*) const { return Value{} + worst<MINIMUM, W>(); }
  SEMICONV_FN Value element(const W* window, int64 tap) const {
    return load_vector<Value>(window + offsets[tap]);
  }
  SEMICONV_FN Value step(Value best, const W* window, int64 tap) const {
    return take(best, element(window, tap), tap);
  }
  SEMICONV_FN Value take(Value best, Value element, int64 tap) const {
    using U = VectorOf<uint64>;
    const Value sum = (Value)((U)element + (uint64)values[tap]);
    const Value kept = values[tap] >= 0 ? (sum < element ? Value{} + Limits<W>::highest : sum)
                                        : (sum > element ? Value{} + Limits<W>::lowest : sum);
    if constexpr (ABSENT) return element == Value{} + outside ? best : better<MINIMUM>(best, kept);
    return better<MINIMUM>(best, kept);
  }
};

// Elements as the numbers of sums; NaN as the value that never wins.
template <bool MINIMUM, class W> void elements_of(const void* source, W* to, int64 n) {
  const Storage* from = (const Storage*)source;
  constexpr int width = lanes_of<W>;
  int64 i = 0;
  if constexpr (Same<W, Storage>::value)  // `better` never takes a NaN on its right
    for (; i + width <= n; i += width)
      store_vector(to + i, better<MINIMUM>((VectorOf<W>)(VectorOf<W>{} + worst<MINIMUM, W>()),
                                           load_vector<VectorOf<W>>(from + i)));
  for (; i < n; ++i) {
    const W element = (W)load(from[i]);
    to[i] = element == element ? element : worst<MINIMUM, W>();
  }
}
// Not inlined: the conversion would be compiled for each number of registers.
template <class W> __attribute__((noinline)) void store_sums(Storage* to, int64 apart, const W* sums, int n) {
  if (apart == 1)  // a loop of its own, which is vectorised
    for (int i = 0; i < n; ++i) to[i] = stored_sum(sums[i]);
  else
    for (int i = 0; i < n; ++i) to[i * apart] = stored_sum(sums[i]);
}

template <bool MINIMUM, class Reducer, class V>
inline bool structure_extremum(const Mapped& m, const int64* indices, const V* values,
                               const double* first, int64 count, const Storage* source, Storage* out,
                               typename Reducer::Lane outside, int threads) {
  using W = typename Reducer::Lane;
  constexpr int width = lanes_of<W>;
  const MappedTiles t(m, sizeof(W), width, threads);
  AlignedBuffer<int64> offsets;
  if (!offsets.allocate(count)) return false;
  for (int64 n = 0; n < count; ++n) {
    offsets.data[n] = 0;
    for (int a = 0; a < m.rank; ++a) offsets.data[n] += indices[n * m.rank + a] * m.step(a, t.pitch[a]);
  }
  const bool pairs = m.rank > 1 && !first;
  const SharedTaps shared =
      pairs ? SharedTaps(offsets.data, count, t.pitch[m.rank - 2]) : SharedTaps();
  const Reducer reducer{offsets.data, values, first, shared, outside};
  const auto put = [&](int64 to, int64 apart, const VectorOf<W>* sums, auto strips, int n) {
    constexpr int registers = decltype(strips)::value;
    if constexpr (Same<W, Storage>::value) {
      store_strips<registers>(out + to, apart, sums, n);
    } else {
      W buffer[registers * width];
#pragma GCC unroll 8
      for (int s = 0; s < registers; ++s) store_vector(buffer + s * width, sums[s]);
      store_sums<W>(out + to, apart, buffer, n);
    }
  };
  const auto work = [&](W* scratch, const int64* origin, const int64* outputs) {
    const Elements elements{(const char*)source, sizeof(Storage)};
    fill_mapped(m, t, origin, elements, scratch, outside, elements_of<MINIMUM, W>);
    reduce_tile(m, t, origin, outputs, reducer, count, scratch, put);
  };
  return for_each_tile<W>(m, t, t.positions + 2 * width, threads, work);
}

// Sums in W.
template <class W>
bool sums_in(const Mapped& m, const int64* indices, const void* values, const double* first, int64 count,
             const Storage* source, Storage* out, const void* outside, int minimum, int threads) {
  const auto run = minimum ? structure_extremum<true, StructureReducer<W, true>, W>
                           : structure_extremum<false, StructureReducer<W, false>, W>;
  return run(m, indices, (const W*)values, first, count, source, out, *(const W*)outside, threads);
}
// Sums of 64-bit integers, which have no wider type.
template <class R, bool ABSENT>
bool saturating(const Mapped& m, const int64* indices, const void* values, const double* first, int64 count,
                const Storage* source, Storage* out, const void* outside, int minimum, int threads) {
  const auto run = minimum ? structure_extremum<true, SaturatingReducer<R, true, ABSENT>, int64>
                           : structure_extremum<false, SaturatingReducer<R, false, ABSENT>, int64>;
  return run(m, indices, (const int64*)values, first, count, source, out, *(const R*)outside, threads);
}
// Sums in the type that holds them.
template <class R, bool SATURATING = Limits<R>::integer && sizeof(R) == 8> struct Exact {
  static constexpr auto run = sums_in<typename SumOf<R>::type>;
};
template <class R> struct Exact<R, true> {
  static constexpr auto run = saturating<R, false>;
};

}  // namespace semiconv
