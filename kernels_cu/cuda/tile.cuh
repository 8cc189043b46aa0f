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

// A HEIGHT x WIDTH patch of the image: where it lies, and its way into shared memory, a warp per row
// (all threads on the one row of a signal). Positions outside the image get `outside`.
template <int HEIGHT, int WIDTH> struct PatchSource {
  static constexpr int lanes = rank > 1 ? 32 : threads;
  static constexpr int teams = threads / lanes;
  static constexpr int rows_of_team = (HEIGHT + teams - 1) / teams;
  static constexpr int columns_of_lane = (WIDTH + lanes - 1) / lanes;
  int64 first_y, first_x, size_of_y, pitch_y, pitch_x;
  int from, to;  // columns of the patch that lie in the image

  SEMICONV_FN PatchSource(const Geometry& g, const Place& place)
      : first_y((int64)place.y * stride_y() - along_y(g.pad_begin, 0)),
        first_x((int64)place.x * stride_x() - along_x(g.pad_begin)),
        size_of_y(along_y(g.image_size, 1)),
        pitch_y(along_y(g.img_strides + 2, 0)),
        pitch_x(along_x(g.img_strides + 2)) {
    const int64 room = along_x(g.image_size) - first_x;
    from = first_x < 0 ? (int)(-first_x < WIDTH ? -first_x : WIDTH) : 0;
    to = room < WIDTH ? (int)(room > 0 ? room : 0) : WIDTH;
  }
  // use(n, m, value) for this thread's elements, UNROLL rows' loads under way at a time.
  template <int UNROLL, class F>
  SEMICONV_FN void visit(const Storage* source, Real outside, F&& use) const {
    const int lane = threadIdx.x % lanes;
#pragma unroll UNROLL
    for (int n = 0; n < rows_of_team; ++n) {
      const int row = threadIdx.x / lanes + n * teams;
      const int64 y = first_y + row;
      const bool inside = row < HEIGHT && y >= 0 && y < size_of_y;
      const Storage* line = source + y * pitch_y + first_x * pitch_x;
#pragma unroll
      for (int m = 0; m < columns_of_lane; ++m) {
        const int x = lane + m * lanes;
        use(n, m, inside && x >= from && x < to ? (Real)load(line[x * pitch_x]) : outside);
      }
    }
  }
  static SEMICONV_FN void put(Real* patch, int n, int m, Real value) {
    const int row = threadIdx.x / lanes + n * teams, x = threadIdx.x % lanes + m * lanes;
    if (row < HEIGHT && x < WIDTH) patch[row * WIDTH + x] = value;
  }
};

}  // namespace semiconv
