// The gradient of the kernel, block (weight, chunk of the outputs): partial sums, which grad_sum.cu
// adds. For additions that are no selections with a provenance (grad_bins.cu), any geometry.
//
// Needs what backward.cuh needs and SEMICONV_KERNEL; `flags` and `flag_count` as in conditional_launch.cuh. No
// atomics: two runs give the same bits.
#include "backward.cuh"
#include "conditional_launch.cuh"
#include "this_thread.cuh"

namespace semiconv {

constexpr int threads = 256;

// Outputs that weight (kernel, channel, tap) takes part in: those of its groups, all batch elements.
SEMICONV_FN int64 outputs_of_kernel(const Geometry& g, int64 pixels) {
  return g.batch * pixels * (g.shares_kernels ? g.groups : 1);
}

}  // namespace semiconv

extern "C" __global__ void __launch_bounds__(256)
SEMICONV_KERNEL(const semiconv::Geometry g, const semiconv::Storage* __restrict__ grad_out,
                const semiconv::Storage* __restrict__ img, const semiconv::Storage* __restrict__ krn,
                const void* __restrict__ residual, double* __restrict__ partial,
                long long residual_plane, long long chunk_size, long long chunks,
                const int* __restrict__ flags, long long flag_count) {
  using namespace semiconv;
  __shared__ double sums[threads];
  if (!launch_is_needed(flags, flag_count)) return;
  const Differentiated d{grad_out, img, krn, residual, residual_plane};
  const int64 pixels = g.pixels();
  const int32 window = window_size();
  const int64 all = g.kernels * g.in_channels * window * chunks;
  for (int64 work = blockIdx.x; work < all; work += gridDim.x) {
    const int64 weight = work / chunks, chunk = work % chunks;
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
    const Setting setting(g.parameters, kernel);
    double sum = 0;
    const int64 first = chunk * chunk_size, outputs = outputs_of_kernel(g, as_it_is(pixels));
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
      sum += (double)TermGradient(d, setting, term, plane * pixels + pixel,
                          residual_place<int64>(g, plane, channel, pixel, pixels)).to_krn();
    }
    sums[threadIdx.x] = sum;
    __syncthreads();
    for (int half = threads / 2; half > 0; half /= 2) {
      if ((int)threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
      __syncthreads();
    }
    if (threadIdx.x == 0) partial[work] = sums[0];
    __syncthreads();
  }
}
