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
  Real zero;  // outside the image
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
      run(b, group, tile, 0, body.g.outputs_per_group, partial, 0);
    }
    // Of some output channels of the group. first_kernel: to which partial[0] belongs.
    void run(int64 b, int64 group, int64 tile, int64 first, int64 end, double* partial, int64 first_kernel) {
      walk.plan(body.g, body.tiling, tile);
      const auto scatter = [&](const auto* winners) {
        body.scatter(walk, winners, b, group, first, end, partial, first_kernel);
      };
      if (body.call.itemsize == 1) scatter((const uint8*)body.call.residual);
      else if (body.call.itemsize == 2) scatter((const uint16*)body.call.residual);
      else scatter((const uint32*)body.call.residual);
    }
  };
  template <class I>
  void scatter(const Walk& walk, const I* winners, int64 b, int64 group, int64 first, int64 end,
               double* partial, int64 first_kernel) const {
    const int64 first_plane = (b * g.groups + group) * g.outputs_per_group;
    const int64 taps = g.in_channels * window;
    Real* grad_img = call.grad_img
                         ? call.grad_img + (b * g.groups + group) * g.in_channels * image_pixels
                         : nullptr;
    const Storage* img =
        call.img ? call.img + b * g.img_strides[0] + group * g.in_channels * g.img_strides[1] : nullptr;
    for (int64 o = first; o < end; ++o) {
      const int64 kernel = g.kernel_of(group, o), plane = first_plane + o;
      const Storage* krn = call.krn ? call.krn + kernel * taps : nullptr;
      double* bins = partial ? partial + (kernel - first_kernel) * taps : nullptr;
      for (int64 i = 0; i < (channels_add ? g.in_channels : 1); ++i) {
        const int64 at = channels_add ? (plane * g.in_channels + i) * pixels : plane * pixels;
        const Plane<I> arrays{call.grad_out + plane * pixels, winners + at, img, krn, grad_img, bins,
                              Setting(g.parameters, kernel)};
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
      tile_functions->fill_channel(g, tiling, origin, img + i * g.img_strides[1], g.img_strides + 2,
                   scratch + i * channel, zero);
    const bool masked = !may_pad && !inside_image(g, origin, size);
    if (masked) tile_functions->fill_mask(g, tiling, origin, mask);
    if (gradient) memset(gradient, 0, all * sizeof(Real));
    tile_functions->cut_alone(strips, g, tiling, origin, size, N);
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
      tile_functions->unfill_channel(g, tiling, origin, gradient + i * channel, grad_img + i * strides[1],
                                     strides + 2);
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

#if defined(SEMICONV_PROVENANCE)
// The kernel's gradient of works with fewer outputs than weights (dense layers), kernel by kernel: a slot of one
// kernel stays in the cache, while those of all kernels would be cleared and added up in memory. The same
// numbers are added in the same order as by add_up_tiles.
inline int kernel_by_kernel(const Partition& partition, const TileBackward& body, int threads) {
  const Geometry& g = body.g;
  const int64 taps = g.in_channels * body.window, slot_groups = g.shares_kernels ? g.groups : 1;
  const size_t walk_bytes = (body.bytes() + 63) / 64 * 64;
  int status = success;
  in_parallel(g.kernels, threads, [&](Items& items) {
    thread_local Workspace workspace;
    char* memory = (char*)workspace.reserve(walk_bytes + 2 * taps * sizeof(double));
    if (!memory) {
      set_flag(status, out_of_memory);
      return;
    }
    TileBackward::Worker worker(body, memory);
    double *sums = (double*)(memory + walk_bytes), *slot = sums + taps;
    for (int64 kernel; items.take(kernel);) {
      const int64 o = kernel % g.outputs_per_group, own_group = kernel / g.outputs_per_group;
      memset(sums, 0, taps * sizeof(double));
      for (int64 n = 0; n < partition.slots; ++n) {
        const int64 group = slot_groups > 1 ? n % slot_groups : own_group;
        const int64 tile = n / slot_groups % body.tiling.tiles, chunk = n / slot_groups / body.tiling.tiles;
        memset(slot, 0, taps * sizeof(double));
        for (int64 b = partition.first_batch(g, chunk); b < partition.first_batch(g, chunk + 1); ++b)
          worker.run(b, group, tile, o, o + 1, slot, kernel);
        for (int64 t = 0; t < taps; ++t) sums[t] += slot[t];
      }
      for (int64 t = 0; t < taps; ++t) body.call.grad_krn[kernel * taps + t] = (Real)sums[t];
    }
    workspace.release_beyond(kept_bytes);
  });
  return status;
}
#endif

inline int backward(const Geometry& g, const Backward& call, bool absorbing, int threads) {
  const Tiling tiling = tile_functions->tiling(g, 4, false, true);
  const Partition partition(g, tiling);
  const int64 window = g.window_size(), taps = g.in_channels * window, weights = g.kernels * taps;
  Buffer<double> partials;
  Buffer<int64> image_taps, strided_taps;
  Buffer<int32> order;
  if (!image_taps.allocate(taps) || !strided_taps.allocate(taps) || !order.allocate(window))
    return out_of_memory;
  column_order(g, 1, order.data);
  int64 image_pixels = 1;
  for (int a = 0; a < g.rank; ++a) image_pixels *= g.image_size[a];

#if defined(SEMICONV_PROVENANCE)
  const TapTable* table = nullptr;
  const bool may_pad = true;
  const Real zero = 0;  // not read
  (void)absorbing;
  image_offsets(g, image_taps.data, strided_taps.data);
#else
  const TapTable all_taps = tile_functions->taps(g, tiling, call.krn, nullptr);  // `order` and the bins number all taps
  if (!all_taps.complete) return out_of_memory;
  const TapTable* table = &all_taps;
  const Border border(g, absorbing);
  const bool may_pad = border.absorbs && all_taps.finite;
  const Real zero = border.zero;
#endif
  const TileBackward body{g, tiling, call, table, image_taps.data, strided_taps.data, order.data,
                          may_pad, zero, window, g.pixels(), image_pixels};
#if defined(SEMICONV_PROVENANCE)
  const int64 outputs = g.batch * g.groups * g.outputs_per_group * g.pixels();
  if (call.grad_krn && outputs < partition.slots * weights / 4) {
    Backward of_image = call, of_kernel = call;
    of_image.grad_krn = of_kernel.grad_img = nullptr;
    const auto with = [&](const Backward& part) {
      return TileBackward{g, tiling, part, table, image_taps.data, strided_taps.data, order.data,
                          may_pad, zero, window, g.pixels(), image_pixels};
    };
    if (const int status = kernel_by_kernel(partition, with(of_kernel), threads)) return status;
    return call.grad_img ? add_up_tiles(g, tiling, partition, with(of_image), of_image, nullptr, weights, threads)
                         : success;
  }
#endif
  if (call.grad_krn && !partials.allocate(partition.slots * weights)) return out_of_memory;
  return add_up_tiles(g, tiling, partition, body, call, partials.data, weights, threads);
}

}  // namespace semiconv
