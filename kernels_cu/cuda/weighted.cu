// Weighted sums over whole windows in double precision, from tiles of doubles in shared memory.
//
// Needs SEMICONV_STORAGE, SEMICONV_KERNEL (the function's name), SEMICONV_OUT (the output's storage type),
// SEMICONV_SYMMETRY (1 or -1: opposite taps are joined, else 0), SEMICONV_BELOW (outputs of a thread below
// each other), SEMICONV_BLOCKS (that a multiprocessor holds at a time: registers are limited to that),
// SEMICONV_ADJACENT (whether neighbouring positions of a row are neighbouring elements),
// SEMICONV_NEGLIGIBLE (weights up to this size are left out; below 0: none is).
// Sizes, windows, tiles, what lies beyond the border and the weights are arguments.
//
// A thread has two columns of outputs, one position apart. An element that it reads is multiplied by all
// weights by which its outputs see it: each output still adds its taps in the window's order.
#include "this_thread.cuh"
#include "weighted_tile.cuh"

namespace semiconv {

using Out = SEMICONV_OUT;
constexpr int below = SEMICONV_BELOW;  // outputs of a thread in a column
constexpr bool adjacent = SEMICONV_ADJACENT;
constexpr bool holed = SEMICONV_NEGLIGIBLE >= 0;

template <class T> struct alignas(2 * sizeof(T)) Two { T x, y; };
using Pair = Two<double>;

// A weight, or 0 if it is none.
SEMICONV_FN double usable(double weight) {
  return holed && !(fabs(weight) > SEMICONV_NEGLIGIBLE) ? 0 : weight;
}

// One thread's outputs: rows of the tile from its own on, weights in rows of an even number of doubles.
struct Outputs {
  const double* at;
  const double* weights;
  const int32 pitch, unit, high, broad, weights_pitch;
  double sum[below][2];

  // What two neighbouring positions of a row show, the first of which is even.
  SEMICONV_FN Pair pair(const double* row, int32 position) const {
    if constexpr (adjacent) return *(const Pair*)(row + position);
    else return {row[position * unit], row[(position + 1) * unit]};
  }
  SEMICONV_FN Pair two_weights(int32 row, int32 column) const {
    return *(const Pair*)(weights + row * weights_pitch + column);
  }
  SEMICONV_FN void add(int k, double first, double second, double weight) {
    if constexpr (holed)
      if (bit_cast<uint64>(weight) >> 32 == 0) return;  // a 0 of `usable`, without the units of doubles
    sum[k][0] += first * weight;
    sum[k][1] += second * weight;
  }

  // The tap that is last in the window.
  SEMICONV_FN void add_last() {
#pragma unroll
    for (int k = 0; k < below; ++k) {
      const double* last = at + (k + high - 1) * pitch + (broad - 1) * unit;
      add(k, last[0], last[unit], weights[(high - 1) * weights_pitch + broad - 1]);
    }
  }

  // COUNT rows of taps, beginning with `first`, `columns` in each. Row by row of what they see.
  template <int COUNT> SEMICONV_FN void add_rows(int32 first, int32 columns) {
#pragma unroll
    for (int y = 0; y < below + COUNT - 1; ++y) {
      const double* row = at + (first + y) * pitch;
      Pair seen = pair(row, 0);
      int32 column = 0;
#pragma unroll 1
      for (; column + 1 < columns; column += 2) {
        const Pair next = pair(row, column + 2);
#pragma unroll
        for (int tap = 0; tap < COUNT; ++tap) {
          if (y - tap < 0 || y - tap >= below) continue;
          const Pair weight = two_weights(first + tap, column);
          add(y - tap, seen.x, seen.y, weight.x);
          add(y - tap, seen.y, next.x, weight.y);
        }
        seen = next;
      }
      if (column == columns) continue;
#pragma unroll
      for (int tap = 0; tap < COUNT; ++tap)
        if (y - tap >= 0 && y - tap < below)
          add(y - tap, seen.x, seen.y, weights[(first + tap) * weights_pitch + column]);
    }
  }

  SEMICONV_FN void add_window(int32 rows, int32 columns) {
    int32 row = 0;
    for (; rows - row > 5; row += 4) add_rows<4>(row, columns);
    switch (rows - row) {
      case 5: add_rows<5>(row, columns); break;
      case 4: add_rows<4>(row, columns); break;
      case 3: add_rows<3>(row, columns); break;
      case 2: add_rows<2>(row, columns); break;
      case 1: add_rows<1>(row, columns); break;
    }
  }

  SEMICONV_FN void begin(int k, const double* centre) {
    const double weight = weights[high / 2 * weights_pitch + broad / 2];
    sum[k][0] = centre[0] * weight, sum[k][1] = centre[unit] * weight;
  }
  SEMICONV_FN void join(int k, double one, double other, double next_one, double next_other, double weight) {
    sum[k][0] += (one + SEMICONV_SYMMETRY * other) * weight;
    sum[k][1] += (next_one + SEMICONV_SYMMETRY * next_other) * weight;
  }

  // The taps of a row: the centre, then pairs of opposite ones from the outermost on.
  SEMICONV_FN void join_along_rows() {
    const int32 half = broad / 2;
#pragma unroll
    for (int k = 0; k < below; ++k) {
      const double* row = at + k * pitch;
      begin(k, row + half * unit);
      Pair left = pair(row, 0), right = pair(row, 2 * half);
      int32 tap = 0;
#pragma unroll 1
      for (; tap + 1 < half; tap += 2) {
        const Pair next = pair(row, tap + 2), before = pair(row, 2 * half - tap - 2);
        const Pair weight = two_weights(0, tap);
        join(k, left.x, right.x, left.y, right.y, weight.x);
        join(k, left.y, before.y, next.x, right.x, weight.y);
        left = next, right = before;
      }
      if (tap < half) join(k, left.x, right.x, left.y, right.y, weights[tap]);
    }
  }

  // The same of a column: two windows of rows, which move towards each other.
  SEMICONV_FN void join_along_columns() {
    const int32 half = high / 2;
    Pair above[below], under[below];
#pragma unroll
    for (int k = 0; k < below; ++k) {
      begin(k, at + (k + half) * pitch);
      above[k] = pair(at + k * pitch, 0), under[k] = pair(at + (k + 2 * half) * pitch, 0);
    }
#pragma unroll 1
    for (int32 tap = 0; tap < half; ++tap) {
      const double weight = weights[tap * weights_pitch];
#pragma unroll
      for (int k = 0; k < below; ++k) join(k, above[k].x, under[k].x, above[k].y, under[k].y, weight);
#pragma unroll
      for (int k = 0; k + 1 < below; ++k) above[k] = above[k + 1], under[below - 1 - k] = under[below - 2 - k];
      above[below - 1] = pair(at + (below + tap) * pitch, 0);
      under[0] = pair(at + (2 * half - tap - 1) * pitch, 0);
    }
  }

  // All taps of a plane of the window.
  SEMICONV_FN void add_plane(bool rotated) {
#if SEMICONV_SYMMETRY
    if (high == 1) join_along_rows();
    else join_along_columns();
#else
    if (rotated) add_last();
    add_window(high - (rotated && high > 1), broad - (rotated && high == 1));
#endif
  }

  // The outputs of a plane that lie inside it, from a row and column on.
  SEMICONV_FN void store(Out* out, const Weighted& w, int64 plane, int64 row, int64 column) const {
    if (column >= w.size[2]) return;
    const bool both = column + unit < w.size[2];
    const bool at_a_time = adjacent && both && w.size[2] % 2 == 0 && (size_t)out % sizeof(Two<Out>) == 0;
    Out* to = out + (plane * w.size[1] + row) * w.size[2] + column;
#pragma unroll
    for (int k = 0; k < below; ++k, to += w.size[2]) {
      if (row + k >= w.size[1]) return;
      const Two<Out> two{Converted<Out>::from(sum[k][0]), Converted<Out>::from(sum[k][1])};
      if (at_a_time) {
        *(Two<Out>*)to = two;
      } else {
        to[0] = two.x;
        if (both) to[unit] = two.y;
      }
    }
  }
};

}  // namespace semiconv

extern "C" __global__ void __launch_bounds__(semiconv::threads, SEMICONV_BLOCKS)
SEMICONV_KERNEL(const semiconv::Weighted w, const semiconv::Storage* __restrict__ source,
                semiconv::Out* __restrict__ out, const long long* __restrict__ beyond,
                const double* __restrict__ weights, double outside) {
  using namespace semiconv;
  extern __shared__ unsigned long long shared_memory[];
  double* const doubles = (double*)shared_memory;
  const int32 weights_pitch = w.window[2] + w.window[2] % 2;
  double* const kept = doubles + (w.tile[0] + w.window[1] - 1) * w.pitch;
  for (int32 n = threadIdx.x; n < w.window[0] * w.window[1] * w.window[2]; n += threads)
    kept[n / w.window[2] * weights_pitch + n % w.window[2]] = usable(weights[n]);

  const int32 unit = adjacent ? 1 : w.unit, lane = threadIdx.x % w.lanes;
  const int32 column = lane / unit * 2 * unit + lane % unit, row = threadIdx.x / w.lanes * below;
  const bool idle = column + unit >= w.tile[1];
  const double* const at = doubles + row * w.pitch + (idle ? 0 : column);
  const bool few = w.batch * w.size[0] < (int64)1 << 31;  // a division of 32 bits takes a quarter of the time
  for (int64 n = blockIdx.z; n < as_it_is(w.batch) * w.size[0]; n += gridDim.z) {
    const int64 depth = few ? (int32)n % (int32)w.size[0] : n % w.size[0];
    const Storage* const image = source + (n - depth) * w.size[1] * w.size[2];
    const int64 left = (int64)blockIdx.x * w.tile[1];
    for (int64 top = (int64)blockIdx.y * w.tile[0]; top < w.size[1]; top += (int64)gridDim.y * w.tile[0]) {
      const int64 origin[] = {depth, top, left};
      const Tile tile{w, doubles, beyond, origin};
      Outputs outputs{at, kept, w.pitch, unit, w.window[1], w.window[2], weights_pitch, {}};
      for (int32 z = 0; z < w.window[0]; ++z, outputs.weights += w.window[1] * weights_pitch) {
        tile.load_plane(image, z, outside);
        __syncthreads();
        outputs.add_plane(w.rotated);
        __syncthreads();  // the next plane needs the memory
      }
      if (!idle) outputs.store(out, w, n, top + row, left + column);
    }
  }
}
