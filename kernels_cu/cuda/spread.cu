// Reconstruction: values spread under (over) a mask, as far as they come within a tile of the last two axes;
// the launcher repeats it until no tile changes.
//
//     value   9 . . .      mask   9 5 5 2      1 step   9 5 . .      until stable   9 5 5 2
//
// A step replaces each value by the best among itself and its neighbours (the structure's taps), but never
// beyond the mask. A block copies its tile and the elements around it into shared memory and repeats the step
// there until nothing changes. It writes the values, and *changed = 1 if one of them is new.
//
// Needs SEMICONV_STORAGE, SEMICONV_KERNEL (the function's name), SEMICONV_MINIMUM (true or false),
// SEMICONV_RANK (spread.cuh), SEMICONV_REACH_Y, SEMICONV_REACH_X (how far steps go along the last two axes). Taps
// that leave the plane of the tile are followed once a launch, the others until the tile is stable: the result is
// the same in any order (Vincent, IEEE Trans. Image Processing 2, 1993).
#include "../filters.cuh"
#include "spread.cuh"

namespace semiconv {

constexpr int threads = 256, of_thread = side * side / threads;
constexpr int reach_y = SEMICONV_REACH_Y, reach_x = SEMICONV_REACH_X;
constexpr int patch_y = side + 2 * reach_y, patch_x = side + 2 * reach_x;
constexpr int together = 128;  // planes that are looked up at a time

}  // namespace semiconv

extern "C" __global__ void __launch_bounds__(256, 3)
SEMICONV_KERNEL(const semiconv::Spread s, const semiconv::Storage* __restrict__ from,
                const semiconv::Storage* __restrict__ mask, semiconv::Storage* __restrict__ to,
                const long long* __restrict__ steps, int* __restrict__ changed) {
  using namespace semiconv;
  constexpr bool minimum = SEMICONV_MINIMUM;
  __shared__ Real patch[patch_y][patch_x];
  __shared__ int64 planes[together];
  __shared__ int offsets[(2 * reach_y + 1) * (2 * reach_x + 1)];
  const Real none = worst<minimum, Real>();
  const int height = (int)s.size[rank - 2], width = (int)s.size[rank - 1];
  const uint32 tiles_y = (uint32)s.tiles_y, tiles_x = (uint32)s.tiles_x;
  const int left = (int)(blockIdx.x % tiles_x) * side, top = (int)(blockIdx.x / tiles_x % tiles_y) * side;
  const uint32 outer = blockIdx.x / tiles_x / tiles_y;
  const int64 plane = (int64)outer * height * width;

  for (int n = threadIdx.x; n < s.planar; n += threads)
    offsets[n] = (int)(steps[n * rank + rank - 2] * patch_x + steps[n * rank + rank - 1]);
  for (int n = threadIdx.x; n < patch_y * patch_x; n += threads) {
    const int y = top - reach_y + n / patch_x, x = left - reach_x + n % patch_x;
    const bool inside = y >= 0 && y < height && x >= 0 && x < width;
    patch[n / patch_x][n % patch_x] = inside ? load(from[plane + (int64)y * width + x]) : none;
  }
  __syncthreads();

  // A thread's elements lie in one column, so that neighbouring threads access neighbouring elements.
  const int column = threadIdx.x % side, row = threadIdx.x / side * of_thread, x = left + column;
  Real value[of_thread], most[of_thread], before[of_thread];
  bool mine[of_thread];
#pragma unroll
  for (int k = 0; k < of_thread; ++k) {
    const int y = top + row + k;
    mine[k] = y < height && x < width;
    value[k] = before[k] = patch[reach_y + row + k][reach_x + column];
    most[k] = mine[k] ? load(mask[plane + (int64)y * width + x]) : none;
  }
  for (int64 first = s.planar; first < s.planar + s.across; first += together) {
    const int count = s.planar + s.across - first < together ? (int)(s.planar + s.across - first) : together;
    __syncthreads();
    for (int n = threadIdx.x; n < count; n += threads) planes[n] = plane_seen(s, outer, steps + (first + n) * rank);
    __syncthreads();
    for (int n = 0; n < count; ++n) {
      const long long* step = steps + (first + n) * rank;
      const int to_y = top + row + (int)step[rank - 2], to_x = x + (int)step[rank - 1];
      if (planes[n] < 0 || to_x < 0 || to_x >= width) continue;
#pragma unroll
      for (int k = 0; k < of_thread; ++k)
        if (to_y + k >= 0 && to_y + k < height)
          value[k] = better<minimum>(value[k], load(from[planes[n] + (int64)(to_y + k) * width + to_x]));
    }
  }
  bool moves = true;
  while (moves) {
    moves = false;
#pragma unroll
    for (int k = 0; k < of_thread; ++k) {
      if (!mine[k]) continue;
      const Real* at = &patch[reach_y + row + k][reach_x + column];
      const Real old = *at;
      Real best = better<minimum>(none, value[k]);
      for (int n = 0; n < s.planar; ++n) best = better<minimum>(best, at[offsets[n]]);
      if (minimum ? best < most[k] : best > most[k]) best = most[k];  // as far as the mask allows
      moves = moves || !(best == old);
      value[k] = best;
    }
    moves = __syncthreads_or(moves);
#pragma unroll
    for (int k = 0; k < of_thread; ++k)
      if (mine[k]) patch[reach_y + row + k][reach_x + column] = value[k];
    __syncthreads();
  }
  bool any = false;
#pragma unroll
  for (int k = 0; k < of_thread; ++k) {
    if (!mine[k]) continue;
    to[plane + (int64)(top + row + k) * width + x] = store(value[k]);
    any = any || !(value[k] == before[k]);
  }
  if (any) *changed = 1;
}
