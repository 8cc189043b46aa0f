// Weighted sums over a list of taps in double precision, from tiles of doubles in shared memory.
//
// Needs SEMICONV_STORAGE, SEMICONV_KERNEL (the function's name), SEMICONV_OUT (the output's storage type),
// SEMICONV_SYMMETRY (1 or -1: opposite taps are joined, else 0), SEMICONV_TOGETHER (outputs of a thread),
// SEMICONV_NEGLIGIBLE (a weight whose size is not above it is none; below 0: all are used).
// Sizes, windows, tiles, what lies beyond the border, the taps and their weights are arguments.
//
// A tile has rows and columns of one plane. What its windows see of a plane is copied, each element converted
// once, and every tap in that plane is added; then comes the next plane, in the order of the taps.
#include "../filters.cuh"

namespace semiconv {

// Twin of semiconv_cupy/ndimage/structs.py. A window counts positions, all else elements.
struct Weighted {
  int64 batch, size[3];
  int32 window[3], before[3];
  int32 unit;     // elements from one position of a row to the next
  int32 tile[2];  // rows and columns; the columns are a power of two and at most as many as a block has threads
  int32 taps;
};

using Out = SEMICONV_OUT;
constexpr int together = SEMICONV_TOGETHER, threads = 256;

struct Block {
  const Weighted& w;
  double* const tile;
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
    constexpr int at_once = sizeof(Storage) == 8 || SEMICONV_SYMMETRY ? 2 : 4;  // without spilled registers
    const int32 across = broad(), total = high() * across;
    const int32 columns = threads % across;
    const int64 row = w.size[2], step = threads / across * row + columns;
    int32 column = (int32)threadIdx.x % across;
    const Storage* from = corner + (int32)threadIdx.x / across * row + column;
#pragma unroll 1
    for (int32 first = threadIdx.x; first < total; first += at_once * threads) {
      Storage seen[at_once];
#pragma unroll
      for (int k = 0; k < at_once; ++k) {
        if (first + k * threads < total) seen[k] = *from;
        from += step, column += columns;
        if (column >= across) column -= across, from += row - across;
      }
#pragma unroll
      for (int k = 0; k < at_once; ++k)
        if (first + k * threads < total) tile[first + k * threads] = (double)load(seen[k]);
    }
  }

  // The same of any tile.
  SEMICONV_FN void load_anywhere(const Storage* from, double outside) const {
    const int32 across = broad(), total = high() * across;
#pragma unroll 1
    for (int32 at = threadIdx.x; at < total; at += threads) {
      const int64 y = from == nullptr ? -1 : element(1, at / across), x = element(2, at % across);
      tile[at] = y < 0 || x < 0 ? outside : (double)load(from[y * w.size[2] + x]);
    }
  }

  SEMICONV_FN void load_plane(const Storage* volume, int32 z, double outside) const {
    const int64 plane = element(0, z), y = origin[1] - w.before[1], x = origin[2] - w.before[2] * w.unit;
    const Storage* from = volume + plane * w.size[1] * w.size[2];
    if (plane >= 0 && y >= 0 && x >= 0 && y + high() <= w.size[1] && x + broad() <= w.size[2])
      load_inside(from + y * w.size[2] + x);
    else
      load_anywhere(plane < 0 ? nullptr : from, outside);
  }

  // Adds taps to a thread's sums; its outputs lie `apart` doubles from each other.
  SEMICONV_FN void add(const double* at, int32 apart, const int32* offsets, const double* weights, int32 begin,
                       int32 end, double (&sum)[together]) const {
#if SEMICONV_SYMMETRY
    // All taps lie in one plane; the first one stands alone.
    const double* from = at + offsets[0];
#pragma unroll
    for (int k = 0; k < together; ++k) sum[k] = from[k * apart] * weights[0];
#pragma unroll 2
    for (int32 tap = 1; tap <= w.taps / 2; ++tap) {
      const double weight = weights[tap];
      const double *one = at + offsets[tap], *other = at + offsets[w.taps - tap];
#pragma unroll
      for (int k = 0; k < together; ++k)
        sum[k] += (one[k * apart] + SEMICONV_SYMMETRY * other[k * apart]) * weight;
    }
#else
#pragma unroll 2
    for (int32 tap = begin; tap < end; ++tap) {
      const double weight = weights[tap];
      if constexpr (SEMICONV_NEGLIGIBLE >= 0)
        if (!(fabs(weight) > SEMICONV_NEGLIGIBLE)) continue;
      const double* from = at + offsets[tap];
#pragma unroll
      for (int k = 0; k < together; ++k) sum[k] += from[k * apart] * weight;
    }
#endif
  }
};

}  // namespace semiconv

// places: for each plane of the window its first tap, then the number of taps, then each tap's place in a tile.
extern "C" __global__ void __launch_bounds__(semiconv::threads, 3)
SEMICONV_KERNEL(const semiconv::Weighted w, const semiconv::Storage* __restrict__ source,
                semiconv::Out* __restrict__ out, const long long* __restrict__ beyond,
                const int* __restrict__ places, const double* __restrict__ weights, double outside) {
  using namespace semiconv;
  extern __shared__ unsigned long long shared_memory[];
  const int64 volume = w.size[0] * w.size[1] * w.size[2], planes = w.batch * w.size[0];
  const bool few = planes < (int64)1 << 31;  // a division of 32 bits takes a quarter of the time
  const int32 x = threadIdx.x % w.tile[1], y = threadIdx.x / w.tile[1], rows = threads / w.tile[1];
  const int32* offsets = places + w.window[0] + 1;
  for (int64 n = blockIdx.z; n < planes; n += gridDim.z) {
    const int64 image = few ? (int32)n / (int32)w.size[0] : n / w.size[0];
    for (int64 top = (int64)blockIdx.y * w.tile[0]; top < w.size[1]; top += (int64)gridDim.y * w.tile[0])
      for (int64 left = (int64)blockIdx.x * w.tile[1]; left < w.size[2]; left += (int64)gridDim.x * w.tile[1]) {
        const int64 origin[] = {n - image * w.size[0], top, left};
        const Block block{w, (double*)shared_memory, beyond, origin};
        const double* at = block.tile + y * block.broad() + x;
        double sum[together];
#pragma unroll
        for (int k = 0; k < together; ++k) sum[k] = 0;
        for (int32 z = 0; z < w.window[0]; ++z) {
          if (places[z] == places[z + 1]) continue;
          block.load_plane(source + image * volume, z, outside);
          __syncthreads();
          block.add(at, rows * block.broad(), offsets, weights, places[z], places[z + 1], sum);
          __syncthreads();  // the next plane needs the memory
        }
        if (left + x >= w.size[2]) continue;
        Out* column = out + image * volume + (origin[0] * w.size[1] + top + y) * w.size[2] + left + x;
#pragma unroll
        for (int k = 0; k < together; ++k)
          if (top + y + k * rows < w.size[1]) column[k * rows * w.size[2]] = Converted<Out>::from(sum[k]);
      }
  }
}
