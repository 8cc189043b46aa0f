// The gradient of the kernel: partial sums of chunks of the outputs, which grad_sum.cu adds. No
// atomics: two runs give the same bits.
//
// Needs what backward.cuh needs, SEMICONV_KERNEL, and SEMICONV_BINNED, SEMICONV_SLICE: threads of a
// block that keeps bins, and taps in bins at a time. With a provenance, block (kernel, chunk, slice)
// reads each output once and keeps a bin per thread for every tap of its slice; otherwise block
// (weight, chunk) adds one weight's share.
#include "backward.cuh"

namespace semiconv {

constexpr int threads = 256;
constexpr int binned = SEMICONV_BINNED;  // threads of a block that keeps bins

// Outputs that weight (kernel, channel, tap) takes part in: those of its groups, all batch elements.
SEMICONV_FN int64 outputs_of_kernel(const Geometry& g) {
  return g.batch * g.pixels() * (g.shares_kernels ? g.groups : 1);
}

constexpr int slice = SEMICONV_SLICE;  // taps in bins at a time

// Sum of the threads' bins of one tap, by one warp, in a fixed order; lane 0 has it.
SEMICONV_FN double sum_of_bins(const Real* bins) {
  double sum = 0;
  for (int n = threadIdx.x % 32; n < binned; n += 32) sum += (double)bins[n];
  for (int half = 16; half > 0; half /= 2) sum += __shfl_down_sync(0xffffffffu, sum, half);
  return sum;
}

}  // namespace semiconv

#if defined(SEMICONV_PROVENANCE)

extern "C" __global__ void __launch_bounds__(SEMICONV_BINNED)
SEMICONV_KERNEL(const semiconv::Geometry g, const semiconv::Storage* __restrict__ grad_out,
                const semiconv::Storage* __restrict__ img, const semiconv::Storage* __restrict__ krn,
                const void* __restrict__ residual, double* __restrict__ partial,
                long long residual_plane, long long chunk_size) {
  using namespace semiconv;
  using Index = SEMICONV_RESIDUAL;
  __shared__ Real bins[slice * binned];
  (void)residual_plane;
  const int64 pixels = g.pixels(), outputs = outputs_of_kernel(g);
  const int32 window = window_size(), taps = (int32)g.in_channels * window;
  const int64 kernel = blockIdx.x;
  const int32 first_tap = (int32)blockIdx.z * slice;
  for (int t = 0; t < slice; ++t) bins[t * binned + threadIdx.x] = 0;

  const int64 first = (int64)blockIdx.y * chunk_size;
  const int64 last = first + chunk_size < outputs ? first + chunk_size : outputs;
  for (int64 n = first + threadIdx.x; n < last; n += binned) {
    const int64 pixel = n % pixels, b = n / pixels % g.batch;
    const int64 group = g.shares_kernels ? n / pixels / g.batch : kernel / g.outputs_per_group;
    const int64 o = g.shares_kernels ? kernel : kernel % g.outputs_per_group;
    const int64 plane = (b * g.groups + group) * g.outputs_per_group + o;
#if defined(SEMICONV_CHANNELS_ADD)
    const int32 parts = (int32)g.in_channels;
#else
    const int32 parts = 1;
#endif
    for (int32 part = 0; part < parts; ++part) {
      const int64 at = residual_place<int64>(g, plane, part, pixel, pixels);
      const int32 tap = (int32)((const Index*)residual)[at], bin = tap - first_tap;
      if (bin < 0 || bin >= slice || tap >= taps) continue;  // another slice's, or nobody's
      Real factor_img = 0, factor_krn = 0;
#if !defined(SEMICONV_CONSTANT_DERIVATIVES)
      const int32 channel = tap / window;
      int64 img_at = b * g.img_strides[0] + (group * g.in_channels + channel) * g.img_strides[1];
      int64 krn_at = kernel * g.krn_strides[0] + channel * g.krn_strides[1], left = pixel;
      int32 rest = tap % window;
      for (int a = last_axis; a >= 0; --a) {
        const int32 index = rest % SEMICONV_KERNEL_SIZE[a];
        rest /= SEMICONV_KERNEL_SIZE[a];
        const int64 position = left % g.out_size[a] * SEMICONV_STRIDES[a] - g.pad_begin[a] +
                               g.step(a, index) * SEMICONV_DILATIONS[a];
        left /= g.out_size[a];
        img_at += position * g.img_strides[a + 2];
        krn_at += index * g.krn_strides[a + 2];
      }
      factor_img = load(img[img_at]);
      factor_krn = load(krn[krn_at]);
#endif
      const Real slope = load(grad_out[plane * pixels + pixel]);
      bins[bin * binned + threadIdx.x] += slope * d_times_d_krn(factor_img, factor_krn);
    }
  }
  __syncthreads();
  for (int t = threadIdx.x / 32; t < slice && first_tap + t < taps; t += binned / 32) {
    const double sum = sum_of_bins(bins + t * binned);
    if (threadIdx.x % 32 == 0)
      partial[(kernel * taps + first_tap + t) * gridDim.y + blockIdx.y] = sum;
  }
}

#else

extern "C" __global__ void __launch_bounds__(256)
SEMICONV_KERNEL(const semiconv::Geometry g, const semiconv::Storage* __restrict__ grad_out,
                const semiconv::Storage* __restrict__ img, const semiconv::Storage* __restrict__ krn,
                const void* __restrict__ residual, double* __restrict__ partial,
                long long residual_plane, long long chunk_size) {
  using namespace semiconv;
  __shared__ double sums[threads];
  const Differentiated d{grad_out, img, krn, residual, residual_plane};
  const int64 pixels = g.pixels(), outputs = outputs_of_kernel(g);
  const int32 window = window_size();
  const int64 weight = blockIdx.x;
  const int32 y = (int32)(weight % window), channel = (int32)(weight / window % g.in_channels);
  const int64 kernel = weight / window / g.in_channels;

  int64 krn_at = kernel * g.krn_strides[0] + channel * g.krn_strides[1], shift[rank];
  int32 rest = y;
  for (int a = last_axis; a >= 0; --a) {
    const int32 index = rest % SEMICONV_KERNEL_SIZE[a];
    rest /= SEMICONV_KERNEL_SIZE[a];
    krn_at += index * g.krn_strides[a + 2];
    shift[a] = g.step(a, index) * SEMICONV_DILATIONS[a] - g.pad_begin[a];
  }
  double sum = 0;
  const int64 first = (int64)blockIdx.y * chunk_size;
  const int64 last = first + chunk_size < outputs ? first + chunk_size : outputs;
  for (int64 n = first + threadIdx.x; n < last; n += threads) {
    const int64 pixel = n % pixels, b = n / pixels % g.batch;
    const int64 group = g.shares_kernels ? n / pixels / g.batch : kernel / g.outputs_per_group;
    const int64 o = g.shares_kernels ? kernel : kernel % g.outputs_per_group;
    const int64 plane = (b * g.groups + group) * g.outputs_per_group + o;
    int64 at = b * g.img_strides[0] + (group * g.in_channels + channel) * g.img_strides[1];
    int64 left = pixel;
    bool inside = true;
    for (int a = last_axis; a >= 0; --a) {
      const int64 position = left % g.out_size[a] * SEMICONV_STRIDES[a] + shift[a];
      left /= g.out_size[a];
      inside = inside && position >= 0 && position < g.image_size[a];
      at += position * g.img_strides[a + 2];
    }
    if (!inside) continue;
    const Term term{at, krn_at, channel * window + y};
    sum += (double)Flow(d, term, plane * pixels + pixel,
                        residual_place<int64>(g, plane, channel, pixel, pixels)).to_krn();
  }
  sums[threadIdx.x] = sum;
  __syncthreads();
  for (int half = threads / 2; half > 0; half /= 2) {
    if ((int)threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
    __syncthreads();
  }
  if (threadIdx.x == 0) partial[weight * gridDim.y + blockIdx.y] = sums[0];
}

#endif  // SEMICONV_PROVENANCE
