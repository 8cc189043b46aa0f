// Exports semiconv_chamfer: distances in steps from element to element, by two raster scans; called by
// semiconv_cupy/ndimage/host/lines.py.
//
//     steps that count       scan in raster order          then against it
//       a b c                pulls from a b c d            pulls from the opposite ones
//       d x .
//       . . .
//
// Each element takes the least of its own distance and its neighbours' plus 1; of equal ones its own, then the
// first neighbour in the order of the steps (Rosenfeld and Pfaltz, J. ACM 13, 1966). Distances are copied with a
// margin of one element that never wins, so that no step needs a test of the border. SEMICONV_STORAGE is int32.
#include "structs.hpp"
#include "memory.hpp"
#include "exports.hpp"

using namespace semiconv;

namespace {

constexpr int32 never = 0x7ffffffe;  // plus 1 there is no overflow

// Where the rows of an array begin in the padded one.
struct Rows {
  int64 rank, count = 1, width, pitch[max_rank];
  const int64* size;

  explicit Rows(const Sizes& s) : rank(s.rank), width(s.size[s.rank - 1]), size(s.size) {
    int64 step = 1;
    for (int64 a = rank - 1; a >= 0; --a) {
      pitch[a] = step;
      step *= size[a] + 2;
      if (a < rank - 1) count *= size[a];
    }
  }
  int64 padded_size() const { return pitch[0] * (size[0] + 2); }
  int64 begin(int64 row) const {
    int64 at = 1;
    for (int64 a = rank - 2; a >= 0; --a) {
      at += (row % size[a] + 1) * pitch[a];
      row /= size[a];
    }
    return at;
  }
};

// An element's distance, and the element that it was reached from, from those `offsets` away: SIGN 1 in raster
// order, -1 against it. `dense` are the same offsets in an array without margin.
template <int SIGN, bool FEATURES>
SEMICONV_FN void pull(int32* distance, int32* feature, const int64* offsets, const int64* dense, int64 count) {
  if (*distance == 0) return;
  int32 best = *distance;
  int64 from = 0;
  for (int64 k = 0; k < count; ++k) {
    const int32 through = distance[SIGN * offsets[k]] + 1;
    if (through < best) {
      best = through;
      if constexpr (FEATURES) from = SIGN * dense[k];
    }
  }
  *distance = best;
  if constexpr (FEATURES)
    if (from) *feature = feature[from];
}

template <bool FEATURES>
void scan(const Rows& rows, int32* padded, int32* features, const int64* offsets, const int64* dense, int64 count) {
  for (int64 r = 0; r < rows.count; ++r) {
    int32* const at = padded + rows.begin(r);
    for (int64 x = 0; x < rows.width; ++x)
      pull<1, FEATURES>(at + x, FEATURES ? features + r * rows.width + x : nullptr, offsets, dense, count);
  }
  for (int64 r = rows.count - 1; r >= 0; --r) {
    int32* const at = padded + rows.begin(r);
    for (int64 x = rows.width - 1; x >= 0; --x)
      pull<-1, FEATURES>(at + x, FEATURES ? features + r * rows.width + x : nullptr, offsets, dense, count);
  }
}

}  // namespace

// steps: `count` rows of coordinates, each from an element to one that comes earlier in raster order. set: bytes,
// 0 for background. distances: -1 where no step leads to the background. features (or null): the flat index of the
// background element that was reached, -1 where none was.
SEMICONV_EXPORT int semiconv_chamfer(const Sizes* sizes, const long long* steps, long long count, const void* set,
                                     int* distances, int* features) {
  const Rows rows(*sizes);
  AlignedBuffer<int32> padded;
  AlignedBuffer<int64> offsets;
  if (!padded.allocate(rows.padded_size()) || !offsets.allocate(2 * count)) return out_of_memory;
  int64* const dense = offsets.data + count;
  for (int64 k = 0; k < count; ++k) {
    int64 step = 1;
    offsets.data[k] = dense[k] = 0;
    for (int64 a = rows.rank - 1; a >= 0; --a) {
      offsets.data[k] += steps[k * rows.rank + a] * rows.pitch[a];
      dense[k] += steps[k * rows.rank + a] * step;
      step *= rows.size[a];
    }
  }
  for (int64 n = 0; n < rows.padded_size(); ++n) padded.data[n] = never;
  for (int64 r = 0; r < rows.count; ++r) {
    int32* const at = padded.data + rows.begin(r);
    for (int64 x = 0; x < rows.width; ++x) {
      const int64 n = r * rows.width + x;
      at[x] = ((const uint8*)set)[n] ? never : 0;
      if (features) features[n] = (int32)n;
    }
  }
  const auto run = features ? scan<true> : scan<false>;
  run(rows, padded.data, features, offsets.data, dense, count);
  for (int64 r = 0; r < rows.count; ++r) {
    const int32* const at = padded.data + rows.begin(r);
    for (int64 x = 0; x < rows.width; ++x) {
      distances[r * rows.width + x] = at[x] == never ? -1 : at[x];
      if (features && at[x] == never) features[r * rows.width + x] = -1;
    }
  }
  return success;
}
