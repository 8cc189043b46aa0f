// The last stage of the kernel's gradient: a warp adds one weight's partial sums, in a fixed order.
//
// Needs SEMICONV_STORAGE and SEMICONV_KERNEL; `flags` and `flag_count` as in conditional_launch.cuh. A weight's
// partial sums follow each other.
#include "conditional_launch.cuh"

extern "C" __global__ void __launch_bounds__(256)
SEMICONV_KERNEL(const double* __restrict__ partial, semiconv::Real* __restrict__ grad_krn,
                long long weights, long long chunks, const int* __restrict__ flags, long long flag_count) {
  using namespace semiconv;
  if (!launch_is_needed(flags, flag_count)) return;
  const int64 warps = (int64)gridDim.x * blockDim.x / 32;
  for (int64 weight = ((int64)blockIdx.x * blockDim.x + threadIdx.x) / 32; weight < weights; weight += warps) {
    double sum = 0;
#pragma unroll 4
    for (int64 chunk = threadIdx.x % 32; chunk < chunks; chunk += 32)
      sum += partial[weight * chunks + chunk];
    for (int half = 16; half > 0; half /= 2) sum += __shfl_down_sync(0xffffffffu, sum, half);
    if (threadIdx.x % 32 == 0) grad_krn[weight] = (Real)sum;
  }
}
