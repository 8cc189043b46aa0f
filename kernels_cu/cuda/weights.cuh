// The weights of one slab in shared memory: what a weight is there, and which weights each thread copies.
//
// Needs what numbers.cuh and slab.cuh need. A row of taps is padded to whole chunks; the weights of one
// tap for the output channels of a thread are neighbours, so that one load brings several of them:
//
//   channels = 2, size_x = 3, columns = 4      c0 c1 c0 c1 | c0 c1  -  -     row 0 of the slab
//   (chunks of 4 weights)                      k0 k0 k1 k1 | k2 k2
//                                              c0 c1 c0 c1 | c0 c1  -  -     row 1
#pragma once
#include "numbers.cuh"
#include "slab.cuh"

namespace semiconv {

// A weight in shared memory. Short numbers pass through registers on their way there, and are converted
// there once; longer ones are copied as they are.
template <bool SHORT> struct WeightOf { using type = Storage; };
template <> struct WeightOf<true> { using type = Value; };
using Weight = WeightOf<sizeof(Storage) < 4>::type;
template <class W> SEMICONV_FN W weight_of(Storage stored) {
  if constexpr (short_sums || paired) return in_all_lanes<W>(weight_number(stored));
  else return (W)load(stored);
}

constexpr int weight_chunks = chunks_for(size_x() * channels);  // of a row of taps
constexpr int weights_pitch = weight_chunks * columns;
constexpr int weights_of_thread = (slab_rows * weights_pitch + threads - 1) / threads;
struct Weights {
  Chunk<Weight, columns> of[slab_rows * weight_chunks];
};

// Where this thread's share of a slab's weights lies in the kernel, in elements from the first weight of
// the block's first output. If the block has channels beyond the last output, they get its weights.
struct WeightRoute {
  int32 at[weights_of_thread];

  static SEMICONV_FN int32 place(const Geometry& g, int tap_rows, int32 last_channel, int n) {
    const int ky = n / weights_pitch, kx = n % weights_pitch / channels, c = n % channels;
    if (ky >= tap_rows || kx >= size_x()) return nowhere;
    return (c < last_channel ? c : last_channel) * (int32)g.krn_strides[0] +
           ky * (int32)along_y(g.krn_strides + 2, 0) + kx * (int32)along_x(g.krn_strides + 2);
  }
  SEMICONV_FN WeightRoute(const Geometry& g, int tap_rows, int32 last_channel, int thread) {
#pragma unroll
    for (int k = 0; k < weights_of_thread; ++k) at[k] = place(g, tap_rows, last_channel, thread + k * threads);
  }
  // visit(n, at): the n-th weight of the slab lies `at` in the kernel.
  template <class F> SEMICONV_FN void visit(int thread, F&& visit) const {
#pragma unroll
    for (int k = 0; k < weights_of_thread; ++k)
      if (at[k] != nowhere) visit(thread + k * threads, at[k]);
  }
  // The same of a route that differs from slab to slab, and is not kept.
  template <class F>
  static SEMICONV_FN void visit_once(const Geometry& g, int tap_rows, int32 last_channel, int thread, F&& visit) {
#pragma unroll 4
    for (int k = 0; k < weights_of_thread; ++k) {
      const int n = thread + k * threads;
      const int32 at = place(g, tap_rows, last_channel, n);
      if (at != nowhere) visit(n, at);
    }
  }
};

// Copies a weight from global memory to position n of the d-th slab's weights.
template <class S> SEMICONV_FN void copy_weight(const Destination& to, Weights& weights, int d, int n, const S* from) {
  if constexpr (sizeof(S) < 4) ((Weight*)weights.of)[n] = weight_of<Weight>(*from);
  else to.copy(d * sizeof(Weights) + n * sizeof(S), from);
}

// Of a wide row of taps, the segments that see something inside the image from anywhere in the tile: their taps
// are first .. end - 1 in the kernel's order, whole segments but at the row's end. Both count chunks of taps:
// then the compiler knows that a segment begins with a chunk.
//
//     image       |<------------->|
//     tile                |<--->|
//     taps    0 . . . . . first x x x x x end . .     the others see the border alone
struct Columns {
  int32 first, end;

  static SEMICONV_FN Columns all() { return {0, chunks_for(size_x())}; }
  static SEMICONV_FN Columns of(const Source& source) {
    constexpr int last = shift + (tile_columns - 1) * stride_x();  // where the tile's last output begins
    const int32 before = source.from_x - last, behind = source.to_x - shift;
    const int32 from = before > 0 ? (before + dilation_x() - 1) / dilation_x() : 0;
    const int32 to = behind > 0 ? (behind + dilation_x() - 1) / dilation_x() : 0;
    const int32 low = from < size_x() ? from : size_x(), high = to < size_x() ? to : size_x();
    const int32 begin = mirrored ? size_x() - high : low;
    return {begin / segment * (segment / columns), chunks_for(mirrored ? size_x() - low : high)};
  }
};

// What one thread sees of a slab in shared memory: the patch from the thread's own corner on, the
// weights, which rows of taps they are, counted over all planes, and which taps of a row count.
struct View {
  const Chunk<Storage, columns>* patch;
  const Chunk<Weight, columns>* weights;
  int32 first_row, slab_tap_rows;
  Columns taps;
  SEMICONV_FN int32 tap_rows() const { return slabs == 1 ? size_y() : slab_tap_rows; }
};

}  // namespace semiconv
