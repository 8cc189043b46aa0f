// Flat erosions and dilations over any footprint, by its runs along the last axis.
//
// The extremum over a run of n elements is the best of two windows of 2^k elements that together cover
// it, 2^k being the largest power of two up to n. The best of 2^k neighbours is looked up in a table:
//
//     footprint        runs                look-ups
//     . x x x .        3 from column 1     level 1 at columns 1 and 2
//     x x x x x        5 from column 0     level 2 at columns 0 and 1
//     . x x x .        3 from column 1     level 1 at columns 1 and 2
//
// so that a row of a footprint costs two comparisons at most, however long it is. (Runs and tables: Urbach
// and Wilkinson, IEEE Trans. Image Processing 17, 2008.) For each tile of outputs:
//
//   1. level 0 of the tables, the keys of what the tile sees, is copied into the scratch (fill_mapped);
//   2. level k follows from level k - 1 by doubling: table_k[i] = best(table_{k-1}[i], table_{k-1}[i + 2^(k-1)])
//      (of colours, neighbours are `unit` elements apart);
//   3. every output takes the best of all look-ups (reduce_tile): a look-up is one offset into the scratch,
//      where the levels lie behind each other.
//
// semiconv_cupy/ndimage/host/flat.py makes the list of look-ups.
#pragma once
#include "windows.hpp"

namespace semiconv {

template <bool MINIMUM> struct FlatReducer {
  using Lane = Key;
  using Value = Keys;
  const int64* offsets;
  SEMICONV_FN int64 begin() const { return 0; }
  SEMICONV_FN Keys start(const Key*) const { return spread_worst<Keys, MINIMUM>(); }
  SEMICONV_FN Keys step(Keys value, const Key* window, int64 tap) const {
    return better<MINIMUM>(value, load_vector<Keys>(window + offsets[tap]));
  }
};

template <bool MINIMUM> void clean_keys(const void* stored, Key* to, int64 n) {
  const Key* from = (const Key*)stored;
  int64 i = 0;
  for (; i + key_lanes <= n; i += key_lanes)
    store_vector(to + i, clean_key<MINIMUM>(load_vector<Keys>(from + i)));
  for (; i < n; ++i) to[i] = clean_key<MINIMUM>(from[i]);
}

template <bool MINIMUM>
inline bool footprint_extremum(const Mapped& m, const Lookup* lookups, int64 count, int64 levels,
                               const Key* source, Key* out, Key outside, int threads) {
  const MappedTiles t(m, levels * (int64)sizeof(Key), key_lanes, threads);
  AlignedBuffer<int64> offsets;
  if (!offsets.allocate(count)) return false;
  for (int64 n = 0; n < count; ++n) {
    int64 at = lookups[n].level * t.positions;
    for (int a = 0; a < m.rank; ++a) at += lookups[n].index[a] * m.step(a, t.pitch[a]);
    offsets.data[n] = at;
  }
  const FlatReducer<MINIMUM> reducer{offsets.data};
  const auto put = [&](int64 to, int64 apart, const Keys* values, auto strips, int n) {
    constexpr int count = decltype(strips)::value;
    Keys stored[count];
#pragma GCC unroll 8
    for (int s = 0; s < count; ++s) stored[s] = stored_key(values[s]);
    store_strips<count>(out + to, apart, stored, n);
  };
  const auto work = [&](Key* scratch, const int64* origin, const int64* outputs) {
    fill_mapped(m, t, origin, Elements{(const char*)source, sizeof(Key)}, scratch, clean_key<MINIMUM>(outside),
                clean_keys<MINIMUM>);
    for (int64 level = 1; level < levels; ++level) {
      const Key* before = scratch + (level - 1) * t.positions;
      const int64 shift = m.unit << (level - 1);
      const Key* parts[] = {before, before + shift};
      // Windows that run over a row's end mix two rows; no look-up reads them.
      step<MINIMUM, 2, false, false>(parts, scratch + level * t.positions,
                                     t.positions - shift);
    }
    reduce_tile(m, t, origin, outputs, reducer, count, scratch, put);
  };
  const int64 size = levels * t.positions + 2 * key_lanes;
  return for_each_tile<Key>(m, t, size, threads, work);
}

}  // namespace semiconv
