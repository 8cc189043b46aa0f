// Reconstruction of bool arrays by runs: which components of the mask meet a seed?
//
// A run is a stretch of a row inside the mask. Runs of rows that a step joins are joined in a forest; a
// component in which one run has a seed is painted whole. Each element is read by memchr alone, so that
// time goes with the runs.
//
//     mask  1 1 . 1 1 1      runs  [0 1]   [3 4 5]        step (1, 0) joins [0 1] with [0 1 2 3],
//           1 1 1 1 . .            [0 1 2 3]              and [3 4 5], too: one component
//
// It serves steps that join all elements of a run, and both ways; `takes` says whether these do.
#pragma once
#include <string.h>
#include "memory.hpp"
#include "structs.hpp"

namespace semiconv {

class Runs {
  struct Run { uint32 begin, end; };
  const Sizes& sizes;
  const int64 *offsets, count;
  int64 pitch, rows;  // of the padded arrays, of which the outer rows are empty
  Run* runs = nullptr;
  uint32* parent = nullptr;
  int64 made = 0, room = 0;
  Buffer<int64> first;  // the first run of each padded row

  int64 reach() const { return sizes.reach[sizes.rank - 1]; }
  int64 length() const { return sizes.size[sizes.rank - 1]; }
  // A step's part along the row; what remains of it are whole rows.
  int64 along(int64 offset) const {
    const int64 rest = (offset + reach()) % pitch;
    return (rest < 0 ? rest + pitch : rest) - reach();
  }
  bool has(int64 offset) const {
    for (int64 k = 0; k < count; ++k)
      if (offsets[k] == offset) return true;
    return false;
  }
  bool add(int64 begin, int64 end) {
    if (made == room) {
      room = room ? 2 * room : 4096;
      Run* more = (Run*)realloc(runs, (size_t)room * sizeof(Run));
      if (more) runs = more;
      uint32* parents = (uint32*)realloc(parent, (size_t)room * sizeof(uint32));
      if (parents) parent = parents;
      if (!more || !parents) return false;
    }
    runs[made] = {(uint32)begin, (uint32)end};
    parent[made] = (uint32)made;
    return ++made < (int64)UINT32_MAX;
  }
  uint32 root(uint32 run) {
    while (parent[run] != run) run = parent[run] = parent[parent[run]];
    return run;
  }
  void join(uint32 a, uint32 b) {
    a = root(a);
    b = root(b);
    parent[a < b ? b : a] = a < b ? a : b;
  }
  // Runs of one row that meet runs of another when they are shifted by `shift`.
  void join_rows(int64 row, int64 other, int64 shift) {
    int64 i = first.data[row], j = first.data[other];
    while (i < first.data[row + 1] && j < first.data[other + 1]) {
      const int64 begin = runs[i].begin + shift, end = runs[i].end + shift;
      if (runs[j].end <= begin) ++j;
      else if (end <= runs[j].begin) ++i;
      else {
        join((uint32)i, (uint32)j);
        if (runs[j].end < end) ++j;
        else ++i;
      }
    }
  }
  // visit(padded row, first element of the row) for each row of the inner array.
  template <class Visit> bool each_row(Visit visit) const {
    int64 inner = 1;
    for (int a = 0; a < sizes.rank - 1; ++a) inner *= sizes.size[a];
    for (int64 r = 0; r < inner; ++r) {
      int64 rest = r, row = 0, step = 1;
      for (int a = (int)sizes.rank - 2; a >= 0; --a) {
        row += (rest % sizes.size[a] + sizes.reach[a]) * step;
        rest /= sizes.size[a];
        step *= sizes.size[a] + 2 * sizes.reach[a];
      }
      if (!visit(row, r * length())) return false;
    }
    return true;
  }

 public:
  Runs(const Sizes& s, const int64* offsets, int64 count) : sizes(s), offsets(offsets), count(count) {
    pitch = length() + 2 * reach();
    rows = 1;
    for (int a = 0; a < s.rank - 1; ++a) rows *= s.size[a] + 2 * s.reach[a];
  }
  Runs(const Runs&) = delete;
  ~Runs() {
    free(runs);
    free(parent);
  }
  bool takes() const {
    if (length() >= (int64)UINT32_MAX || (length() > 1 && !(reach() && has(1)))) return false;
    for (int64 k = 0; k < count; ++k)
      if (!has(-offsets[k])) return false;
    return true;
  }
  // Paint `set` where a component of what is `set` in the mask meets `set` in the seed, else the other
  // value; false where memory ran out.
  bool paint(const uint8* seed, const uint8* mask, uint8* out, uint8 set) {
    if (!first.allocate(rows + 1)) return false;
    const int64 n = length();
    int64 next = 0;  // padded row
    const bool all = each_row([&](int64 row, int64 from) {
      while (next <= row) first.data[next++] = made;
      for (int64 i = 0; i < n;) {
        const uint8* begin = (const uint8*)memchr(mask + from + i, set, (size_t)(n - i));
        if (!begin) break;
        const int64 b = begin - mask - from;
        const uint8* end = (const uint8*)memchr(begin, 1 - set, (size_t)(n - b));
        i = end ? end - mask - from : n;
        if (!add(b, i)) return false;
      }
      return true;
    });
    if (!all) return false;
    while (next <= rows) first.data[next++] = made;
    each_row([&](int64 row, int64) {
      for (int64 k = 0; k < count; ++k) {
        if (offsets[k] > 0) continue;  // the opposite step does the same
        const int64 shift = along(offsets[k]);
        join_rows(row, row + (offsets[k] - shift) / pitch, shift);
      }
      return true;
    });
    Buffer<uint8> meets;
    if (!meets.allocate(made)) return false;
    memset(meets.data, 0, (size_t)made);
    each_row([&](int64 row, int64 from) {
      for (int64 r = first.data[row]; r < first.data[row + 1]; ++r) {
        uint8& met = meets.data[root((uint32)r)];
        if (!met) met = memchr(seed + from + runs[r].begin, set, runs[r].end - runs[r].begin) != nullptr;
      }
      return true;
    });
    return each_row([&](int64 row, int64 from) {
      memset(out + from, 1 - set, (size_t)n);
      for (int64 r = first.data[row]; r < first.data[row + 1]; ++r)
        if (meets.data[root((uint32)r)])
          memset(out + from + runs[r].begin, set, runs[r].end - runs[r].begin);
      return true;
    });
  }
};

}  // namespace semiconv
