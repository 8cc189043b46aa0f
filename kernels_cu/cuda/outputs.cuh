// A thread's outputs: their accumulators in registers, and how results and residuals reach memory.
//
// Needs what numbers.cuh and patch.cuh need. `out` and each of the residual's arrays are C-contiguous;
// the arrays of a residual lie `residual_plane` elements apart.
#pragma once
#include "winners.cuh"

namespace semiconv {

constexpr int values = columns / lanes;  // registers of a row of outputs
template <class A> using Accumulators = A[channels][rows][values];
template <class A, class F> SEMICONV_FN void for_each(Accumulators<A>& acc, F&& visit) {
#pragma unroll
  for (int c = 0; c < channels; ++c)
#pragma unroll
    for (int row = 0; row < rows; ++row)
#pragma unroll
      for (int x = 0; x < values; ++x) visit(acc[c][row][x], c);
}

// The settings of a thread's output channels; one of all, unless SEMICONV_BY_CHANNEL is defined.
struct Settings {
#if defined(SEMICONV_BY_CHANNEL)
  static constexpr int count = channels;
#else
  static constexpr int count = 1;
#endif
  Setting settings[count];
  bool alike;  // whether one loop serves all, and one zero
  SEMICONV_FN Settings(const Geometry& g, int64 group, int64 first_output) : alike(true) {
#pragma unroll
    for (int c = 0; c < count; ++c) {
      const int64 output = smaller_of(first_output + c, g.outputs_per_group - 1);
      settings[c] = Setting(g.parameters, g.kernel_of(group, output));
      alike = alike && settings[c].alike(settings[0]);
    }
  }
  SEMICONV_FN const Setting& operator[](int c) const { return settings[count > 1 ? c : 0]; }
};

// Writes neighbouring elements, of which the first `count` exist.
template <class T> SEMICONV_FN void store_chunk(T* to, const Chunk<T, columns>& chunk, int64 count) {
  if (count >= columns && (size_t)to % alignof(Chunk<T, columns>) == 0) {
    *(Chunk<T, columns>*)to = chunk;
  } else if (columns == 4 && channels == 1 && (count >= columns || count == 2) && (size_t)to % alignof(Chunk<T, 2>) == 0) {
    *(Chunk<T, 2>*)to = Chunk<T, 2>{{chunk.of[0], chunk.of[1]}};
    if (count > 2) *((Chunk<T, 2>*)to + 1) = Chunk<T, 2>{{chunk.of[columns - 2], chunk.of[columns - 1]}};
  } else {
#pragma unroll
    for (int x = 0; x < columns; ++x)
      if (x < count) to[x] = chunk.of[x];
  }
}

// winner(one, x): the winning tap of output x, whose accumulator is `one`.
template <class A, class F>
SEMICONV_FN void store_residuals(const A (&acc)[values], const Setting& setting, F&& winner, void* residual,
                                 int64 residual_plane, int64 at, int64 count) {
#if defined(SEMICONV_RESIDUAL)
  Chunk<SEMICONV_RESIDUAL, columns> chunk;
  auto* to = (SEMICONV_RESIDUAL*)residual + at;
  if constexpr (provenance) {
#pragma unroll
    for (int x = 0; x < columns; ++x) chunk.of[x] = (SEMICONV_RESIDUAL)winner(acc[x], x);
    store_chunk(to, chunk, count);
  } else {
#pragma unroll
    for (int k = 0; k < A::residuals; ++k) {
#pragma unroll
      for (int x = 0; x < columns; ++x) chunk.of[x] = acc[x].residual(k, setting);
      store_chunk(to + k * residual_plane, chunk, count);
    }
  }
#endif
}

// The arrays of one call.
struct Arrays {
  const Storage *img, *krn;
  Storage* out;
  void* residual;
  int64 residual_plane;

  // The first channel that a plane of outputs sees.
  SEMICONV_FN const Storage* image(const Geometry& g, const TeamTile& tile) const {
    return img + tile.batch * g.img_strides[0] + tile.group * g.in_channels * g.img_strides[1];
  }
};

// view, inside: of the block's only slab; blocks with several do not read them (winners.cuh).
template <class A, class F>
SEMICONV_FN void store_outputs(Accumulators<A>& acc, const Settings& settings, const Geometry& g,
                               const TeamTile& tile, const View& view, F&& inside, const Arrays& arrays) {
  if (tile.idle) return;
  const Storage* image = arrays.image(g, tile);
  int64 outer_at = 0, pixels = along_y(g.out_size, 1) * along_x(g.out_size);
  for (int a = 0; a < outer; ++a) {
    outer_at = outer_at * g.out_size[a] + tile.outer_position[a];
    pixels *= g.out_size[a];
  }
  const int32 height = (int32)along_y(g.out_size, 1), width = (int32)along_x(g.out_size);
  const int32 thread = this_thread() % threads;
  const int32 top = tile.y + thread / threads_x * rows, left = tile.x + thread % threads_x * columns;
  const int64 corner = (outer_at * height + top) * width + left;
#pragma unroll
  for (int c = 0; c < channels; ++c) {
    const uint32 output = tile.channel_block * channels + c;
    if (output >= g.outputs_per_group) continue;
    const int64 plane = (tile.batch * g.groups + tile.group) * g.outputs_per_group + output;
    const Storage* kernel = arrays.krn + g.kernel_of(tile.group, output) * g.krn_strides[0];
#pragma unroll
    for (int row = 0; row < rows; ++row) {
      if (top + row >= height) continue;
      const int64 at = plane * pixels + corner + row * width;
      Chunk<Storage, columns> results;
#pragma unroll
      for (int x = 0; x < columns; ++x)
        results.of[x] = result_of(Packed<Value>::number(acc[c][row][x / lanes].result(settings[c]), x % lanes));
      store_chunk(arrays.out + at, results, width - left);
      const auto winner = [&](const auto& one, int x) {
        if constexpr (by_runs && one_plane)
          return tap_in_patch(view, c, row, x, one.best, one.winner, settings[c], inside);
        else if constexpr (by_runs)
          return tap_in_image(g, tile, image, kernel, top + row, left + x, one.best, one.winner, settings[c]);
        else
          return one.winner;
      };
      store_residuals(acc[c][row], settings[c], winner, arrays.residual, arrays.residual_plane, at, width - left);
    }
  }
}

}  // namespace semiconv
