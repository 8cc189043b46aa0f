// Flat erosions and dilations: minima and maxima over boxes and over any footprint.
//
// Needs SEMICONV_STORAGE (and SEMICONV_INTEGER for integers and bool). A box is a row window and a
// column window, each built by a few steps of "the best of up to five earlier windows"; a footprint
// is its runs, each one or two look-ups in tables of the windows 1, 2, 4, 8, ... along the row.
// NaN is never selected. Exported by flat.cpp.
#pragma once
#include "mapped.hpp"

namespace semiconv {

// ---- keys: what is compared --------------------------------------------------------------------

// Halves are compared as integers in the same order; their arithmetic is not needed.
template <class S> struct KeyOf { using type = S; };
template <> struct KeyOf<float16> { using type = int16; };
template <> struct KeyOf<bfloat16> { using type = int16; };
template <> struct KeyOf<boolean> { using type = uint8; };
using Key = KeyOf<Storage>::type;
using Keys = Lanes<Key>;
constexpr int key_lanes = lanes_of<Key>;
constexpr bool halves = Same<Storage, float16>::value || Same<Storage, bfloat16>::value;
// The infinity of a half as a key; beyond it are NaN.
constexpr int16 half_infinity = Same<Storage, float16>::value ? 0x7c00 : 0x7f80;

template <bool MINIMUM> SEMICONV_FN Key worst_key() {
  if constexpr (halves) return MINIMUM ? half_infinity : (int16)(-half_infinity - 1);
  else if constexpr (Same<Storage, boolean>::value) return MINIMUM ? 1 : 0;
  else return worst<MINIMUM, Key>();
}
template <class V, bool MINIMUM> SEMICONV_FN V spread_worst() {
  return (V)(V{} + worst_key<MINIMUM>());
}
// A stored value as a key that can be selected: NaN becomes the worst.
template <bool MINIMUM, class V> SEMICONV_FN V clean_key(V stored) {
  const V none = spread_worst<V, MINIMUM>();
  if constexpr (halves) {
    const V key = (V)(stored ^ ((stored >> 15) & (V)(V{} + (int16)0x7fff)));
    const V top = (V)(V{} + half_infinity), bottom = (V)(V{} + (int16)(-half_infinity - 1));
    return (key > top) | (key < bottom) ? none : key;
  } else if constexpr (Limits<Key>::integer) {
    return stored;
  } else {
    return better<MINIMUM>(none, stored);
  }
}
template <class V> SEMICONV_FN V stored_key(V key) {
  if constexpr (halves) return (V)(key ^ ((key >> 15) & (V)(V{} + (int16)0x7fff)));
  else return key;
}
SEMICONV_FN Key bits_of(Storage value) { return bit_cast<Key>(value); }

// ---- one step: the best of up to six windows ---------------------------------------------------

constexpr int most_parts = 6;
// to[i] = best of parts[0][i] .. parts[PARTS - 1][i], i < n. Keys have room for a whole register at
// the end and may be stepped in place towards lower addresses; storage is never over-run.
template <bool MINIMUM, int PARTS, bool FROM_RAW, bool TO_RAW>
__attribute__((noinline)) void step(const Key* const* given, Key* to, int64 n) {
  const Key* parts[PARTS];  // a copy that no store can change stays in registers
#pragma GCC unroll 6
  for (int p = 0; p < PARTS; ++p) parts[p] = given[p];
  const auto value_at = [&](int64 i) __attribute__((always_inline)) {
    Keys value = load_vector<Keys>(parts[0] + i);
    if constexpr (FROM_RAW) value = clean_key<MINIMUM>(value);
#pragma GCC unroll 6
    for (int p = 1; p < PARTS; ++p) {
      const Keys part = load_vector<Keys>(parts[p] + i);
      if constexpr (FROM_RAW && halves) value = better<MINIMUM>(value, clean_key<MINIMUM>(part));
      else value = better<MINIMUM>(value, part);
    }
    if constexpr (TO_RAW) value = stored_key(value);
    return value;
  };
  constexpr bool padded = !FROM_RAW && !TO_RAW;
  int64 i = 0;
#pragma GCC unroll 2
  for (; padded ? i < n : i + key_lanes <= n; i += key_lanes) store_vector(to + i, value_at(i));
  if (padded || i == n) return;
  if (n >= key_lanes) {
    store_vector(to + n - key_lanes, value_at(n - key_lanes));
    return;
  }
  for (; i < n; ++i) {
    Key value = FROM_RAW ? clean_key<MINIMUM>(parts[0][i]) : parts[0][i];
    for (int p = 1; p < PARTS; ++p)
      value = better<MINIMUM>(value, FROM_RAW ? clean_key<MINIMUM>(parts[p][i]) : parts[p][i]);
    to[i] = TO_RAW ? stored_key(value) : value;
  }
}
template <bool MINIMUM, bool FROM_RAW, bool TO_RAW>
inline void step(int count, const Key* const* parts, Key* to, int64 n) {
  switch (count) {
    case 1: return step<MINIMUM, 1, FROM_RAW, TO_RAW>(parts, to, n);
    case 2: return step<MINIMUM, 2, FROM_RAW, TO_RAW>(parts, to, n);
    case 3: return step<MINIMUM, 3, FROM_RAW, TO_RAW>(parts, to, n);
    case 4: return step<MINIMUM, 4, FROM_RAW, TO_RAW>(parts, to, n);
    case 5: return step<MINIMUM, 5, FROM_RAW, TO_RAW>(parts, to, n);
    default: return step<MINIMUM, 6, FROM_RAW, TO_RAW>(parts, to, n);
  }
}

// Two rows of windows of PARTS consecutive rows: to[r][i] = best of rows[r][i] .. rows[r + PARTS - 1][i].
// What both share is found once.
template <bool MINIMUM, int PARTS, bool TO_RAW>
__attribute__((noinline)) void step_pair(const Key* const* rows, Key* const* to, int64 n) {
  if (n < key_lanes) {
    step<MINIMUM, true, TO_RAW>(PARTS, rows, to[0], n);
    step<MINIMUM, true, TO_RAW>(PARTS, rows + 1, to[1], n);
    return;
  }
  const Key* row[PARTS + 1];
#pragma GCC unroll 7
  for (int p = 0; p <= PARTS; ++p) row[p] = rows[p];
  Key *const upper = to[0], *const lower = to[1];
  const auto key_at = [&](int p, int64 i) __attribute__((always_inline)) {
    return clean_key<MINIMUM>(load_vector<Keys>(row[p] + i));
  };
  const auto both_at = [&](int64 i) __attribute__((always_inline)) {
    Keys shared = key_at(1, i);
#pragma GCC unroll 6
    for (int p = 2; p < PARTS; ++p) {
      if constexpr (halves) shared = better<MINIMUM>(shared, key_at(p, i));
      else shared = better<MINIMUM>(shared, load_vector<Keys>(row[p] + i));
    }
    Keys first = better<MINIMUM>(shared, key_at(0, i));
    Keys second = better<MINIMUM>(shared, key_at(PARTS, i));
    store_vector(upper + i, TO_RAW ? stored_key(first) : first);
    store_vector(lower + i, TO_RAW ? stored_key(second) : second);
  };
  for (int64 i = 0; i + key_lanes <= n; i += key_lanes) both_at(i);
  if (n % key_lanes) both_at(n - key_lanes);
}
template <bool MINIMUM, bool TO_RAW>
inline void step_pair(int count, const Key* const* rows, Key* const* to, int64 n) {
  switch (count) {
    case 3: return step_pair<MINIMUM, 3, TO_RAW>(rows, to, n);
    case 4: return step_pair<MINIMUM, 4, TO_RAW>(rows, to, n);
    case 5: return step_pair<MINIMUM, 5, TO_RAW>(rows, to, n);
    default: return step_pair<MINIMUM, 6, TO_RAW>(rows, to, n);
  }
}

// How a window of K is built from windows of 1: each step joins `count` windows of the step before
// at the given offsets. The last ones overlap, which a selection does not mind.
struct Steps {
  static constexpr int most = 32;
  int steps = 0;
  int count[most];
  int64 offset[most][most_parts];

  explicit Steps(int64 window) {
    int64 width = 1;
    while (width < window) {
      // As few steps as `most_parts` windows allow, then as few windows in each as that allows.
      const int64 ratio = ceil_div(window, width);
      int left = 1;
      for (int64 reach = most_parts - 1; reach < ratio; reach *= most_parts - 1) ++left;
      int64 parts = 2;
      while (power_of(parts, left) < ratio) ++parts;
      const int64 next = left == 1 ? window : smaller_of(window, width * parts);
      count[steps] = (int)ceil_div(next, width);
      for (int p = 0; p < count[steps]; ++p)
        offset[steps][p] = smaller_of(p * width, next - width);
      ++steps;
      width = next;
    }
  }
  int64 reach(int step) const { return offset[step][count[step] - 1]; }

 private:
  static int64 power_of(int64 base, int exponent) {
    int64 power = 1;
    while (exponent-- > 0) power *= base;
    return power;
  }
};

// ---- boxes -------------------------------------------------------------------------------------

// One plane after another of (rows, columns), each window rows x columns. Rows are streamed: every
// vertical step keeps the few rows of windows that the next one still needs in a ring.
struct Box {
  int64 planes, rows, columns;
  int64 window[2], before[2];
  const int64* beyond[2];

  int64 element(int axis, int64 position) const {
    return element_at(axis ? columns : rows, before[axis], beyond[axis], position - before[axis]);
  }
};

template <bool MINIMUM> class BoxBand {
  const Box& box;
  const Steps &down, &across;
  const Key* source;
  Key* out;
  const Key outside;
  const int64 first_row, end_row, first_column, end_column;

  // Extended columns of this band: `left` looked up, `middle` as they lie, `right` looked up.
  int64 left, middle, right, middle_source, width, pitch;
  Scratch<Key> memory;
  Key *edges, *nothing, *line;
  Key* ring[Steps::most];
  int64 ring_rows[Steps::most], produced[Steps::most];

 public:
  static int64 extended(const Box& b, int axis) {
    return (axis ? b.columns : b.rows) + b.window[axis] - 1;
  }
  BoxBand(const Box& b, const Steps& d, const Steps& a, const Key* from, Key* to, Key constant,
          int64 y0, int64 y1, int64 x0, int64 x1)
      : box(b), down(d), across(a), source(from), out(to), outside(constant), first_row(y0),
        end_row(y1), first_column(x0), end_column(x1) {
    width = x1 - x0 + b.window[1] - 1;
    left = smaller_of(larger_of(b.before[1] - x0, 0), width);
    right = larger_of(x0 + width - larger_of(b.before[1] + b.columns, x0 + left), 0);
    middle = width - left - right;
    middle_source = x0 + left - b.before[1];
    pitch = ceil_div(width + 2 * key_lanes, key_lanes) * key_lanes;
  }
  bool run() {
    const int64 raw_rows = end_row - first_row + box.window[0] - 1;
    int64 rows = 3;  // two lines and the row of nothing
    for (int s = 0; s + 1 < down.steps; ++s) {
      ring_rows[s] = down.reach(s + 1) + 1;
      rows += ring_rows[s];
      produced[s] = first_row;
    }
    const int64 edge = left + right;
    if (!memory.allocate(rows * pitch + raw_rows * edge + 2 * key_lanes)) return false;
    line = memory.data;
    nothing = line + 2 * pitch;
    Key* next = nothing + pitch;
    for (int s = 0; s + 1 < down.steps; ++s, next += ring_rows[s - 1] * pitch) ring[s] = next;
    edges = next;
    for (int64 i = 0; i < pitch; ++i) nothing[i] = outside;
    if (edge) gather_edges(raw_rows);
    const bool in_pairs = down.steps == 1 && down.count[0] >= 3;
    for (int64 y = first_row; y < end_row; ++y) {
      Key* to = out + y * box.columns + first_column;
      if (in_pairs && y + 1 < end_row) {
        Key* const outs[] = {to, to + box.columns};
        Key* const lines[] = {line, line + pitch};
        if (across.steps == 0) {
          vertical_pair<true>(y, outs);
        } else {
          vertical_pair<false>(y, lines);
          horizontal(line, outs[0]);
          horizontal(line + pitch, outs[1]);
        }
        ++y;
        continue;
      }
      if (across.steps == 0) {
        vertical<true>(down.steps - 1, y, to);
      } else {
        vertical<false>(down.steps - 1, y, line);
        horizontal(line, to);
      }
    }
    return true;
  }

 private:
  const Key* raw(int64 extended_row) const {
    const int64 element = box.element(0, extended_row);
    return element < 0 ? nullptr : source + element * box.columns;
  }
  void gather_edges(int64 raw_rows) {
    Key* to = edges;
    for (int64 r = 0; r < raw_rows; ++r) {
      const Key* row = raw(first_row + r);
      const auto gather = [&](int64 begin, int64 end) {
        for (int64 p = begin; p < end; ++p) {
          const int64 element = row ? box.element(1, first_column + p) : -1;
          *to++ = clean_key<MINIMUM>(element < 0 ? outside : row[element]);
        }
      };
      gather(0, left);
      gather(width - right, width);
    }
  }
  // Row y of the windows that step s builds, over all extended columns.
  template <bool TO_RAW> void vertical(int s, int64 y, Key* to) {
    const Key* parts[most_parts];
    if (s <= 0) {
      const int count = s < 0 ? 1 : down.count[0];
      const auto offset = [&](int p) { return s < 0 ? 0 : down.offset[0][p]; };
      for (int p = 0; p < count; ++p) {
        const Key* row = raw(y + offset(p));
        parts[p] = row ? row + middle_source : nothing;
      }
      // The left edge may write into the middle, the right one beyond the row's end.
      const int64 edge = left + right;
      const Key* edge_parts[most_parts];
      for (int p = 0; p < count; ++p) edge_parts[p] = edges + (y + offset(p) - first_row) * edge;
      if (left) step<MINIMUM, false, false>(count, edge_parts, to, left);
      step<MINIMUM, true, TO_RAW>(count, parts, to + left, middle);
      for (int p = 0; p < count; ++p) edge_parts[p] += left;
      if (right) step<MINIMUM, false, false>(count, edge_parts, to + left + middle, right);
      return;
    }
    for (; produced[s - 1] <= y + down.reach(s); ++produced[s - 1]) {
      const int64 row = produced[s - 1];
      vertical<false>(s - 1, row, ring[s - 1] + row % ring_rows[s - 1] * pitch);
    }
    for (int p = 0; p < down.count[s]; ++p)
      parts[p] = ring[s - 1] + (y + down.offset[s][p]) % ring_rows[s - 1] * pitch;
    step<MINIMUM, false, TO_RAW>(down.count[s], parts, to, width);
  }
  // The rows y and y + 1 of a window that is one step.
  template <bool TO_RAW> void vertical_pair(int64 y, Key* const* to) {
    const Key *rows[most_parts + 1], *edge_rows[most_parts + 1];
    const int count = down.count[0];
    const int64 edge = left + right;
    for (int p = 0; p <= count; ++p) {
      const Key* row = raw(y + p);
      rows[p] = row ? row + middle_source : nothing;
      edge_rows[p] = edges + (y + p - first_row) * edge;
    }
    for (int r = 0; r < 2 && left; ++r)
      step<MINIMUM, false, false>(count, edge_rows + r, to[r], left);
    Key* const middles[] = {to[0] + left, to[1] + left};
    step_pair<MINIMUM, TO_RAW>(count, rows, middles, middle);
    for (int p = 0; p <= count; ++p) edge_rows[p] += left;
    for (int r = 0; r < 2 && right; ++r)
      step<MINIMUM, false, false>(count, edge_rows + r, to[r] + left + middle, right);
  }
  // In place in the line, the last step to where the outputs lie.
  void horizontal(Key* line, Key* to) {
    int64 valid = width;
    for (int s = 0; s < across.steps; ++s) {
      const Key* parts[most_parts];
      for (int p = 0; p < across.count[s]; ++p) parts[p] = line + across.offset[s][p];
      valid -= across.reach(s);
      if (s + 1 == across.steps)
        step<MINIMUM, false, true>(across.count[s], parts, to, end_column - first_column);
      else
        step<MINIMUM, false, false>(across.count[s], parts, line, valid);
    }
  }
};

template <bool MINIMUM>
inline bool box_extremum(const Box& box, const Key* source, Key* out, Key outside, int threads) {
  const Steps down(box.window[0]), across(box.window[1]);
  // Rings of one band should stay in L2; a band repeats window - 1 rows and columns.
  constexpr int64 budget = 256 * 1024;
  int64 ring_rows = 4;
  for (int s = 1; s < down.steps; ++s) ring_rows += down.reach(s) + 1;
  const int64 wanted = larger_of(budget / (ring_rows * (int64)sizeof(Key)) - box.window[1],
                                 larger_of(16 * key_lanes, 2 * box.window[1]));
  const int64 across_bands = ceil_div(box.columns, wanted);
  const int64 columns =
      ceil_div(ceil_div(box.columns, across_bands), key_lanes) * key_lanes;
  const int64 column_bands = ceil_div(box.columns, columns);
  int64 row_bands = ceil_div(2 * threads, box.planes * column_bands);
  if (threads == 1) row_bands = 1;
  const int64 least_rows = larger_of(8, 2 * box.window[0]);
  row_bands = larger_of(smaller_of(row_bands, box.rows / least_rows), 1);
  // Where bands of columns have edges, all raw rows' edges are gathered: keep that small, too.
  if (box.window[1] > 1) row_bands = larger_of(row_bands, box.rows / larger_of(256, 8 * box.window[0]));
  row_bands = larger_of(row_bands, 1);
  const int64 rows = ceil_div(box.rows, row_bands);
  row_bands = ceil_div(box.rows, rows);
  const int64 bands = box.planes * row_bands * column_bands;
  int failed = 0;
  in_parallel(bands, threads, [&](Items& items) {
    for (int64 n; items.take(n);) {
      const int64 x = n % column_bands * columns, y = n / column_bands % row_bands * rows;
      const int64 plane = n / column_bands / row_bands * box.rows * box.columns;
      BoxBand<MINIMUM> band(box, down, across, source + plane, out + plane, outside, y,
                            smaller_of(y + rows, box.rows), x, smaller_of(x + columns, box.columns));
      if (!band.run()) set_flag(failed, 1);
    }
  });
  return !failed;
}

// ---- footprints --------------------------------------------------------------------------------

// A look-up: table `level` holds the best of 2^level neighbours along the row.
struct Lookup {
  int64 level;
  int64 index[max_rank];  // where in the window
};

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

template <bool MINIMUM>
inline bool footprint_extremum(const Mapped& m, const Lookup* lookups, int64 count, int64 levels,
                               const Key* source, Key* out, Key outside, int threads) {
  const MappedTiles t(m, levels * (int64)sizeof(Key), key_lanes, threads);
  Scratch<int64> offsets;
  if (!offsets.allocate(count)) return false;
  for (int64 n = 0; n < count; ++n) {
    int64 at = lookups[n].level * t.positions;
    for (int a = 0; a < m.rank; ++a) at += lookups[n].index[a] * t.pitch[a];
    offsets.data[n] = at;
  }
  const FlatReducer<MINIMUM> reducer{offsets.data};
  const auto convert = [](const Key* from, Key* to, int64 n) {
    for (int64 i = 0; i < n; ++i) to[i] = clean_key<MINIMUM>(from[i]);
  };
  const auto put = [&](int64 to, Keys value, int n) {
    value = stored_key(value);
    if (n == key_lanes) return store_vector(out + to, value);
    Key buffer[key_lanes];
    store_vector(buffer, value);
    for (int i = 0; i < n; ++i) out[to + i] = buffer[i];
  };
  const auto work = [&](Key* scratch, const int64* origin, const int64* outputs) {
    fill_mapped(m, t, origin, source, scratch, clean_key<MINIMUM>(outside), convert);
    for (int64 level = 1; level < levels; ++level) {
      const Key* before = scratch + (level - 1) * t.positions;
      const Key* parts[] = {before, before + ((int64)1 << (level - 1))};
      // Windows that reach past a row's end are computed and never looked up.
      step<MINIMUM, 2, false, false>(parts, scratch + level * t.positions,
                                     t.positions - ((int64)1 << (level - 1)));
    }
    reduce_tile(m, t, origin, outputs, reducer, count, scratch, put);
  };
  const int64 size = levels * t.positions + 2 * key_lanes;
  return for_each_tile<Key>(m, t, size, threads, work);
}

}  // namespace semiconv
