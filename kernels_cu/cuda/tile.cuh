// Tiles of the last two axes in shared memory: what the tiled kernels have in common.
//
// Needs what window.cuh needs, and
//   SEMICONV_MIRRORED          1 for a convolution, 0 for a correlation
//   SEMICONV_ROWS, _COLUMNS    outputs of one thread along the last two axes (rank 1 has one row)
//   SEMICONV_THREADS_Y, _X     threads along them
// Axes before the last two, and the channels, are looped over: one "plane" of taps at a time.
#pragma once
#include "../window.cuh"

namespace semiconv {

constexpr int planar = rank > 1 ? 2 : 1;        // axes inside a tile
constexpr int outer = rank - planar;            // axes outside
constexpr bool mirrored = SEMICONV_MIRRORED;
constexpr int rows = SEMICONV_ROWS, columns = SEMICONV_COLUMNS;
constexpr int threads_y = SEMICONV_THREADS_Y, threads_x = SEMICONV_THREADS_X;
constexpr int threads = threads_y * threads_x;
constexpr int tile_rows = rows * threads_y, tile_columns = columns * threads_x;

constexpr SEMICONV_FN int32 size_y() { return rank > 1 ? SEMICONV_KERNEL_SIZE[last_axis - (rank > 1)] : 1; }
constexpr SEMICONV_FN int32 size_x() { return SEMICONV_KERNEL_SIZE[last_axis]; }
constexpr SEMICONV_FN int32 stride_y() { return rank > 1 ? SEMICONV_STRIDES[last_axis - (rank > 1)] : 1; }
constexpr SEMICONV_FN int32 stride_x() { return SEMICONV_STRIDES[last_axis]; }
constexpr SEMICONV_FN int32 dilation_y() { return rank > 1 ? SEMICONV_DILATIONS[last_axis - (rank > 1)] : 1; }
constexpr SEMICONV_FN int32 dilation_x() { return SEMICONV_DILATIONS[last_axis]; }

// A length along one of the tile's axes (y is 1 for signals).
SEMICONV_FN int64 along_y(const int64* sizes, int64 missing) { return rank > 1 ? sizes[last_axis - (rank > 1)] : missing; }
SEMICONV_FN int64 along_x(const int64* sizes) { return sizes[last_axis]; }

// A tile's place: which batch element, group, outer output position, and its first output.
struct Place {
  int64 batch, group;
  int64 outer_position[max_rank];
  int32 y, x;
};

// grid: x counts (outer position, tile row, tile column), y the groups' channel blocks, z the batch.
// Taken apart by the launch's own numbers of tiles.
SEMICONV_FN Place place_of_block(const int64* sizes, int64 tiles_y, int64 tiles_x) {
  Place place;
  int64 n = blockIdx.x;
  place.x = (int32)(n % tiles_x) * tile_columns;
  n /= tiles_x;
  place.y = (int32)(n % tiles_y) * tile_rows;
  n /= tiles_y;
  for (int a = outer - 1; a >= 0; --a) {
    place.outer_position[a] = n % sizes[a];
    n /= sizes[a];
  }
  return place;
}

// Copy a HEIGHT x WIDTH patch into shared memory, a warp per row; positions outside get `outside`.
template <int HEIGHT, int WIDTH, class S, class T>
SEMICONV_FN void load_patch(T* patch, const S* source, int64 first_y, int64 first_x, int64 size_of_y,
                            int64 size_of_x, int64 pitch_y, int64 pitch_x, T outside) {
  constexpr int warps = threads / 32 > 0 ? threads / 32 : 1;
  const int lane = threadIdx.x % 32;
  // Columns of the patch that lie in the image.
  const int64 room = size_of_x - first_x;
  const int from = first_x < 0 ? (int)(-first_x < WIDTH ? -first_x : WIDTH) : 0;
  const int to = room < WIDTH ? (int)(room > 0 ? room : 0) : WIDTH;
#pragma unroll 2
  for (int row = threadIdx.x / 32; row < HEIGHT; row += warps) {
    const int64 y = first_y + row;
    const bool inside = y >= 0 && y < size_of_y;
    const S* line = source + y * pitch_y + first_x * pitch_x;
#pragma unroll
    for (int x = lane; x < WIDTH; x += 32)
      patch[row * WIDTH + x] = inside && x >= from && x < to ? (T)load(line[x * pitch_x]) : outside;
  }
}

}  // namespace semiconv
