// The gradients of log and root by ordinary sums. Outputs whose sums prove nothing are computed directly.
//
// Needs what by_sums.hpp needs and the derivatives of times. The forward pass computes for each output
//
//     S = sum of E(img_k) E(krn_k) over taps k,    out = restore(S).
//
// So grad_S = grad_out * d_restore(S), which `grad_sums` holds (with the scale of one of the two shifts),
// and the two gradients are those of an ordinary convolution:
//
//     grad_img = d_transform(img) * (sum over outputs that see it of grad_S E(krn_k))
//     grad_krn = d_transform(krn) * (sum over outputs            of grad_S E(img_k))
//
// An output takes part directly, by its window's own terms as in derivatives.hpp, where its S proves
// nothing (Proof in by_sums.cuh) or where grad_S is so large or small that these sums could leave the range.
//
// Nothing but img and krn is kept from the forward pass: the sums are computed again, which costs less than
// to keep and load them with their shifts. For each tile, and each block of output channels:
//
//   sum_strips          S of 8 strips
//   grad_sums_of        grad_S, 0 where the output takes part directly -> repair()
//   send_back           adds grad_S E(krn) to `gradient`, grad_S E(img) to `bins`
//   repair              adds the direct outputs' derivatives to `direct_gradient`, `direct_bins`
//   empty_bins          bins, times d_transform(krn), and direct_bins -> the slot (partition.hpp)
//   finish_image        gradient, times d_transform(img), and direct_gradient -> grad_img
#pragma once
#include "backward.hpp"
#include "by_sums.hpp"

namespace semiconv {

// How many output channels go through a tile together. One load of the image's gradient serves all of
// them; their bins should stay in the cache.
class ChannelBlocks {
  static constexpr int64 least = 8, most_bins = 8192;

 public:
  const int64 size;
  ChannelBlocks(const Geometry& g)
      : size(smaller_of(g.outputs_per_group,
                       larger_of(least, most_bins / (g.in_channels * g.window_size())))) {}
};

// What the gradients need of the kernels: E(krn) with the output channels of a block behind each other,
// 0 where it is not finite, and d_transform(krn).
class KernelDerivatives {
  Buffer<Real> weights, numbers;

 public:
  bool complete = false;

  KernelDerivatives(const Geometry& g, const Setting& setting, const TapTable& table, const TransformedKernels& all,
                    int64 block_size) {
    const int64 taps = all.taps, window = g.window_size();
    if (!weights.allocate(g.kernels * taps) || !numbers.allocate(g.kernels * taps)) return;
    for (int64 k = 0; k < g.kernels; ++k) {
      const int64 o = k % g.outputs_per_group, first = o / block_size * block_size;
      const int64 size = smaller_of(block_size, g.outputs_per_group - first);
      Real* block = weights.data + (k - o + first) * taps;
      for (int64 t = 0; t < taps; ++t) {
        const Real weight = all.of(k)[t], krn = table.of(k, t / window).values[t % window];
        block[t * size + o - first] = absolute(weight) < infinity<Real>() ? weight : Real(0);
        numbers.data[k * taps + t] = BySums<Real>(setting).d_transform(krn, all.range(k).shift, weight);
      }
    }
    complete = true;
  }
  // Weights of the block that begins at a kernel: [tap][kernel of the block].
  const Real* block(int64 kernel, int64 taps) const { return weights.data + kernel * taps; }
  const Real* of(int64 kernel, int64 taps) const { return numbers.data + kernel * taps; }
};

// Add what N strips that do not overlap send back through all taps, for a block of output channels:
// grad_S E(krn) to `gradient`, grad_S E(img) to `bins`. grad_sums: `pitch` vectors for each channel, of
// which these strips have N.
template <int N, bool TO_IMG, bool TO_KRN>
SEMICONV_FN void send_back(const Real* transformed, Real* gradient, Vector* bins, const Strip* strips,
                           const Vector* grad_sums, int64 pitch, const Real* weights,
                           const int64* offsets, const int32* order, int64 taps, int64 channels) {
  const Vector none{};
  for (int64 n = 0; n < taps; ++n) {
    const int64 t = order[n];
    Vector img[N], sum[N];
#pragma GCC unroll 8
    for (int j = 0; j < N; ++j) {
      const int64 place = strips[j].from + offsets[t];
      if (TO_IMG) sum[j] = load_vector<Vector>(gradient + place);
      if (TO_KRN) {
        // Outputs that see an E(img) which is not finite have a grad_S of 0.
        const Vector number = load_vector<Vector>(transformed + place);
        img[j] = number < infinity<Vector>() ? number : none;
      }
    }
    for (int64 o = 0; o < channels; ++o) {
      const Vector weight = broadcast(weights[t * channels + o]);
      Vector to_krn{};
#pragma GCC unroll 8
      for (int j = 0; j < N; ++j) {
        const Vector grad_sum = grad_sums[o * pitch + j];
        if (TO_IMG) sum[j] = sum[j] + grad_sum * weight;
        if (TO_KRN) to_krn = to_krn + grad_sum * img[j];
      }
      if (TO_KRN) bins[t * channels + o] = bins[t * channels + o] + to_krn;
    }
#pragma GCC unroll 8
    for (int j = 0; j < N; ++j)
      if (TO_IMG) store_vector(gradient + strips[j].from + offsets[t], sum[j]);
  }
}
template <int N>
__attribute__((noinline)) void send_back_strips(const Real* transformed, Real* gradient, Vector* bins,
                                                const Strip* strips, const Vector* grad_sums,
                                                int64 pitch, const Real* weights, const int64* offsets,
                                                const int32* order, int64 taps, int64 channels) {
  const auto run = gradient ? (bins ? send_back<N, true, true> : send_back<N, true, false>)
                            : send_back<N, false, true>;
  run(transformed, gradient, bins, strips, grad_sums, pitch, weights, offsets, order, taps, channels);
}

// Add the gradients of two strips of one output channel by their windows' own terms: the residual is
// computed here, then used as in derivatives.hpp.
template <bool MASKED>
__attribute__((noinline)) void differentiate_directly(
    const Geometry& g, const TapTable& table, int64 kernel, const Real* numbers, int64 channel_size,
    const MaskLane* mask, Real* gradient, Vector* bins, const int32* order, const Strip* strips,
    const GradOut<2>& grad_out, const Setting& setting, int64 window) {
  using A = Differentiable<Vector>;
  using T = Terms<2, MASKED>;
  A acc[2];
  for (A& one : acc) one.start(setting);
  for (int64 i = 0; i < g.in_channels; ++i)
    observe_channel<2>(acc, T(numbers + i * channel_size, mask, strips), table.of(kernel, i), 0,
                       table.of(kernel, i).count, setting);
  for (A& one : acc) one.settle(setting);
  for (int64 i = 0; i < g.in_channels; ++i)
    add_channel<2>(acc, T(numbers + i * channel_size, mask, strips), table.of(kernel, i), 0,
                   table.of(kernel, i).count, setting);
  const typename A::Derivative weights[2] = {{acc[0].residual(0, setting), acc[0].residual(1, setting), setting},
                                         {acc[1].residual(0, setting), acc[1].residual(1, setting), setting}};
  for (int64 i = 0; i < g.in_channels; ++i)
    differentiate_channel<2, MASKED>(
        numbers + i * channel_size, mask, gradient ? gradient + i * channel_size : nullptr,
        bins ? bins + i * window : nullptr, strips, table.of(kernel, i), order, weights, grad_out, setting);
}

// What all threads share, and the work on one (batch element, group, tile).
struct BySumsBackward {
  static constexpr int N = 8;  // strips whose sums are computed together
  const Geometry& g;
  const Setting& setting;
  const Tiling& tiling;
  const TileLoader& loader;
  const Backward& call;
  const TapTable& table;
  const TransformedKernels& weights;
  const KernelDerivatives& derivatives;
  const ChannelBlocks& blocks;
  const int32* order;
  bool may_pad;

  int64 most_strips() const { return strips_of(g, tiling) + N; }
  size_t bytes() const {
    return (2 * weights.taps + N) * blocks.size * sizeof(Vector) +
           4 * TransformedTile::scratch_elements(g, tiling) * sizeof(Real) +
           tiling.channel_size * sizeof(MaskLane) + most_strips() * sizeof(Strip) + 256;
  }

  struct Worker {
    const BySumsBackward& body;
    char* memory;
    Worker(const BySumsBackward& body_, char* memory_) : body(body_), memory(memory_) {}
    void run(int64 b, int64 group, int64 tile, double* partial) {
      body.differentiate(memory, b, group, tile, partial);
    }
  };
  // Adds this tile's gradients to call.grad_img and to `partial`, the slot's kernel gradient (kernels x
  // taps); null where that is not to be computed.
  void differentiate(char* memory, int64 b, int64 group, int64 n_tile, double* partial) const {
    int64 origin[max_rank], size[max_rank];
    locate_tile(g, tiling, n_tile, origin, size);
    const int64 taps = weights.taps, elements = TransformedTile::scratch_elements(g, tiling);
    Vector *bins = (Vector*)memory, *direct_bins = bins + taps * blocks.size;
    Vector* grad_sums = direct_bins + taps * blocks.size;
    Real* transformed = (Real*)(grad_sums + N * blocks.size);
    Real* gradient = call.grad_img ? transformed + 2 * elements : nullptr;
    Real* direct_gradient = gradient ? gradient + elements : nullptr;
    MaskLane* mask = (MaskLane*)(transformed + 4 * elements);
    Strips cut{nullptr, (Strip*)(((size_t)(mask + tiling.channel_size) + 63) / 64 * 64)};
    const bool masked = !may_pad && !inside_image(g, origin, size);
    TransformedTile tile(g, setting, tiling, loader, call.img,
                         call.img + b * g.img_strides[0] + group * g.in_channels * g.img_strides[1],
                         origin, masked, transformed, transformed + elements, mask);
    tile_functions->cut_alone(cut, g, tiling, origin, size, N);
    const Strip* strips = cut.data;
    const int64 n = cut.count;
    if (gradient) memset(gradient, 0, elements * sizeof(Real));
    bool repaired_img = false;

    for (int64 first = 0; first < g.outputs_per_group; first += blocks.size) {
      const int64 channels = smaller_of(blocks.size, g.outputs_per_group - first);
      bool repaired_krn = false;
      if (partial) memset((void*)bins, 0, taps * channels * sizeof(Vector));
      // Clears what it adds to before its first use: most tiles repair nothing.
      const auto repair = [&](int64 o, const Strip* pair, const GradOut<2>& of_pair) {
        if (partial && !repaired_krn) memset((void*)direct_bins, 0, taps * channels * sizeof(Vector));
        if (gradient && !repaired_img) memset(direct_gradient, 0, elements * sizeof(Real));
        repaired_krn = repaired_img = true;
        const auto run = masked ? differentiate_directly<true> : differentiate_directly<false>;
        run(g, table, g.kernel_of(group, first + o), tile.numbers(), tiling.channel_size, mask,
            direct_gradient, partial ? direct_bins + o * taps : nullptr, order, pair, of_pair, setting,
            g.window_size());
      };
      for (int64 j = 0; j < n; j += N) {
        const int used = (int)smaller_of(N, n - j);
        for (int64 o = 0; o < channels; ++o)
          grad_sums_of(tile, group, first + o,
                       b * g.out_strides[0] + (group * g.outputs_per_group + first + o) * g.out_strides[1],
                       strips + j, used, grad_sums + o * N,
                       [&](const Strip* pair, const GradOut<2>& of_pair) { repair(o, pair, of_pair); });
        const Real* block = derivatives.block(g.kernel_of(group, first), taps);
        int k = 0;
        for (; k + 4 <= used; k += 4)
          send_back_strips<4>(transformed, gradient, partial ? bins : nullptr, strips + j + k,
                              grad_sums + k, N, block, weights.offsets(), order, taps, channels);
        for (; k < used; ++k)
          send_back_strips<1>(transformed, gradient, partial ? bins : nullptr, strips + j + k,
                              grad_sums + k, N, block, weights.offsets(), order, taps, channels);
      }
      for (int64 o = 0; partial && o < channels; ++o)
        empty_bins(tile, g.kernel_of(group, first + o), bins + o, channels,
                   repaired_krn ? direct_bins + o * taps : nullptr, partial);
    }
    if (!gradient) return;
    finish_image(tile, gradient, repaired_img ? direct_gradient : nullptr, elements);
    for (int64 i = 0; i < g.in_channels; ++i)
      tile_functions->unfill_channel(g, tiling, origin, gradient + i * tiling.channel_size,
                     call.grad_img + b * call.grad_img_strides[0] +
                         (group * g.in_channels + i) * call.grad_img_strides[1],
                     call.grad_img_strides + 2);
  }

  // grad_S of N strips of the output channel at `plane`, 0 for outputs that take part directly. Those go to
  // repair(two strips, their grad_out), in which all others are 0.
  template <class F>
  void grad_sums_of(const TransformedTile& tile, int64 group, int64 output, int64 plane,
                    const Strip* strips, int used, Vector* grad_sums, F repair) const {
    using L = Limits<Real>;
    const int64 kernel = g.kernel_of(group, output);
    const Range<Real>& range = weights.range(kernel);
    const BySums<Vector> e(setting);
    const Proof<Real> proof(BySums<Real>(setting), tile.range, range, weights.taps);
    // As large as its sums with weights of at most 1 allow.
    const Vector most = broadcast(L::largest / 4 / ((Real)weights.taps * (Real)g.outputs_per_group));
    const Vector least = broadcast(L::smallest_normal / L::epsilon), none{};
    Vector sums[N];
    sum_strips<N>(tile.transformed, weights.of(kernel), weights.offsets(), weights.taps, strips, sums);
    const Storage* grad_out = call.grad_out + plane;
    const int64 step = g.out_strides[g.rank + 1];
    for (int k = 0; k < N; k += 2) {
      GradOut<2> pair(grad_out, strips + k, (int)smaller_of(2, larger_of(0, used - k)), step);
      Mask unproven{};
      for (int j = 0; j < 2; ++j) {
        const Vector sum = sums[k + j];
        const Mask proven = (Mask)proof.holds(sum);
        const Vector grad_sum =
            e.d_restore(sum) * pair.of[j] * e.scale(broadcast(range.shift));
        const Mask usable = proven & (absolute(grad_sum) >= least) & (absolute(grad_sum) <= most);
        grad_sums[k + j] = where(pair.live[j] & usable, grad_sum, none);
        // The gradient of a window of zeros is 0 (but not for p = 1, a plain sum).
        pair.live[j] &= ~usable & ~(proven & (sum == none) & e.flat_at_zero());
        pair.of[j] = where(pair.live[j], pair.of[j], none);
        unproven |= pair.live[j];
      }
      if (any(unproven)) repair(strips + k, pair);
    }
  }

  // Add the bins of one kernel, which lie `stride` vectors apart, and its direct ones to the slot.
  void empty_bins(const TransformedTile& tile, int64 kernel, const Vector* bins, int64 stride,
                  const Vector* direct, double* partial) const {
    const double scale = (double)BySums<Real>::scale(tile.range.shift) /
                         (double)BySums<Real>::scale(weights.range(kernel).shift);
    const Real* derivative = derivatives.of(kernel, weights.taps);
    for (int64 t = 0; t < weights.taps; ++t) {
      double sum = 0;
      for (int lane = 0; lane < lanes; ++lane) sum += bins[t * stride][lane];
      if (sum != 0) sum *= scale * derivative[t];  // infinite only where no output has a gradient
      for (int lane = 0; direct && lane < lanes; ++lane) sum += direct[t][lane];
      partial[kernel * weights.taps + t] += sum;
    }
  }

  // gradient = gradient * d_transform(img) + direct.
  void finish_image(TransformedTile& tile, Real* gradient, const Real* direct, int64 elements) const {
    const Real* numbers = BySums<Vector>::own_derivative ? tile.transformed : tile.numbers();
    const Vector shift = broadcast(tile.range.shift), none{};
    by_known_power(setting, [&](const BySums<Vector>& e) __attribute__((always_inline)) {
      for (int64 at = 0; at < elements; at += lanes) {
        const Vector sum = load_vector<Vector>(gradient + at);
        Vector value = sum * e.d_transform(load_vector<Vector>(numbers + at), shift,
                                           load_vector<Vector>(tile.transformed + at));
        value = where(sum == none, none, value);
        if (direct) value = value + load_vector<Vector>(direct + at);
        store_vector(gradient + at, value);
      }
    });
  }
};

inline int backward_by_sums(const Geometry& g, const Backward& call, bool absorbing, int threads) {
  if (!call.grad_img && !call.grad_krn) return success;
  const Tiling tiling = tile_functions->tiling(g, 4, false, true);
  const Partition partition(g, tiling);
  const TapTable table = tile_functions->taps(g, tiling, call.krn, neutral_weights);
  if (!table.complete) return out_of_memory;
  const Border border(g, absorbing);
  const Setting& setting = border.setting;
  const TransformedKernels weights(g, setting, tiling, table);
  if (!weights.complete) return out_of_memory;
  const ChannelBlocks blocks(g);
  const KernelDerivatives derivatives(g, setting, table, weights, blocks.size);
  const int64 count = g.kernels * weights.taps;
  Buffer<double> partials;
  Buffer<int32> order;
  if (!derivatives.complete || !order.allocate(weights.taps)) return out_of_memory;
  if (call.grad_krn && !partials.allocate(partition.slots * count)) return out_of_memory;
  column_order(g, g.in_channels, order.data);
  const bool may_pad = border.absorbs && table.finite;
  const TileLoader loader(g, tiling, g.in_channels, border.zero);
  const BySumsBackward body{g,     setting, tiling,      loader, call,       table,
                            weights, derivatives, blocks, order.data, may_pad};
  return add_up_tiles(g, tiling, partition, body, call, partials.data, count, threads);
}

}  // namespace semiconv
