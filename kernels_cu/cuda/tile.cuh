// Tiles of the last two axes: what the tiled kernels have in common.
//
// Needs what window.cuh needs, and
//   SEMICONV_MIRRORED          1 for a convolution, 0 for a correlation
//   SEMICONV_CHANNELS          channels of one thread (1 for depthwise work)
//   SEMICONV_ROWS, _COLUMNS    its elements along the last two axes (signals have one row)
//   SEMICONV_THREADS_Y, _X     threads of a tile along the last two axes
// Axes before the last two, and the channels, are looped over: one "plane" of taps at a time.
#pragma once
#include "../window.cuh"

namespace semiconv {

constexpr int planar = rank > 1 ? 2 : 1;        // axes inside a tile
constexpr int outer = rank - planar;            // axes outside
constexpr bool mirrored = SEMICONV_MIRRORED;
constexpr int channels = SEMICONV_CHANNELS;
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
SEMICONV_FN int64 along_y(const int64* sizes, int64 missing) {
  return rank > 1 ? sizes[last_axis - (rank > 1)] : missing;
}
SEMICONV_FN int64 along_x(const int64* sizes) { return sizes[last_axis]; }

}  // namespace semiconv
