// The kernel of the adjoint convolution: output and input channels exchanged within each group.
//
// Needs SEMICONV_STORAGE and SEMICONV_KERNEL. Each block leaves a flag (conditional_launch.cuh): whether it met
// an infinite number, or NaN. Such a weight times an output gradient of 0 is 0, but NaN in a convolution: another
// kernel computes the gradient again, or (only_finite) such weights, which meet no other gradients, become 0.
#include "../geometry.cuh"
#include "conditional_launch.cuh"

// exchanged: (group, input channel, output channel, *kernel), C-contiguous; shared kernels are one group.
extern "C" __global__ void __launch_bounds__(256)
SEMICONV_KERNEL(const semiconv::Geometry g, const semiconv::Storage* __restrict__ krn,
                semiconv::Storage* __restrict__ exchanged, int* __restrict__ flags, long long count,
                long long only_finite) {
  using namespace semiconv;
  bool infinite = false;
  for (int64 n = (int64)blockIdx.x * blockDim.x + threadIdx.x; n < count; n += (int64)blockDim.x * gridDim.x) {
    int64 rest = n, at = 0;
    for (int a = (int)g.rank - 1; a >= 0; --a) {
      at += rest % g.kernel_size[a] * g.krn_strides[a + 2];
      rest /= g.kernel_size[a];
    }
    const int64 output = rest % g.outputs_per_group;
    rest /= g.outputs_per_group;
    at += rest % g.in_channels * g.krn_strides[1] + g.kernel_of(rest / g.in_channels, output) * g.krn_strides[0];
    const bool finite = absolute((Real)load(krn[at])) < infinity<Real>();
    exchanged[n] = finite || !only_finite ? krn[at] : store(Real(0));
    infinite = infinite || !finite;
  }
  write_flag(flags, infinite);
}
