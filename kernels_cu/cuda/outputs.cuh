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

// Writes a chunk by as few stores as it has vectors of 16 bytes. By asm: NVRTC 13.0 joins what is alike in branches,
// and would write single elements first.
template <class T, int N> SEMICONV_FN void store_at_once(T* to, const Chunk<T, N>& chunk) {
#if defined(SEMICONV_GPU)
  constexpr int words = (int)sizeof(chunk) / 4;
  if constexpr (words > 1) {
    const auto bits = bit_cast<Chunk<uint32, words>>(chunk);
    const size_t at = __cvta_generic_to_global(to);
    if constexpr (words == 2)
      asm volatile("st.global.v2.b32 [%0], {%1, %2};" :: "l"(at), "r"(bits.of[0]), "r"(bits.of[1]));
    else
#pragma unroll
      for (int n = 0; n < words; n += 4)
        asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};"
                     :: "l"(at + n * 4), "r"(bits.of[n]), "r"(bits.of[n + 1]), "r"(bits.of[n + 2]),
                     "r"(bits.of[n + 3]));
    return;
  }
#endif
  *(Chunk<T, N>*)to = chunk;
}
// Writes neighbouring elements, of which the first `count` exist.
template <class T> SEMICONV_FN void store_chunk(T* to, const Chunk<T, columns>& chunk, int64 count) {
  if (count >= columns && (size_t)to % alignof(Chunk<T, columns>) == 0) {
    store_at_once(to, chunk);
  } else if (columns == 4 && channels == 1 && teams > 1 && (count >= columns || count == 2) &&
             (size_t)to % alignof(Chunk<T, 2>) == 0) {
    store_at_once(to, Chunk<T, 2>{{chunk.of[0], chunk.of[1]}});
    if (count > 2) store_at_once(to + 2, Chunk<T, 2>{{chunk.of[columns - 2], chunk.of[columns - 1]}});
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

// ---- several planes at once ----------------------------------------------------------------------

// Where a tile is a whole plane, the outputs of a block's teams follow each other in memory. If rows are no multiple
// of a chunk, they are gathered in shared memory, and written by all threads in whole vectors:
//
//     planes of 3 x 5     team 0  aaaaa bbbbb ccccc    team 1  ddddd eeeee fffff      a thread has up to four of a row
//     memory              aaaabbbb bcccccdd ddde...                                  a thread writes 16 bytes
#if defined(SEMICONV_RESIDUAL)
using Residual = SEMICONV_RESIDUAL;
constexpr bool gathers_residual = provenance;
#else
using Residual = Storage;
constexpr bool gathers_residual = true;  // there is none
#endif
constexpr int tile_outputs = teams * tile_rows * tile_columns;
constexpr int residual_place = tile_outputs * (int)sizeof(Storage);  // bytes in shared memory before residuals
constexpr int gathered_bytes = residual_place + (provenance ? tile_outputs * (int)sizeof(Residual) : 0);
constexpr bool gathers = small_planes && outer == 0 && channels == 1 && !by_runs && gathers_residual &&
                         gathered_bytes <= teams * depth * (int)sizeof(Patch);

SEMICONV_FN bool gathers_planes(const Geometry& g) {
  return gathers && whole && (provenance || along_x(g.out_size) % columns != 0);
}

// Puts the first `count` elements of a chunk; PAIRS: `to` and `count` are even.
template <bool PAIRS, class T> SEMICONV_FN void put_chunk(T* to, const Chunk<T, columns>& chunk, int32 count) {
  constexpr int each = PAIRS ? 2 : 1;
#pragma unroll
  for (int x = 0; x < columns; x += each)
    if (x < count) {
      Chunk<T, each> some;
#pragma unroll
      for (int n = 0; n < each; ++n) some.of[n] = chunk.of[x + n];
      *(Chunk<T, each>*)(to + x) = some;
    }
}
// Writes what the block has gathered, `count` elements.
template <class T> SEMICONV_FN void write_gathered(const T* gathered, T* to, int32 count) {
  constexpr int each = 16 / (int)sizeof(T), block = teams * threads;
  using Vector = Chunk<T, each>;
  int32 written = 0;
  if ((size_t)to % 16 == 0) {
    written = count / each * each;
#pragma unroll 4
    for (int32 n = this_thread() * each; n < written; n += block * each)
      *(Vector*)(to + n) = *(const Vector*)(gathered + n);
  }
#pragma unroll 4
  for (int32 n = written + this_thread(); n < count; n += block) to[n] = gathered[n];
}

// Puts a thread's results, and the winners, from `at` on of what the block gathers; the first `there` rows exist.
template <bool PAIRS, class A>
SEMICONV_FN void gather(const Accumulators<A>& acc, const Settings& settings, Storage* results, Residual* winners,
                        int32 at, int32 width, int32 there, int32 count) {
#pragma unroll
  for (int row = 0; row < rows; ++row, at += width) {
    if (row >= there) continue;
    Chunk<Storage, columns> result;
#pragma unroll
    for (int x = 0; x < columns; ++x)
      result.of[x] = result_of(Packed<Value>::number(acc[0][row][x / lanes].result(settings[0]), x % lanes));
    put_chunk<PAIRS>(results + at, result, count);
    if constexpr (provenance) {
      Chunk<Residual, columns> winner;
#pragma unroll
      for (int x = 0; x < columns; ++x) winner.of[x] = (Residual)acc[0][row][x].winner;
      put_chunk<PAIRS>(winners + at, winner, count);
    }
  }
}
// As store_outputs, for a block of which gathers_planes() says yes. `shared`: memory that no thread reads any more
// when all have come to the barrier here.
template <class A>
SEMICONV_FN void store_planes(const Accumulators<A>& acc, const Settings& settings, const Geometry& g,
                              const TeamTile& tile, const Arrays& arrays, void* shared) {
  const int32 height = (int32)along_y(g.out_size, 1), width = (int32)along_x(g.out_size), pixels = height * width;
  const int32 thread = this_thread() % threads;
  const int32 top = thread / threads_x * rows, left = thread % threads_x * columns;
  const int32 at = this_thread() / threads * pixels + top * width + left;
  const int32 there = tile.idle ? 0 : height - top;
  const int64 first = (int64)this_block() * teams, planes = g.batch * g.groups * g.outputs_per_group;
  const int32 count = (planes - first < teams ? (int32)(planes - first) : teams) * pixels;
  Storage* results = (Storage*)shared;
  Residual* winners = (Residual*)((char*)shared + residual_place);
  __syncthreads();
  if (width % 2 == 0) gather<true>(acc, settings, results, winners, at, width, there, width - left);
  else gather<false>(acc, settings, results, winners, at, width, there, width - left);
  __syncthreads();
  write_gathered(results, base_address(arrays.out + first * pixels), count);
  if constexpr (provenance) write_gathered(winners, base_address((Residual*)arrays.residual + first * pixels), count);
}

}  // namespace semiconv
