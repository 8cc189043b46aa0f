// Reconstruction of a bool array by steps that all have an opposite: the components of the mask that meet a seed.
//
//     mask   1 1 . 1      label within tiles      0 0 . 3      the components that      1 1 . .
//            . 1 . 1      unite what touches      . 0 . 3      have a seed (here at     . 1 . .
//                         across tiles                         the left)
//
// Labels are a forest: label[n] is an element of n's component and not behind n; a root is its own label. Four
// launches: labels within tiles, in shared memory; unions across tiles; marks of roots that have a seed; values.
// The forest depends on the order of threads, the components do not.
//
// Needs the functions' names SEMICONV_KERNEL, SEMICONV_KERNEL_UNITE, _MARK, _FILL, and SEMICONV_MINIMUM (true: false
// spreads where the mask is false), SEMICONV_RANK (spread.cuh), SEMICONV_REACH_Y, SEMICONV_REACH_X (how far steps
// go along the last two axes).
#include "../portable.cuh"
#include "spread.cuh"

namespace semiconv {

constexpr int threads = 256, of_thread = side * side / threads;
constexpr int reach_y = SEMICONV_REACH_Y, reach_x = SEMICONV_REACH_X;
constexpr int patch_y = side + 2 * reach_y, patch_x = side + 2 * reach_x;
constexpr int none = side * side;  // behind all labels of a tile
constexpr bool minimum = SEMICONV_MINIMUM;

SEMICONV_FN bool spreads(const unsigned char* array, int64 n) { return (array[n] != 0) != minimum; }

SEMICONV_FN int root_of(const volatile int* labels, int n) {
  for (int label = labels[n]; label != n; label = labels[n]) n = label;
  return n;
}

// Joins two trees. A root that got another label meanwhile goes on with that one.
SEMICONV_FN void unite(int* labels, int a, int b) {
  for (;;) {
    a = root_of(labels, a);
    b = root_of(labels, b);
    if (a == b) return;
    const int low = a < b ? a : b, high = a < b ? b : a;
    const int old = atomicMin(labels + high, low);
    if (old == high) return;
    a = low;
    b = old;
  }
}

}  // namespace semiconv

// One block a tile. Clears the marks, too.
extern "C" __global__ void __launch_bounds__(256, 3)
SEMICONV_KERNEL(const semiconv::Spread s, const unsigned char* __restrict__ mask, int* __restrict__ labels,
                unsigned char* __restrict__ marks, const long long* __restrict__ steps) {
  using namespace semiconv;
  __shared__ int patch[patch_y][patch_x];
  __shared__ int offsets[(2 * reach_y + 1) * (2 * reach_x + 1)];
  const int height = (int)s.size[rank - 2], width = (int)s.size[rank - 1];
  const uint32 tiles_y = (uint32)s.tiles_y, tiles_x = (uint32)s.tiles_x;
  const int left = (int)(blockIdx.x % tiles_x) * side, top = (int)(blockIdx.x / tiles_x % tiles_y) * side;
  const int64 plane = (int64)(blockIdx.x / tiles_x / tiles_y) * height * width;
  for (int n = threadIdx.x; n < s.planar; n += threads)
    offsets[n] = (int)(steps[n * rank + rank - 2] * patch_x + steps[n * rank + rank - 1]);
  for (int n = threadIdx.x; n < patch_y * patch_x; n += threads) {
    const int row = n / patch_x - reach_y, column = n % patch_x - reach_x;
    const bool within = row >= 0 && row < side && column >= 0 && column < side;
    const bool mine = within && top + row < height && left + column < width &&
                      spreads(mask, plane + (int64)(top + row) * width + left + column);
    patch[n / patch_x][n % patch_x] = mine ? row * side + column : none;
  }
  __syncthreads();
  const int column = threadIdx.x % side, row = threadIdx.x / side * of_thread;
  int label[of_thread];
  for (bool moves = true; moves;) {
    moves = false;
#pragma unroll
    for (int k = 0; k < of_thread; ++k) {
      const int* at = &patch[reach_y + row + k][reach_x + column];
      int best = label[k] = *at;
      if (best == none) continue;
      for (int n = 0; n < s.planar; ++n) best = at[offsets[n]] < best ? at[offsets[n]] : best;
      const int further = patch[reach_y + best / side][reach_x + best % side];  // where that element has got
      best = further < best ? further : best;
      moves = moves || best != label[k];
      label[k] = best;
    }
    moves = __syncthreads_or(moves);
#pragma unroll
    for (int k = 0; k < of_thread; ++k) patch[reach_y + row + k][reach_x + column] = label[k];
    __syncthreads();
  }
#pragma unroll
  for (int k = 0; k < of_thread; ++k) {
    const int y = top + row + k, x = left + column;
    if (y >= height || x >= width) continue;
    const int64 n = plane + (int64)y * width + x, root = (int64)(top + label[k] / side) * width + left;
    labels[n] = label[k] == none ? -1 : (int)(plane + root + label[k] % side);
    marks[n] = 0;
  }
}

// Unions with what a step sees in another tile or plane, from the element that lies behind.
extern "C" __global__ void __launch_bounds__(256)
SEMICONV_KERNEL_UNITE(const semiconv::Spread s, int* __restrict__ labels, const long long* __restrict__ steps,
                      long long count) {
  using namespace semiconv;
  const int64 height = s.size[rank - 2], width = s.size[rank - 1];
  for (int64 n = (int64)blockIdx.x * 256 + threadIdx.x; n < count; n += (int64)gridDim.x * 256) {
    if (labels[n] < 0) continue;
    const int64 x = n % width, y = n / width % height;
    const uint32 outer = (uint32)(n / width / height);
    for (int64 i = 0; i < s.planar + s.across; ++i) {
      const long long* step = steps + i * rank;
      const int64 to_y = y + step[rank - 2], to_x = x + step[rank - 1];
      if (to_y < 0 || to_y >= height || to_x < 0 || to_x >= width) continue;
      if (i < s.planar && to_y / side == y / side && to_x / side == x / side) continue;
      const int64 plane = i < s.planar ? outer * height * width : plane_seen(s, outer, step);
      const int64 other = plane + to_y * width + to_x;
      if (plane >= 0 && other < n && labels[other] >= 0) unite(labels, (int)n, (int)other);
    }
  }
}

extern "C" __global__ void __launch_bounds__(256)
SEMICONV_KERNEL_MARK(const int* __restrict__ labels, const unsigned char* __restrict__ seed,
                     unsigned char* __restrict__ marks, long long count) {
  using namespace semiconv;
  for (int64 n = (int64)blockIdx.x * 256 + threadIdx.x; n < count; n += (int64)gridDim.x * 256)
    if (labels[n] >= 0 && spreads(seed, n)) marks[root_of(labels, (int)n)] = 1;
}

extern "C" __global__ void __launch_bounds__(256)
SEMICONV_KERNEL_FILL(const int* __restrict__ labels, const unsigned char* __restrict__ marks,
                     unsigned char* __restrict__ out, long long count) {
  using namespace semiconv;
  for (int64 n = (int64)blockIdx.x * 256 + threadIdx.x; n < count; n += (int64)gridDim.x * 256)
    out[n] = (labels[n] >= 0 && marks[root_of(labels, (int)n)]) != minimum;
}
