// The backward pass on the host: gradients of image and kernel in one walk over the outputs.
//
// Needs what forward.hpp needs and the derivatives of times. provenance.hpp has the gradients of
// selections, derivatives.hpp those of other additions; partition.hpp cuts the work among threads.
#pragma once
#include "partition.hpp"
#if defined(SEMICONV_PROVENANCE)
#include "provenance.hpp"
#else
#include "derivatives.hpp"
#endif

namespace semiconv {

// What all threads share, and the work on one (batch element, group, tile).
struct TileBackward {
  const Geometry& g;
  const Tiling& tiling;
  const Backward& call;
  const TapTable* table;
  const int64 *image_taps, *strided_taps;  // selections: offsets of taps in grad_img and in img
  const int32* order;
  bool may_pad;
  int64 window, pixels, image_pixels;
#if defined(SEMICONV_PROVENANCE)
  const Reach reach = Reach(g);
#endif

  // bytes(): the memory that a Worker needs. Worker::run() adds the gradients of one tile to call.grad_img
  // and to `partial`, the slot's kernel gradient (kernels x taps); null where that is not to be computed.
#if defined(SEMICONV_PROVENANCE)
  size_t bytes() const { return Walk::most_runs(g, tiling) * sizeof(Run); }
  struct Worker {
    const TileBackward& body;
    Walk walk;
    Worker(const TileBackward& body_, char* memory) : body(body_), walk((Run*)memory) {}
    void run(int64 b, int64 group, int64 tile, double* partial) {
      walk.plan(body.g, body.tiling, tile);
      const void* residual = body.call.residual;
      if (body.call.itemsize == 1) body.scatter(walk, (const uint8*)residual, b, group, partial);
      else if (body.call.itemsize == 2) body.scatter(walk, (const uint16*)residual, b, group, partial);
      else body.scatter(walk, (const uint32*)residual, b, group, partial);
    }
  };
  template <class I>
  void scatter(const Walk& walk, const I* winners, int64 b, int64 group, double* partial) const {
    const int64 first_plane = (b * g.groups + group) * g.outputs_per_group;
    const int64 taps = g.in_channels * window;
    Real* grad_img = call.grad_img
                         ? call.grad_img + (b * g.groups + group) * g.in_channels * image_pixels
                         : nullptr;
    const Storage* img =
        call.img ? call.img + b * g.img_strides[0] + group * g.in_channels * g.img_strides[1] : nullptr;
    for (int64 o = 0; o < g.outputs_per_group; ++o) {
      const int64 kernel = g.kernel_of(group, o), plane = first_plane + o;
      const Storage* krn = call.krn ? call.krn + kernel * taps : nullptr;
      double* bins = partial ? partial + kernel * taps : nullptr;
      for (int64 i = 0; i < (channels_add ? g.in_channels : 1); ++i) {
        const int64 at = channels_add ? (plane * g.in_channels + i) * pixels : plane * pixels;
        const Plane<I> arrays{call.grad_out + plane * pixels, winners + at, img, krn, grad_img, bins};
        walk.each(g, [&](const Run& run, const auto& steps) __attribute__((always_inline)) {
          scatter_run(run, steps, arrays, image_taps, strided_taps, taps, reach);
        });
      }
    }
  }
#else
  size_t bytes() const {
    return 2 * g.in_channels * tiling.channel_size * sizeof(Real) +
           tiling.channel_size * sizeof(MaskLane) + g.in_channels * window * sizeof(Vector) +
           (strips_of(g, tiling) + 8) * sizeof(Strip) + 256;
  }
  struct Worker {
    const TileBackward& body;
    char* memory;
    Worker(const TileBackward& body_, char* memory_) : body(body_), memory(memory_) {}
    void run(int64 b, int64 group, int64 tile, double* partial) {
      body.differentiate(memory, b, group, tile, partial);
    }
  };
  void differentiate(char* memory, int64 b, int64 group, int64 tile, double* partial) const {
    int64 origin[max_rank], size[max_rank];
    locate_tile(g, tiling, tile, origin, size);
    const int64 taps = g.in_channels * window;
    const int64* const strides = call.grad_img_strides;
    Real* grad_img =
        call.grad_img ? call.grad_img + b * strides[0] + group * g.in_channels * strides[1] : nullptr;
    const Storage* img = call.img + b * g.img_strides[0] + group * g.in_channels * g.img_strides[1];
    constexpr int N = 2;
    const int64 channel = tiling.channel_size, all = g.in_channels * channel;
    Vector* bins = (Vector*)memory;
    Real* scratch = (Real*)(bins + taps);
    Real* gradient = grad_img ? scratch + all : nullptr;
    MaskLane* mask = (MaskLane*)(scratch + 2 * all);
    Strips strips{nullptr, (Strip*)(((size_t)(mask + channel) + 63) / 64 * 64)};
    for (int64 i = 0; i < g.in_channels; ++i)
      fill_channel(g, tiling, origin, img + i * g.img_strides[1], g.img_strides + 2,
                   scratch + i * channel, semifield_zero<Real>());
    const bool masked = !may_pad && !inside_image(g, origin, size);
    if (masked) fill_mask(g, tiling, origin, mask);
    if (gradient) memset(gradient, 0, all * sizeof(Real));
    strips.cut(g, tiling, origin, size, N);
    for (int64 o = 0; o < g.outputs_per_group; ++o) {
      const int64 kernel = g.kernel_of(group, o);
      const int64 plane = b * g.out_strides[0] + (group * g.outputs_per_group + o) * g.out_strides[1];
      memset((void*)bins, 0, taps * sizeof(Vector));
      const auto run = masked ? differentiate_strips<N, true> : differentiate_strips<N, false>;
      for (int64 j = 0; j < strips.count; j += N)
        run(g, *table, kernel, scratch, channel, mask, gradient, partial ? bins : nullptr, order,
            strips.data + j, (int)smaller_of(N, strips.count - j), call, plane, pixels, window);
      for (int64 t = 0; partial && t < taps; ++t)
        for (int lane = 0; lane < lanes; ++lane) partial[kernel * taps + t] += bins[t][lane];
    }
    for (int64 i = 0; gradient && i < g.in_channels; ++i)
      unfill_channel(g, tiling, origin, gradient + i * channel, grad_img + i * strides[1], strides + 2);
  }
#endif
};

// The taps of `channels` channels, of each column by column of the kernel: taps next to each other in a row
// touch overlapping elements of a gradient, and a load waits for a store that it overlaps with.
inline void column_order(const Geometry& g, int64 channels, int32* order) {
  const int64 width = g.kernel_size[g.rank - 1], window = g.window_size();
  for (int64 i = 0; i < channels; ++i)
    for (int64 x = 0; x < width; ++x)
      for (int64 t = x; t < window; t += width) *order++ = (int32)(i * window + t);
}

inline int backward(const Geometry& g, const Backward& call, bool absorbing, int threads) {
  Tiling tiling(g, 4);
  tiling.cover_reach(g);
  const Partition partition(g, tiling);
  const int64 window = g.window_size(), taps = g.in_channels * window, weights = g.kernels * taps;
  Buffer<double> partials;
  Buffer<int64> image_taps, strided_taps;
  Buffer<int32> order;
  if (!image_taps.allocate(taps) || !strided_taps.allocate(taps) || !order.allocate(window))
    return out_of_memory;
  if (call.grad_krn && !partials.allocate(partition.slots * weights)) return out_of_memory;
  column_order(g, 1, order.data);
  int64 image_pixels = 1;
  for (int a = 0; a < g.rank; ++a) image_pixels *= g.image_size[a];

#if defined(SEMICONV_PROVENANCE)
  const TapTable* table = nullptr;
  const bool may_pad = true;
  (void)absorbing;
  image_offsets(g, image_taps.data, strided_taps.data);
#else
  const TapTable all_taps(g, tiling, call.krn, /*drops=*/false);  // `order` and the bins number all taps
  if (!all_taps.complete) return out_of_memory;
  const TapTable* table = &all_taps;
  const bool may_pad = absorbing && all_taps.finite;
#endif
  const TileBackward body{g, tiling, call, table, image_taps.data, strided_taps.data, order.data,
                          may_pad, window, g.pixels(), image_pixels};
  return add_up_tiles(g, tiling, partition, body, call, partials.data, weights, threads);
}

}  // namespace semiconv
