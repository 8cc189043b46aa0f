// Exports semiconv_reconstruct: values spread from a seed under (over) a mask until nothing changes.
//
// Vincent's hybrid algorithm (IEEE Trans. Image Processing 2, 1993). A value spreads to the neighbours
// (the footprint), limited by the mask there:
//
//     value[p] = limited(best of value over p and its neighbours, mask[p])     until nothing changes
//
//   1. A scan in raster order pulls from the neighbours that come earlier: values run down and right.
//   2. A scan against it pulls from those that come later: values run up and left. An element whose value
//      would still change a neighbour that comes later in raster order enters a queue.
//   3. Elements leave the queue in the order they came; each spreads to all neighbours, and every neighbour
//      that changes enters the queue.
//
//     seed  . . 9 . .      after the scan down   . . 9 9 9      after the scan up   9 9 9 9 9
//     mask  9 9 9 9 9
//
// Bool arrays go by components (runs.hpp) where the neighbours allow it.
//
// The queue only sees what turns back, such as the arms of a spiral. Arrays are copied with a margin of
// `reach` elements that never win, so that no step needs a test of the border.
// Needs SEMICONV_STORAGE; called by semiconv_cupy/ndimage/host/spread.py.
#if !defined(__clang__)
#pragma GCC optimize("O2", "tree-vectorize", "vect-cost-model=dynamic")  // as fast as -O3, compiled in half the time
#endif
#include "keys.hpp"
#include "exports.hpp"
#include "runs.hpp"

using namespace semiconv;

namespace {

// First in, first out. Entries are pushed to `back`; when `front` is used up the two change places.
class Queue {
  int64 *front = nullptr, *back = nullptr;
  int64 front_size = 0, taken = 0, back_size = 0, back_room = 0, front_room = 0;

 public:
  bool complete = true;
  ~Queue() {
    free(front);
    free(back);
  }
  void push(int64 entry) {
    if (back_size == back_room) {
      const int64 room = back_room ? 2 * back_room : 4096;
      int64* grown = (int64*)realloc(back, (size_t)room * sizeof(int64));
      if (!grown) {
        complete = false;
        return;
      }
      back = grown;
      back_room = room;
    }
    back[back_size++] = entry;
  }
  bool pop(int64& entry) {
    if (taken == front_size) {
      if (back_size == 0) return false;
      int64* swapped = front;
      front = back;
      back = swapped;
      const int64 room = front_room;
      front_room = back_room;
      back_room = room;
      front_size = back_size;
      back_size = taken = 0;
    }
    entry = front[taken++];
    return true;
  }
};

template <bool MINIMUM> struct Reconstruction {
  const Key* mask;
  Key* value;
  // Offsets in the padded arrays from an element to its neighbours: those that come later in raster order,
  // and those that come earlier.
  const int64 *forward, *backward;
  int64 forward_count, backward_count;
  Queue queue;

  static bool wins(Key a, Key b) { return MINIMUM ? a < b : a > b; }
  static Key limited(Key a, Key limit) { return wins(a, limit) ? limit : a; }

  // Take over what the neighbours at `at - offsets` have.
  void pull(int64 at, const int64* offsets, int64 count) {
    Key best = value[at];
    for (int64 k = 0; k < count; ++k) best = better<MINIMUM>(best, value[at - offsets[k]]);
    value[at] = limited(best, mask[at]);
  }
  bool may_spread(int64 at, const int64* offsets, int64 count) const {
    for (int64 k = 0; k < count; ++k) {
      const int64 to = at + offsets[k];
      if (wins(value[at], value[to]) && wins(mask[to], value[to])) return true;
    }
    return false;
  }
  void spread(int64 at, const int64* offsets, int64 count) {
    for (int64 k = 0; k < count; ++k) {
      const int64 to = at + offsets[k];
      if (wins(value[at], value[to]) && wins(mask[to], value[to])) {
        value[to] = limited(value[at], mask[to]);
        queue.push(to);
      }
    }
  }
};

// Visit all rows of the inner array in order or against it: visit(first element, length).
template <class Visit> void each_row(const Sizes& s, bool reversed, Visit visit) {
  const int last = (int)s.rank - 1;
  int64 pitch[max_rank], rows = 1, step = 1;
  for (int a = last; a >= 0; --a) {
    pitch[a] = step;
    step *= s.size[a] + 2 * s.reach[a];
    if (a < last) rows *= s.size[a];
  }
  for (int64 r = 0; r < rows; ++r) {
    int64 rest = reversed ? rows - 1 - r : r, at = s.reach[last];
    const int64 dense = rest * s.size[last];
    for (int a = last - 1; a >= 0; --a) {
      at += (rest % s.size[a] + s.reach[a]) * pitch[a];
      rest /= s.size[a];
    }
    visit(at, dense, s.size[last]);
  }
}

template <bool MINIMUM>
bool reconstruct(const Sizes& s, const int64* offsets, int64 forward_count, int64 backward_count,
                 const Key* seed, const Key* limit, Key* out) {
  int64 padded = 1;
  for (int a = 0; a < s.rank; ++a) padded *= s.size[a] + 2 * s.reach[a];
  AlignedBuffer<Key> mask, value;
  if (!mask.allocate(padded) || !value.allocate(padded)) return false;
  for (int64 n = 0; n < padded; ++n) mask.data[n] = value.data[n] = worst_key<MINIMUM>();
  each_row(s, false, [&](int64 at, int64 dense, int64 n) {
    for (int64 i = 0; i < n; ++i) {
      mask.data[at + i] = clean_key<MINIMUM>(limit[dense + i]);
      value.data[at + i] = clean_key<MINIMUM>(seed[dense + i]);
    }
  });
  Reconstruction<MINIMUM> r{mask.data, value.data, offsets, offsets + forward_count, forward_count,
                            backward_count, {}};
  each_row(s, false, [&](int64 at, int64, int64 n) {
    for (int64 i = 0; i < n; ++i) r.pull(at + i, r.forward, forward_count);
  });
  each_row(s, true, [&](int64 at, int64, int64 n) {
    for (int64 i = n - 1; i >= 0; --i) {
      r.pull(at + i, r.backward, backward_count);
      // Earlier neighbours pull from here later in this scan; later ones had their turn already.
      if (r.may_spread(at + i, r.forward, forward_count)) r.queue.push(at + i);
    }
  });
  int64 at;
  while (r.queue.pop(at)) {
    r.spread(at, r.forward, forward_count);
    r.spread(at, r.backward, backward_count);
  }
  each_row(s, false, [&](int64 from, int64 dense, int64 n) {
    for (int64 i = 0; i < n; ++i) out[dense + i] = stored_key(value.data[from + i]);
  });
  return r.queue.complete;
}

}  // namespace

// offsets: of an element's neighbours in the padded arrays, the positive ones first. Returns 0, or 1 where
// memory ran out.
SEMICONV_EXPORT int semiconv_reconstruct(const Sizes* sizes, const long long* offsets,
                                         long long forward_count, long long backward_count,
                                         const Storage* seed, const Storage* mask, Storage* out,
                                         int minimum) {
  if constexpr (Same<Storage, boolean>::value) {
    Runs runs(*sizes, (const int64*)offsets, forward_count + backward_count);
    if (runs.takes())
      return !runs.paint((const uint8*)seed, (const uint8*)mask, (uint8*)out, minimum ? 0 : 1);
  }
  const auto run = minimum ? reconstruct<true> : reconstruct<false>;
  return !run(*sizes, offsets, forward_count, backward_count, (const Key*)seed, (const Key*)mask,
              (Key*)out);
}
