// What weighted sums see of a plane, as doubles in shared memory: each element is converted once for all taps
// and outputs that see it.
//
// Needs SEMICONV_STORAGE, SEMICONV_BELOW and SEMICONV_BLOCKS. Included by weighted.cu.
#pragma once
#include "../filters.cuh"

namespace semiconv {

// Twin of semiconv_cupy/ndimage/structs.py. A window counts positions, all else elements.
struct Weighted {
  int64 batch, size[3];
  int32 window[3], before[3];
  int32 unit;     // elements from one position of a row to the next
  int32 tile[2];  // rows and columns of outputs
  int32 pitch;    // doubles from one row of the tile to the next
  int32 lanes;    // threads side by side, a power of two
  int32 rotated;  // whether the last tap is added first
};

constexpr int threads = 256;
// Elements for which a thread waits at a time, as many as there are registers for.
constexpr int at_once = SEMICONV_BELOW == 8 ? (sizeof(Storage) == 8 ? 1 : 4)
                                            : (sizeof(Storage) == 8 ? 2 : 4) * (SEMICONV_BLOCKS == 2 ? 2 : 1);

struct Tile {
  const Weighted& w;
  double* const doubles;
  const int64 *beyond, *const origin;

  SEMICONV_FN int32 high() const { return w.tile[0] + w.window[1] - 1; }
  SEMICONV_FN int32 broad() const { return w.tile[1] + (w.window[2] - 1) * w.unit; }

  // The element at a place of what the tile sees, -1 for the constant. Places that no output sees repeat the
  // last seen.
  SEMICONV_FN int64 element(int axis, int32 within) const {
    const int32 unit = axis == 2 ? w.unit : 1;
    const int64 place = origin[axis] + within - w.before[axis] * unit;
    if (place >= 0 && place < w.size[axis]) return place;
    const int64 last = w.size[axis] + (w.window[axis] - 1 - w.before[axis]) * unit - 1;
    const int64* table = beyond;
    for (int a = 0; a < axis; ++a) table += w.window[a] - 1;
    return element_in_row(w.size[axis], w.before[axis], table, unit, place < last ? place : last);
  }

  // Copies what the tile sees of a plane, which lies inside it. A thread asks for several elements before it
  // waits for the first.
  SEMICONV_FN void load_inside(const Storage* corner) const {
    const int32 across = broad(), total = high() * across;
    const int32 columns = threads % across, step = threads / across * w.pitch + columns, wrap = w.pitch - across;
    const int64 source_step = threads / across * w.size[2] + columns, source_wrap = w.size[2] - across;
    const int32 row = (int32)threadIdx.x / across;
    int32 column = (int32)threadIdx.x % across, column_stored = column;
    const Storage* from = corner + row * w.size[2] + column;
    double* to = doubles + row * w.pitch + column;
#pragma unroll 1
    for (int32 first = threadIdx.x; first < total; first += at_once * threads) {
      Storage seen[at_once];
#pragma unroll
      for (int k = 0; k < at_once; ++k) {
        if (first + k * threads < total) seen[k] = *from;
        from += source_step, column += columns;
        if (column >= across) column -= across, from += source_wrap;
      }
#pragma unroll
      for (int k = 0; k < at_once; ++k) {
        if (first + k * threads < total) *to = (double)load(seen[k]);
        to += step, column_stored += columns;
        if (column_stored >= across) column_stored -= across, to += wrap;
      }
    }
  }

  // The same of any tile; `from`: null if the plane is the constant.
  SEMICONV_FN void load_anywhere(const Storage* from, double outside) const {
    constexpr int few = SEMICONV_BELOW < 8 ? at_once / 2 : 1;
    const int32 across = broad(), total = high() * across;
    const int32 rows = threads / across, columns = threads % across;
    int32 row = (int32)threadIdx.x / across, column = (int32)threadIdx.x % across;
#pragma unroll 1
    for (int32 first = threadIdx.x; first < total; first += few * threads) {
      Storage seen[few];
      int32 to[few];
      bool exists[few];
#pragma unroll
      for (int k = 0; k < few; ++k) {
        to[k] = row * w.pitch + column;
        exists[k] = false;
        if (from != nullptr && first + k * threads < total) {
          const int64 y = element(1, row), x = element(2, column);
          exists[k] = y >= 0 && x >= 0;
          if (exists[k]) seen[k] = from[y * w.size[2] + x];
        }
        row += rows, column += columns;
        if (column >= across) column -= across, ++row;
      }
#pragma unroll
      for (int k = 0; k < few; ++k)
        if (first + k * threads < total) doubles[to[k]] = exists[k] ? (double)load(seen[k]) : outside;
    }
  }

  // What the window's plane z shows of the first output's image.
  SEMICONV_FN void load_plane(const Storage* volume, int32 z, double outside) const {
    const int64 plane = element(0, z), y = origin[1] - w.before[1], x = origin[2] - w.before[2] * w.unit;
    const Storage* from = volume + plane * w.size[1] * w.size[2];
    if (plane >= 0 && y >= 0 && x >= 0 && y + high() <= w.size[1] && x + broad() <= w.size[2])
      load_inside(from + y * w.size[2] + x);
    else
      load_anywhere(plane < 0 ? nullptr : from, outside);
  }
};

}  // namespace semiconv
