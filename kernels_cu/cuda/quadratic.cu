// Quadratic kernels and the gradients of their parameters: a thread a tap, and a warp a kernel.
//
// Needs SEMICONV_STORAGE, SEMICONV_COVARIANCE (a name of Covariance), SEMICONV_RANK, SEMICONV_WINDOW (the kernel's
// size), SEMICONV_KERNEL, SEMICONV_KERNEL_GRADIENT. All arrays are C-contiguous: log_std has an axis of the image's
// axes behind the kernels, and for Cholesky's covariances before them.
#include "../quadratic.cuh"

namespace semiconv {

constexpr Covariance form = Covariance::SEMICONV_COVARIANCE;
constexpr int rank = SEMICONV_RANK, pairs_of_axes = rank * (rank - 1) / 2;
using Kernel = Whitening<form, rank>;

struct Sizes {
  int32 of[rank];
  constexpr SEMICONV_FN int32 operator[](int a) const { return of[a]; }
};
#define SEMICONV_KERNEL_SIZE (Sizes SEMICONV_WINDOW)

SEMICONV_FN int64 number_of_taps() {
  int64 taps = 1;
  for (int a = 0; a < rank; ++a) taps *= SEMICONV_KERNEL_SIZE[a];
  return taps;
}

struct Offset {
  int32 of[rank];
  SEMICONV_FN explicit Offset(int64 tap) {
    for (int a = rank - 1; a >= 0; --a) {
      const int32 size = SEMICONV_KERNEL_SIZE[a];
      of[a] = (int32)(tap % size) - (size - 1) / 2;
      tap /= size;
    }
  }
};

// Where the numbers of one kernel lie.
SEMICONV_FN int64 step_of(int64 kernels) { return form == Covariance::cholesky ? kernels : 1; }
SEMICONV_FN int64 first_of(int64 kernel) { return form == Covariance::spectral ? kernel * rank : kernel; }
SEMICONV_FN Kernel kernel_of(const Storage* log_std, const Storage* pairs, int64 kernel, int64 kernels) {
  return Kernel(rank, log_std + first_of(kernel), step_of(kernels), pairs + kernel * pairs_of_axes);
}

}  // namespace semiconv

extern "C" __global__ void __launch_bounds__(256, 2)
SEMICONV_KERNEL(const semiconv::Storage* __restrict__ log_std, const semiconv::Storage* __restrict__ pairs,
                semiconv::Storage* __restrict__ krn, long long kernels) {
  using namespace semiconv;
  const int64 taps = number_of_taps(), count = kernels * taps;
  for (int64 n = (int64)blockIdx.x * blockDim.x + threadIdx.x; n < count; n += (int64)blockDim.x * gridDim.x)
    krn[n] = store(kernel_of(log_std, pairs, n / taps, kernels)(Offset(n % taps).of));
}

extern "C" __global__ void __launch_bounds__(256, 2)
SEMICONV_KERNEL_GRADIENT(const semiconv::Storage* __restrict__ log_std,
                         const semiconv::Storage* __restrict__ pairs,
                         const semiconv::Storage* __restrict__ grad_krn,
                         semiconv::Storage* __restrict__ grad_log_std,
                         semiconv::Storage* __restrict__ grad_pairs, long long kernels) {
  using namespace semiconv;
  const int64 taps = number_of_taps(), warps = (int64)gridDim.x * blockDim.x / 32;
  for (int64 kernel = ((int64)blockIdx.x * blockDim.x + threadIdx.x) / 32; kernel < kernels; kernel += warps) {
    Moments<rank> moments(rank);
    for (int64 tap = threadIdx.x % 32; tap < taps; tap += 32)
      moments.add(rank, Offset(tap).of, (double)load(grad_krn[kernel * taps + tap]));
    for (int i = 0; i < rank; ++i)
      for (int j = i; j < rank; ++j)
        for (int half = 16; half > 0; half /= 2)
          moments.of[i][j] += __shfl_down_sync(0xffffffffu, moments.of[i][j], half);
    if (threadIdx.x % 32 == 0)
      kernel_of(log_std, pairs, kernel, kernels)
          .differentiate(moments, grad_log_std + first_of(kernel), step_of(kernels),
                         grad_pairs + kernel * pairs_of_axes);
  }
}
