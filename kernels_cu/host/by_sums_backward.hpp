// The gradients of root and log by ordinary sums; what those cannot prove, by the rule of backward.hpp.
//
// Needs what by_sums.hpp needs and the derivatives of times. Nothing but img and krn is saved: sums
// are computed again, which costs less than to keep and load what they were relative to. Tiles,
// colours and slots are those of backward.hpp: any number of threads gives the same bits.
#pragma once
#include "backward.hpp"
#include "by_sums.hpp"

namespace semiconv {

// Output channels that go through a tile together: one load of an image's gradient serves all of
// them, and their bins stay in a cache.
class ChannelBlocks {
  static constexpr int64 least = 8, most_bins = 8192;

 public:
  const int64 size;
  ChannelBlocks(const Geometry& g)
      : size(smaller_of(g.outputs_per_group,
                       larger_of(least, most_bins / (g.in_channels * g.window_size())))) {}
};

// What the derivatives need of the kernels: weights with the output channels of a block behind each
// other, and the derivatives of what made them.
class WeightGradients {
  Buffer<Real> weights, slopes;

 public:
  bool complete = false;

  WeightGradients(const Geometry& g, const TapTable& table, const Weights& all, int64 block_size) {
    const int64 taps = all.taps, window = g.window_size();
    if (!weights.allocate(g.kernels * taps) || !slopes.allocate(g.kernels * taps)) return;
    for (int64 k = 0; k < g.kernels; ++k) {
      const int64 o = k % g.outputs_per_group, first = o / block_size * block_size;
      const int64 size = smaller_of(block_size, g.outputs_per_group - first);
      Real* block = weights.data + (k - o + first) * taps;
      for (int64 t = 0; t < taps; ++t) {
        const Real weight = all.of(k)[t], krn = table.of(k, t / window).values[t % window];
        block[t * size + o - first] = absolute(weight) < infinity<Real>() ? weight : Real(0);
        slopes.data[k * taps + t] = BySums<Real>::d_transform(krn, all.range(k).shift, weight);
      }
    }
    complete = true;
  }
  // Weights of the block that begins at a kernel: [tap][kernel of the block].
  const Real* block(int64 kernel, int64 taps) const { return weights.data + kernel * taps; }
  const Real* slope(int64 kernel, int64 taps) const { return slopes.data + kernel * taps; }
};

// N strips that do not overlap, all taps, a block of output channels: what their slopes (for each
// channel `pitch` vectors, of which these are N) send to the image's sums and to the kernels' bins.
template <int N, bool TO_IMG, bool TO_KRN>
SEMICONV_FN void send_back(const Real* transformed, Real* gradient, Vector* bins, const Strip* strips,
                           const Vector* slopes, int64 pitch, const Real* weights,
                           const int64* offsets, int64 taps, int64 channels) {
  const Vector none{};
  for (int64 t = 0; t < taps; ++t) {
    Vector img[N], sum[N];
#pragma GCC unroll 8
    for (int j = 0; j < N; ++j) {
      const int64 place = strips[j].from + offsets[t];
      if (TO_IMG) sum[j] = load_vector<Vector>(gradient + place);
      if (TO_KRN) {
        // What is not finite reaches outputs without a slope here only.
        const Vector number = load_vector<Vector>(transformed + place);
        img[j] = number < infinity<Vector>() ? number : none;
      }
    }
    for (int64 o = 0; o < channels; ++o) {
      const Vector weight = broadcast(weights[t * channels + o]);
      Vector to_krn{};
#pragma GCC unroll 8
      for (int j = 0; j < N; ++j) {
        const Vector slope = slopes[o * pitch + j];
        if (TO_IMG) sum[j] = sum[j] + slope * weight;
        if (TO_KRN) to_krn = to_krn + slope * img[j];
      }
      if (TO_KRN) bins[t * channels + o] = bins[t * channels + o] + to_krn;
    }
#pragma GCC unroll 8
    for (int j = 0; j < N; ++j)
      if (TO_IMG) store_vector(gradient + strips[j].from + offsets[t], sum[j]);
  }
}
template <int N>
__attribute__((noinline)) void send_back_where_wanted(const Real* transformed, Real* gradient,
                                                      Vector* bins, const Strip* strips,
                                                      const Vector* slopes, int64 pitch,
                                                      const Real* weights, const int64* offsets,
                                                      int64 taps, int64 channels) {
  const auto run = gradient ? (bins ? send_back<N, true, true> : send_back<N, true, false>)
                            : send_back<N, false, true>;
  run(transformed, gradient, bins, strips, slopes, pitch, weights, offsets, taps, channels);
}

// Two strips of one output channel by their windows' own terms, for the given slopes.
template <bool MASKED>
__attribute__((noinline)) void differentiate_directly(
    const Geometry& g, const TapTable& table, int64 kernel, const Real* numbers, int64 channel_size,
    const MaskLane* mask, Real* gradient, Vector* bins, const int32* order, const Strip* strips,
    const Slopes<2>& slopes, int64 window) {
  using A = Differentiable<Vector>;
  using T = Terms<2, MASKED>;
  A acc[2];
  for (A& one : acc) one.start();
  for (int64 i = 0; i < g.in_channels; ++i)
    observe_channel<2>(acc, T(numbers + i * channel_size, mask, strips), table.of(kernel, i));
  for (A& one : acc) one.settle();
  for (int64 i = 0; i < g.in_channels; ++i)
    add_channel<2>(acc, T(numbers + i * channel_size, mask, strips), table.of(kernel, i));
  const typename A::Derivative weights[2] = {{acc[0].residual(0), acc[0].residual(1)},
                                         {acc[1].residual(0), acc[1].residual(1)}};
  for (int64 i = 0; i < g.in_channels; ++i)
    differentiate_channel<2, MASKED>(
        numbers + i * channel_size, mask, gradient ? gradient + i * channel_size : nullptr,
        bins ? bins + i * window : nullptr, strips, table.of(kernel, i), order, weights, slopes);
}

// All that threads share, and one (batch element, group, tile) at a time.
struct BySumsBackward {
  static constexpr int N = 8;  // strips whose sums are computed together
  const Geometry& g;
  const Tiling& tiling;
  const Backward& call;
  const TapTable& table;
  const Weights& weights;
  const WeightGradients& gradients;
  const ChannelBlocks& blocks;
  const int32* order;
  bool may_pad;
  int64 pixels, image_pixels;

  int64 most_strips() const { return strips_of(g, tiling) + N; }
  size_t bytes() const {
    return (2 * weights.taps + N) * blocks.size * sizeof(Vector) +
           4 * TransformedTile::scratch_elements(g, tiling) * sizeof(Real) +
           tiling.channel_size * sizeof(MaskLane) + most_strips() * sizeof(Strip) + 256;
  }

  // partial: the slot's kernel gradient (kernels x taps), or null.
  void run(char* memory, int64 b, int64 group, int64 n_tile, double* partial) const {
    int64 origin[max_rank], size[max_rank];
    locate_tile(g, tiling, n_tile, origin, size);
    const int64 taps = weights.taps, elements = TransformedTile::scratch_elements(g, tiling);
    Vector* bins = (Vector*)memory;
    Vector* direct_bins = bins + taps * blocks.size;
    Vector* slopes = direct_bins + taps * blocks.size;
    Real* transformed = (Real*)(slopes + N * blocks.size);
    Real* gradient = call.grad_img ? transformed + 2 * elements : nullptr;
    Real* direct_gradient = gradient ? gradient + elements : nullptr;
    MaskLane* mask = (MaskLane*)(transformed + 4 * elements);
    Strips cut{nullptr, (Strip*)(((size_t)(mask + tiling.channel_size) + 63) / 64 * 64)};
    const bool masked = !may_pad && !inside_image(g, origin, size);
    TransformedTile tile(g, tiling,
                    call.img + b * g.img_strides[0] + group * g.in_channels * g.img_strides[1],
                    origin, masked, transformed, transformed + elements, mask);
    cut.cut(g, tiling, origin, size, Pairing(), N);
    const Strip* strips = cut.data;
    const int64 n = cut.count;
    if (gradient) memset(gradient, 0, elements * sizeof(Real));
    bool repaired_img = false;

    for (int64 first = 0; first < g.outputs_per_group; first += blocks.size) {
      const int64 channels = smaller_of(blocks.size, g.outputs_per_group - first);
      bool repaired_krn = false;
      if (partial) memset((void*)bins, 0, taps * channels * sizeof(Vector));
      // Adds the derivatives of two strips of one output channel by their own terms.
      const auto repair = [&](int64 o, const Strip* pair, const Slopes<2>& of_pair) {
        if (partial && !repaired_krn) memset((void*)direct_bins, 0, taps * channels * sizeof(Vector));
        if (gradient && !repaired_img) memset(direct_gradient, 0, elements * sizeof(Real));
        repaired_krn = repaired_img = true;
        const auto run = masked ? differentiate_directly<true> : differentiate_directly<false>;
        run(g, table, g.kernel_of(group, first + o), tile.numbers(), tiling.channel_size, mask,
            direct_gradient, partial ? direct_bins + o * taps : nullptr, order, pair, of_pair,
            g.window_size());
      };
      for (int64 j = 0; j < n; j += N) {
        const int used = (int)smaller_of(N, n - j);
        for (int64 o = 0; o < channels; ++o)
          slopes_of(tile, group, first + o, (b * g.groups + group) * g.outputs_per_group + first + o,
                    strips + j, used, slopes + o * N,
                    [&](const Strip* pair, const Slopes<2>& of_pair) { repair(o, pair, of_pair); });
        const Real* block = gradients.block(g.kernel_of(group, first), taps);
        int k = 0;
        for (; k + 4 <= used; k += 4)
          send_back_where_wanted<4>(transformed, gradient, partial ? bins : nullptr, strips + j + k,
                                    slopes + k, N, block, weights.offsets(), taps, channels);
        for (; k < used; ++k)
          send_back_where_wanted<1>(transformed, gradient, partial ? bins : nullptr, strips + j + k,
                                    slopes + k, N, block, weights.offsets(), taps, channels);
      }
      for (int64 o = 0; partial && o < channels; ++o)
        empty_bins(tile, g.kernel_of(group, first + o), bins + o, channels,
                   repaired_krn ? direct_bins + o * taps : nullptr, partial);
    }
    if (!gradient) return;
    finish_image(tile, gradient, repaired_img ? direct_gradient : nullptr, elements);
    for (int64 i = 0; i < g.in_channels; ++i)
      unfill_channel(g, tiling, origin, gradient + i * tiling.channel_size,
                     call.grad_img + ((b * g.groups + group) * g.in_channels + i) * image_pixels);
  }

  // What a block of output channels, N strips each, sends back for each product E(img) E(krn), 0
  // where only the windows' own terms tell: those go to repair(two strips, their slopes).
  template <class F>
  void slopes_of(const TransformedTile& tile, int64 group, int64 output, int64 plane, const Strip* strips,
                 int used, Vector* slopes, F repair) const {
    using L = Limits<Real>;
    const int64 kernel = g.kernel_of(group, output);
    const Range<Real>& range = weights.range(kernel);
    const Proof<Real> proof(tile.range, range, weights.taps);
    // Sums of its products with weights shall stay finite.
    const Vector most = broadcast(L::largest / 4 / ((Real)weights.taps * (Real)g.outputs_per_group));
    const Vector least = broadcast(L::smallest_normal / L::epsilon), none{};
    Vector sums[N];
    sum_strips<N>(tile.transformed, weights.of(kernel), weights.offsets(), weights.taps, strips, sums);
    const Storage* grad_out = call.grad_out + plane * pixels;
    for (int k = 0; k < N; k += 2) {
      Slopes<2> pair(grad_out, strips + k, (int)smaller_of(2, larger_of(0, used - k)));
      Mask left{};
      for (int j = 0; j < 2; ++j) {
        const Vector sum = sums[k + j];
        const Mask proven = (Mask)proof.holds(sum);
        const Vector slope =
            BySums<Vector>::d_restore(sum) * pair.of[j] * BySums<Vector>::scale(broadcast(range.shift));
        const Mask usable = proven & (absolute(slope) >= least) & (absolute(slope) <= most);
        slopes[k + j] = where(pair.live[j] & usable, slope, none);
        // A window of nothing but zeros has no slope (p = 1, a plain sum, has).
        pair.live[j] &= ~usable & ~(proven & (sum == none) & BySums<Vector>::flat_at_zero());
        pair.of[j] = where(pair.live[j], pair.of[j], none);
        left |= pair.live[j];
      }
      if (any(left)) repair(strips + k, pair);
    }
  }

  // Add the bins of one kernel, `stride` vectors apart, to the slot's partial sums.
  void empty_bins(const TransformedTile& tile, int64 kernel, const Vector* bins, int64 stride,
                  const Vector* direct, double* partial) const {
    const double scale = (double)BySums<Real>::scale(tile.range.shift) /
                         (double)BySums<Real>::scale(weights.range(kernel).shift);
    const Real* slope = gradients.slope(kernel, weights.taps);
    for (int64 t = 0; t < weights.taps; ++t) {
      double sum = 0;
      for (int lane = 0; lane < lanes; ++lane) sum += bins[t * stride][lane];
      if (sum != 0) sum *= scale * slope[t];  // a weight without a finite slope met no output
      for (int lane = 0; direct && lane < lanes; ++lane) sum += direct[t][lane];
      partial[kernel * weights.taps + t] += sum;
    }
  }

  // From sums of E(krn) to derivatives by img.
  void finish_image(TransformedTile& tile, Real* gradient, const Real* direct, int64 elements) const {
    const Real* numbers = BySums<Vector>::own_derivative ? tile.transformed : tile.numbers();
    const Vector shift = broadcast(tile.range.shift), none{};
    for (int64 at = 0; at < elements; at += lanes) {
      const Vector sum = load_vector<Vector>(gradient + at);
      Vector value = sum * BySums<Vector>::d_transform(load_vector<Vector>(numbers + at), shift,
                                                       load_vector<Vector>(tile.transformed + at));
      value = where(sum == none, none, value);
      if (direct) value = value + load_vector<Vector>(direct + at);
      store_vector(gradient + at, value);
    }
  }
};

inline int backward_by_sums(const Geometry& g, const Backward& call, bool absorbing, int threads) {
  if (!call.grad_img && !call.grad_krn) return success;
  Tiling tiling(g, 4);
  tiling.cover_reach(g);
  const Partition partition(g, tiling);
  const TapTable table(g, tiling, call.krn);
  if (!table.complete) return out_of_memory;
  const Weights weights(g, tiling, table);
  if (!weights.complete) return out_of_memory;
  const ChannelBlocks blocks(g);
  const WeightGradients gradients(g, table, weights, blocks.size);
  const int64 count = g.kernels * weights.taps;
  Buffer<double> partials;
  Buffer<int32> order;
  if (!gradients.complete || !order.allocate(g.window_size())) return out_of_memory;
  if (call.grad_krn && !partials.allocate(partition.slots * count)) return out_of_memory;
  column_order(g, order.data);
  int64 image_pixels = 1;
  for (int a = 0; a < g.rank; ++a) image_pixels *= g.image_size[a];
  const bool may_pad = absorbing && table.finite;
  const BySumsBackward body{g,         tiling, call,       table,   weights,     gradients,
                            blocks, order.data, may_pad, g.pixels(), image_pixels};
  return add_up_tiles(g, tiling, partition, body, call, partials.data, count, threads);
}

}  // namespace semiconv
