// The gradient of the kernel from a provenance: a histogram. Every output has one winning tap, so that it is
// read once and added to the bin of that tap, whatever the number of taps.
//
//     outputs      winner  2  0  2  5  1  2 ...        bins of one warp: bins[tap][slot], lane % slots
//                  grad    a  b  c  d  e  f            tap 0: b   tap 1: e   tap 2: a + c + f   tap 5: d
//
// If two lanes of a warp met in one bin, one of them would be lost. Each tap therefore has several bins
// (slots), and lanes that share a slot take turns. At the end a warp adds the bins of one tap, of all warps and
// slots, in double: one partial sum of this block for each tap, which grad_sum.cu adds to those of the others.
//
// Needs what backward.cuh needs, SEMICONV_KERNEL, and
//   SEMICONV_SLICE   taps that a block has bins for; blocks of other slices read the same outputs
//   SEMICONV_SLOTS   bins of a tap in each warp, a power of two up to 32
// No atomics: two runs give the same bits.
#include "backward.cuh"
#include "../chunk.cuh"

namespace semiconv {

constexpr int threads = 128, warps = threads / 32;
constexpr int slice = SEMICONV_SLICE, slots = SEMICONV_SLOTS, turns = 32 / slots;
constexpr int four = 4;  // outputs of a thread that are loaded at once
constexpr int job_size = threads * four;
#if defined(SEMICONV_CHANNELS_ADD)
constexpr bool by_channel = true;  // every input channel has its own winners
#else
constexpr bool by_channel = false;
#endif

using Index = SEMICONV_RESIDUAL;
struct Outputs {
  Chunk<Storage, four> grad_out;
  Chunk<Index, four> winner;
  int64 plane, first;  // which (batch, output channel), and the first of the pixels there
  int count;
};

}  // namespace semiconv

extern "C" __global__ void __launch_bounds__(128)
SEMICONV_KERNEL(const semiconv::Geometry g, const semiconv::Storage* __restrict__ grad_out,
                const semiconv::Storage* __restrict__ img, const semiconv::Storage* __restrict__ krn,
                const void* __restrict__ residual, double* __restrict__ partial, long long jobs,
                long long chunks, long long slices) {
  using namespace semiconv;
  __shared__ Real bins[warps * slice * slots];
  const int32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int32 window = window_size();
  const int64 pixels = outputs_of_channel(g);
  const uint32 jobs_of_plane = (uint32)((pixels + job_size - 1) / job_size);
  const bool aligned =
      pixels % four == 0 && (size_t)grad_out % 16 == 0 && (size_t)residual % 16 == 0;

  // The block's share: a kernel (and a channel, if each channel has its own winners), a slice of its taps, and a
  // chunk of the jobs.
  const uint32 chunk = blockIdx.x % (uint32)chunks;
  uint32 rest = blockIdx.x / (uint32)chunks;
  const int32 first_of_slice = (int32)(rest % (uint32)slices) * slice;
  rest /= (uint32)slices;
  const int32 parts = by_channel ? (int32)g.in_channels : 1;
  const int32 part = (int32)(rest % (uint32)parts);
  const int64 kernel = rest / (uint32)parts;
  const int32 taps = by_channel ? window : (int32)g.in_channels * window;  // of this kernel or channel
  const int32 first_tap = part * window + first_of_slice;
  const int32 served = taps - first_of_slice < slice ? taps - first_of_slice : slice;

  for (int n = threadIdx.x; n < warps * slice * slots; n += threads) bins[n] = 0;
  __syncthreads();
  Real* own = bins + warp * slice * slots + lane % slots;

  const auto read = [&](uint32 job) {
    Outputs outputs{};
    if (job >= (uint32)jobs) return outputs;
    uint32 n = job / jobs_of_plane;
    const int64 b = n % (uint32)g.batch;
    const int64 group = g.shares_kernels ? n / (uint32)g.batch : kernel / g.outputs_per_group;
    const int64 o = g.shares_kernels ? kernel : kernel % g.outputs_per_group;
    outputs.plane = (b * g.groups + group) * g.outputs_per_group + o;
    outputs.first = (int64)(job % jobs_of_plane) * job_size + (int64)threadIdx.x * four;
    const int64 left = pixels - outputs.first;
    outputs.count = left < four ? (left > 0 ? (int)left : 0) : four;
    const Storage* grads = grad_out + outputs.plane * pixels + outputs.first;
    const Index* winners = (const Index*)residual +
                           residual_place<int64>(g, outputs.plane, part, outputs.first, pixels);
    if (aligned) {
      if (outputs.count == 0) return outputs;
      outputs.grad_out = *(const Chunk<Storage, four>*)grads;
      outputs.winner = *(const Chunk<Index, four>*)winners;
    } else {
#pragma unroll
      for (int e = 0; e < four; ++e) {
        if (e >= outputs.count) continue;
        outputs.grad_out.of[e] = grads[e];
        outputs.winner.of[e] = winners[e];
      }
    }
    return outputs;
  };
  const Setting setting(g.parameters, kernel);
  // d term / d weight at the winner of one pixel.
  const auto derivative_of_term = [&](const Outputs& outputs, int e, int32 winner) {
    Real factor_img = 0, factor_krn = 0;
#if !defined(SEMICONV_CONSTANT_DERIVATIVES)
    const int32 channel = winner / window;
    const int64 group = outputs.plane / g.outputs_per_group % g.groups;
    const int64 b = outputs.plane / g.outputs_per_group / g.groups;
    int64 img_at = b * g.img_strides[0] + (group * g.in_channels + channel) * g.img_strides[1];
    int64 krn_at = kernel * g.krn_strides[0] + channel * g.krn_strides[1];
    Offset left = (Offset)(outputs.first + e);
    int32 index_left = winner % window;
    bool inside = true;  // as every winner is that a forward pass leaves
    for (int a = last_axis; a >= 0; --a) {
      const int32 index = index_left % SEMICONV_KERNEL_SIZE[a];
      index_left /= SEMICONV_KERNEL_SIZE[a];
      const int64 position = (int64)(left % (Offset)g.out_size[a]) * SEMICONV_STRIDES[a] -
                             g.pad_begin[a] + g.step(a, index) * SEMICONV_DILATIONS[a];
      left /= (Offset)g.out_size[a];
      inside = inside && position >= 0 && position < g.image_size[a];
      img_at += position * g.img_strides[a + 2];
      krn_at += index * g.krn_strides[a + 2];
    }
    if (!inside) return Real(0);
    factor_img = load(img[img_at]);
    factor_krn = load(krn[krn_at]);
#else
    (void)outputs, (void)e, (void)winner;
#endif
    return d_times_d_krn(factor_img, factor_krn, setting);
  };

  Outputs ahead = read(chunk);
  for (uint32 job = chunk; job < (uint32)jobs; job += (uint32)chunks) {
    const Outputs outputs = ahead;
    ahead = read(job + (uint32)chunks);
#pragma unroll
    for (int e = 0; e < four; ++e) {
      const int32 winner = (int32)outputs.winner.of[e], bin = winner - first_tap;
      const bool counts = e < outputs.count && bin >= 0 && bin < served;  // else another block's, or no tap won
      Real value = 0;
      if (counts) value = chained((Real)load(outputs.grad_out.of[e]), derivative_of_term(outputs, e, winner));
#pragma unroll
      for (int turn = 0; turn < turns; ++turn) {
        if (counts && lane / slots == turn) own[bin * slots] += value;
        if (turns > 1) __syncwarp();
      }
    }
  }
  __syncthreads();
  // A warp adds one tap's bins, in a fixed order.
  for (int32 t = warp; t < served; t += warps) {
    double sum = 0;
    for (int n = lane; n < warps * slots; n += 32)
      sum += (double)bins[(n / slots * slice + t) * slots + n % slots];
    for (int half = 16; half > 0; half /= 2) sum += __shfl_down_sync(0xffffffffu, sum, half);
    if (lane == 0)
      partial[(kernel * g.in_channels * window + first_tap + t) * chunks + chunk] = sum;
  }
}
