// The backward pass on the host: gradients of image and kernel in one walk over the outputs.
//
// Needs what forward.hpp needs and the derivatives of times. A tile adds into the gradient of the
// image where its windows lie; neighbouring tiles overlap there, so tiles are coloured and colours
// follow each other. Kernel gradients go to a partial sum per slot, added up in order. Tiles, colours
// and slots depend on the geometry alone: any number of threads gives the same bits.
#pragma once
#include "forward.hpp"

namespace semiconv {

#if defined(SEMICONV_SELECT) && !defined(SEMICONV_SPREAD_GRADIENT)
#define SEMICONV_PROVENANCE
#endif

// The arguments of one call. img and krn may be null where the derivatives are constants;
// grad_img and grad_krn (C-contiguous) where they are not wanted.
struct Backward {
  const Storage *grad_out, *img, *krn;
  const void* residual;
  int64 itemsize, plane;
  Real *grad_img, *grad_krn;
};

// How the work is cut: every slot owns one partial sum of the kernel's gradient.
struct Partition {
  static constexpr int64 most_chunks = 16;
  int64 chunks, colours, slots;

  Partition(const Geometry& g, const Tiling& t) {
    // Slots together hold about as much as the arrays do, or two where work could not be shared.
    int64 image = g.batch * g.groups * g.in_channels;
    for (int a = 0; a < g.rank; ++a) image *= g.image_size[a];
    const int64 outputs = g.batch * g.groups * g.outputs_per_group * g.pixels();
    const int64 weights = g.kernels * g.in_channels * g.window_size();
    const int64 affordable = larger_of(2, (image + outputs) / (2 * weights * t.tiles));
    chunks = smaller_of(smaller_of(larger_of(g.batch, 1), most_chunks), affordable);
    colours = (int64)1 << g.rank;
    slots = chunks * t.tiles * (g.shares_kernels ? g.groups : 1);
  }
  int64 first_batch(const Geometry& g, int64 chunk) const { return g.batch * chunk / chunks; }
  int64 slot(const Geometry& g, const Tiling& t, int64 chunk, int64 group, int64 tile) const {
    return (chunk * t.tiles + tile) * (g.shares_kernels ? g.groups : 1) +
           (g.shares_kernels ? group : 0);
  }
};

inline int64 colour_of(const Geometry& g, const Tiling& t, int64 tile) {
  int64 colour = 0;
  for (int a = (int)g.rank - 1; a >= 0; --a) {
    colour = colour * 2 + tile % t.count[a] % 2;
    tile /= t.count[a];
  }
  return colour;
}

// Add one channel's scratch back to where fill_channel took it from.
inline void unfill_channel(const Geometry& g, const Tiling& t, const int64* origin, const Real* scratch,
                           Real* gradient) {
  const int last = (int)g.rank - 1;
  int64 index[max_rank] = {}, rows = 1;
  for (int a = 0; a < last; ++a) rows *= t.extent[a];
  const int64 first = origin[last] * g.stride[last] - g.pad_begin[last];
  const int64 size = g.image_size[last], phases = t.phases, length = t.phase_length;
  for (int64 r = 0; r < rows; ++r, scratch += phases * length) {
    int64 offset = 0;
    bool inside = true;
    for (int a = 0; a < last; ++a) {
      const int64 position = origin[a] * g.stride[a] - g.pad_begin[a] + index[a];
      inside = inside && position >= 0 && position < g.image_size[a];
      offset = (offset + position) * g.image_size[a + 1];
    }
    for (int64 phase = 0; inside && phase < phases; ++phase) {
      const int64 start = first + phase;
      const int64 begin = start >= 0 ? 0 : ceil_div(-start, phases);
      const int64 end = start >= size ? 0 : smaller_of(length, ceil_div(size - start, phases));
      Real* to = gradient + offset + start;
      const Real* from = scratch + phase * length;
      if (phases == 1)
        for (int64 q = begin; q < end; ++q) to[q] += from[q];
      else
        for (int64 q = begin; q < end; ++q) to[q * phases] += from[q];
    }
    for (int a = last - 1; a >= 0 && ++index[a] == t.extent[a]; --a) index[a] = 0;
  }
}

#if defined(SEMICONV_PROVENANCE)

// Where every tap lies relative to the image position of dilation step 0: in a C-contiguous image,
// and in img with its own strides.
inline void image_offsets(const Geometry& g, int64* contiguous, int64* strided) {
  int64 channel = 1;
  for (int a = 0; a < g.rank; ++a) channel *= g.image_size[a];
  const int64 window = g.window_size();
  for (int64 n = 0; n < g.in_channels * window; ++n) {
    int64 rest = n % window, pitch = 1;
    contiguous[n] = n / window * channel;
    strided[n] = n / window * g.img_strides[1];
    for (int a = (int)g.rank - 1; a >= 0; --a) {
      const int64 step = g.step(a, rest % g.kernel_size[a]) * g.dilation[a];
      contiguous[n] += step * pitch;
      strided[n] += step * g.img_strides[a + 2];
      rest /= g.kernel_size[a];
      pitch *= g.image_size[a];
    }
  }
}

// Which places of one group's part of the image may be touched: elements of a C-contiguous one,
// and the lowest and highest offset in img with its own strides.
struct Reach {
  int64 elements = 1, lowest = 0, highest = 0;
  explicit Reach(const Geometry& g) {
    const auto extend = [&](int64 size, int64 stride) {
      elements *= size;
      (stride < 0 ? lowest : highest) += (size - 1) * stride;
    };
    extend(g.in_channels, g.img_strides[1]);
    for (int a = 0; a < g.rank; ++a) extend(g.image_size[a], g.img_strides[a + 2]);
  }
};

// One tile of one output channel: every output sends its gradient to the tap that won. Winners come
// from the caller: one that is no tap, or lies outside the image, counts as nobody.
template <class I>
inline void scatter_tile(const Geometry& g, const int64* origin, const int64* size,
                         const Storage* grad_out, const I* winners, const int64* taps,
                         const int64* img_taps, const Storage* img, const Storage* krn, Real* grad_img,
                         double* bins, int64 tap_count, const Reach& reach) {
  const int last = (int)g.rank - 1;
  int64 index[max_rank] = {}, rows = 1;
  for (int a = 0; a < last; ++a) rows *= size[a];
  (void)img, (void)krn, (void)img_taps;
  for (int64 r = 0; r < rows; ++r) {
    int64 from = 0, to = 0, at = 0;
    for (int a = 0; a < g.rank; ++a) {
      const int64 corner = (origin[a] + index[a]) * g.stride[a] - g.pad_begin[a];
      from = from * g.out_size[a] + origin[a] + index[a];
      to = to * g.image_size[a] + corner;
      at += corner * g.img_strides[a + 2];
    }
    const I* winner = winners + from;
    const Storage* slopes = grad_out + from;
    for (int64 x = 0; x < size[last]; ++x, to += g.stride[last], at += g.stride[last] * g.img_strides[last + 2]) {
      const I tap = winner[x];
      if ((int64)tap >= tap_count) continue;  // nobody is the largest number
      const int64 place = to + taps[tap];
      if ((uint64)place >= (uint64)reach.elements) continue;
      const Real slope = load(slopes[x]);
#if defined(SEMICONV_CONSTANT_DERIVATIVES)
      const Real a = 0, b = 0;
#else
      const int64 read = at + img_taps[tap];
      if (read < reach.lowest || read > reach.highest) continue;
      const Real a = load(img[read]), b = load(krn[tap]);
#endif
      if (grad_img) grad_img[place] += chained(slope, d_times_d_img(a, b));
      if (bins) bins[tap] += chained(slope, d_times_d_krn(a, b));
    }
    for (int a = last - 1; a >= 0 && ++index[a] == size[a]; --a) index[a] = 0;
  }
}

#else

template <class W, int RESIDUALS = Differentiable<Vector>::residuals>
SEMICONV_FN W load_weight(const Backward& call, int64 at, int count) {
  if constexpr (RESIDUALS == 0) return W();
  else {
    const Real* residual = (const Real*)call.residual + at;
    const Vector first = load_lanes(residual, count);
    if constexpr (RESIDUALS == 1) return W(first);
    else return W(first, load_lanes(residual + call.plane, count));
  }
}

// N strips of one output channel: their slopes, and which lanes have any.
template <int N> struct Slopes {
  Vector of[N];
  Mask live[N];
  SEMICONV_FN Slopes(const Storage* grad_out, const Strip* strips, int used) {
    for (int j = 0; j < N; ++j) {
      of[j] = load_lanes(grad_out + strips[j].to, j < used ? strips[j].count : 0);
      live[j] = of[j] != Vector{};
    }
  }
};

// All taps of one input channel. order: the taps of one column of the kernel behind each other, so
// that what was just stored is not loaded again at once.
template <int N, bool MASKED, class W>
SEMICONV_FN void differentiate_channel(const Real* scratch, const MaskLane* mask, Real* gradient,
                                       Vector* bins, const Strip* strips, const Taps& taps,
                                       const int32* order, const W* weights, const Slopes<N>& slopes) {
  for (int64 n = 0; n < taps.count; ++n) {
    const int64 t = order[n], offset = taps.offsets[t];
    const Vector krn = broadcast(taps.values[t]);
    Vector to_krn{};
#pragma GCC unroll 8
    for (int j = 0; j < N; ++j) {
      const int64 place = strips[j].from + offset;
      const Vector img = load_vector<Vector>(scratch + place);
      // Lanes without a slope, and positions outside, may have no finite weight.
      Mask keep = slopes.live[j];
      if constexpr (MASKED) keep &= load_vector<Mask>(mask + place);
      const Vector flow = where(keep, weights[j](times(img, krn)) * slopes.of[j], Vector{});
      if (gradient) {
        const Vector part = chained(flow, d_times_d_img(img, krn));
        store_vector(gradient + place, load_vector<Vector>(gradient + place) + part);
      }
      to_krn = to_krn + chained(flow, d_times_d_krn(img, krn));
    }
    if (bins) bins[t] = bins[t] + to_krn;
  }
}

template <int N, bool MASKED>
__attribute__((noinline)) void differentiate_strips(
    const Geometry& g, const TapTable& table, int64 kernel, const Real* scratch, int64 channel_size,
    const MaskLane* mask, Real* gradient, Vector* bins, const int32* order, const Strip* strips,
    int used, const Backward& call, int64 plane, int64 pixels, int64 window) {
  using W = typename Differentiable<Vector>::Derivative;
  const Slopes<N> slopes(call.grad_out + plane * pixels, strips, used);
  W weights[N];
  for (int64 i = 0; i < g.in_channels; ++i) {
    if (i == 0 || channels_add) {
      const int64 at = channels_add ? (plane * g.in_channels + i) * pixels : plane * pixels;
      for (int j = 0; j < N; ++j)
        weights[j] = load_weight<W>(call, at + strips[j].to, strips[j].count);
    }
    differentiate_channel<N, MASKED>(
        scratch + i * channel_size, mask, gradient ? gradient + i * channel_size : nullptr,
        bins ? bins + i * window : nullptr, strips, table.of(kernel, i), order, weights, slopes);
  }
}

#endif

// Memory of one thread, and one (batch element, group, tile) at a time.
struct TileBackward {
  const Geometry& g;
  const Tiling& tiling;
  const Backward& call;
  const TapTable* table;
  const int64 *image_taps, *strided_taps;  // provenance: offsets into grad_img and into img
  const int32* order;
  bool may_pad;
  int64 window, pixels, image_pixels;

  size_t bytes() const {
#if defined(SEMICONV_PROVENANCE)
    return 0;
#else
    return 2 * g.in_channels * tiling.channel_size * sizeof(Real) +
           tiling.channel_size * sizeof(MaskLane) + g.in_channels * window * sizeof(Vector) +
           (strips_of(g, tiling) + 8) * sizeof(Strip) + 256;
#endif
  }

  // partial: the slot's kernel gradient (kernels x taps), or null.
  void run(char* memory, int64 b, int64 group, int64 tile, double* partial) const {
    int64 origin[max_rank], size[max_rank];
    locate_tile(g, tiling, tile, origin, size);
    const int64 first_plane = (b * g.groups + group) * g.outputs_per_group;
    const int64 taps = g.in_channels * window;
    Real* grad_img = call.grad_img
                         ? call.grad_img + (b * g.groups + group) * g.in_channels * image_pixels
                         : nullptr;
    const Storage* img =
        call.img ? call.img + b * g.img_strides[0] + group * g.in_channels * g.img_strides[1] : nullptr;
#if defined(SEMICONV_PROVENANCE)
    (void)memory;
    const Reach reach(g);
    for (int64 o = 0; o < g.outputs_per_group; ++o) {
      const int64 kernel = g.kernel_of(group, o), plane = first_plane + o;
      const Storage* krn = call.krn ? call.krn + kernel * taps : nullptr;
      double* bins = partial ? partial + kernel * taps : nullptr;
      for (int64 i = 0; i < (channels_add ? g.in_channels : 1); ++i) {
        const int64 at = channels_add ? (plane * g.in_channels + i) * pixels : plane * pixels;
        const Storage* slopes = call.grad_out + plane * pixels;
        const auto scatter = [&](const auto* winners) {
          scatter_tile(g, origin, size, slopes, winners + at, image_taps, strided_taps, img, krn,
                       grad_img, bins, taps, reach);
        };
        if (call.itemsize == 1) scatter((const uint8*)call.residual);
        else if (call.itemsize == 2) scatter((const uint16*)call.residual);
        else scatter((const uint32*)call.residual);
      }
    }
#else
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
    strips.cut(g, tiling, origin, size, Pairing(), N);
    for (int64 o = 0; o < g.outputs_per_group; ++o) {
      const int64 kernel = g.kernel_of(group, o);
      memset((void*)bins, 0, taps * sizeof(Vector));
      const auto run = masked ? differentiate_strips<N, true> : differentiate_strips<N, false>;
      for (int64 j = 0; j < strips.count; j += N)
        run(g, *table, kernel, scratch, channel, mask, gradient, partial ? bins : nullptr, order,
            strips.data + j, (int)smaller_of(N, strips.count - j), call, first_plane + o, pixels, window);
      for (int64 t = 0; partial && t < taps; ++t)
        for (int lane = 0; lane < lanes; ++lane) partial[kernel * taps + t] += bins[t][lane];
    }
    for (int64 i = 0; gradient && i < g.in_channels; ++i)
      unfill_channel(g, tiling, origin, gradient + i * channel, grad_img + i * image_pixels);
#endif
  }
};

// The taps ordered by column (last axis first).
inline void column_order(const Geometry& g, int32* order) {
  const int64 width = g.kernel_size[g.rank - 1], window = g.window_size();
  int64 n = 0;
  for (int64 x = 0; x < width; ++x)
    for (int64 t = x; t < window; t += width) order[n++] = (int32)t;
}

// Run `body` on every tile, colour after colour, and add the slots' partial sums of `weights` numbers
// up to call.grad_krn, where that is wanted.
template <class Body>
int add_up_tiles(const Geometry& g, const Tiling& tiling, const Partition& partition, const Body& body,
                 const Backward& call, double* partials, int64 weights, int threads) {
  Buffer<int64> same_colour;
  if (!same_colour.allocate(tiling.tiles)) return out_of_memory;
  int64 image_pixels = 1;
  for (int a = 0; a < g.rank; ++a) image_pixels *= g.image_size[a];
  int status = success;

  // Others come when there is enough to clear and to add up.
  const auto helpers = [&](int64 numbers) { return numbers < (1 << 18) ? 1 : threads; };
  const auto clear = [&](auto* data, int64 rows, int64 length) {
    in_parallel(rows, helpers(rows * length), [&](Items& items) {
      for (int64 row; items.take(row);) memset(data + row * length, 0, length * sizeof(*data));
    });
  };
  if (call.grad_krn) clear(partials, partition.slots, weights);
  if (call.grad_img) clear(call.grad_img, g.batch * g.groups * g.in_channels, image_pixels);
  for (int64 colour = 0; colour < partition.colours; ++colour) {
    int64 tiles = 0;
    for (int64 tile = 0; tile < tiling.tiles; ++tile)
      if (colour_of(g, tiling, tile) == colour) same_colour.data[tiles++] = tile;
    in_parallel(partition.chunks * g.groups * tiles, threads, [&](Items& items) {
      thread_local Workspace workspace;
      char* memory = (char*)workspace.reserve(body.bytes() + 1);
      if (!memory) {
        set_flag(status, out_of_memory);
        return;
      }
      for (int64 item; items.take(item);) {
        const int64 tile = same_colour.data[item % tiles], group = item / tiles % g.groups;
        const int64 chunk = item / tiles / g.groups;
        double* partial =
            call.grad_krn ? partials + partition.slot(g, tiling, chunk, group, tile) * weights
                          : nullptr;
        for (int64 b = partition.first_batch(g, chunk); b < partition.first_batch(g, chunk + 1); ++b)
          body.run(memory, b, group, tile, partial);
      }
      workspace.release_beyond(kept_bytes);
    });
  }
  if (call.grad_krn) {
    constexpr int64 some = 256;  // weights of one item
    in_parallel(ceil_div(weights, some), helpers(partition.slots * weights), [&](Items& items) {
      for (int64 item; items.take(item);)
        for (int64 n = item * some; n < smaller_of(weights, (item + 1) * some); ++n) {
          double sum = 0;
          for (int64 slot = 0; slot < partition.slots; ++slot) sum += partials[slot * weights + n];
          call.grad_krn[n] = (Real)sum;
        }
    });
  }
  return status;
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
  column_order(g, order.data);
  int64 image_pixels = 1;
  for (int a = 0; a < g.rank; ++a) image_pixels *= g.image_size[a];

#if defined(SEMICONV_PROVENANCE)
  const TapTable* table = nullptr;
  const bool may_pad = true;
  (void)absorbing;
  image_offsets(g, image_taps.data, strided_taps.data);
#else
  const TapTable all_taps(g, tiling, call.krn);
  if (!all_taps.complete) return out_of_memory;
  const TapTable* table = &all_taps;
  const bool may_pad = absorbing && all_taps.finite;
#endif
  const TileBackward body{g, tiling, call, table, image_taps.data, strided_taps.data, order.data,
                          may_pad, window, g.pixels(), image_pixels};
  return add_up_tiles(g, tiling, partition, body, call, partials.data, weights, threads);
}

}  // namespace semiconv
