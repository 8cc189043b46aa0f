// The `direct` forward kernel: one thread per output, any geometry.
//
// Needs the semifield's macros and SEMICONV_STORAGE, and
//   SEMICONV_KERNEL       the function's name
//   SEMICONV_RANK         number of spatial axes
//   SEMICONV_WINDOW       the kernel's size, a braced list with one number per spatial axis
//   SEMICONV_STRIDE, SEMICONV_DILATION   braced lists likewise
//   SEMICONV_OFFSET       int32 where every offset of the launch fits into 31 bits, else int64
//   SEMICONV_RESIDUAL     the residual's element type (uint8, uint16, uint32: provenance; Real: what the
//                         accumulator's Derivative needs); absent if no derivative follows
// `flags` and `flag_count`: see conditional_launch.cuh.
// Image sizes, batch, channels and array strides are arguments: another image compiles nothing.
#include "../window.cuh"
#include "conditional_launch.cuh"

namespace semiconv {

#if defined(SEMICONV_RESIDUAL)
using Chosen = WithResidual<Real, int32>;
#else
using Chosen = Accumulator<Real>;
#endif

// residual arrays follow each other, `plane` elements apart
SEMICONV_FN void store_residual(void* residual, int64 plane, int64 at, const Chosen& acc, const Setting& setting) {
#if defined(SEMICONV_RESIDUAL)
  using T = SEMICONV_RESIDUAL;
#if defined(SEMICONV_PROVENANCE)
  ((T*)residual)[at] = (T)acc.winner;
#else
  for (int k = 0; k < Chosen::residuals; ++k) ((T*)residual)[k * plane + at] = acc.residual(k, setting);
#endif
#endif
}

#if defined(SEMICONV_CHANNELS_ADD)
// An ordinary sum of the channels' own selections; residuals are kept per channel.
SEMICONV_FN Real sum_of_channels(const Geometry& g, const Window& window, const Storage* image,
                                 const Storage* kernel, void* residual, int64 plane, int64 n,
                                 int64 pixels) {
  const Setting setting = window.setting(g);
  Real total = 0;
  for (int32 i = 0; i < (int32)g.in_channels; ++i) {
    Chosen acc;
    acc.start(setting);
    accumulate(g, window, acc, setting, image, kernel, i, i + 1);
    const Real value = acc.result(setting);
#if defined(SEMICONV_INTEGER)
    total = i ? saturating_add(total, value) : value;
#else
    total = i ? total + value : value;
#endif
    store_residual(residual, plane, (n / pixels * g.in_channels + i) * pixels + n % pixels, acc, setting);
  }
  return total;
}
#endif

}  // namespace semiconv

extern "C" __global__ void __launch_bounds__(256, 2)
SEMICONV_KERNEL(const semiconv::Geometry g, const semiconv::Storage* __restrict__ img,
                const semiconv::Storage* __restrict__ krn, semiconv::Storage* __restrict__ out,
                void* __restrict__ residual, long long residual_plane, long long outputs,
                const int* __restrict__ flags, long long flag_count) {
  using namespace semiconv;
  if (!launch_is_needed(flags, flag_count)) return;
  const int64 stride = (int64)blockDim.x * gridDim.x;
  for (int64 n = (int64)blockIdx.x * blockDim.x + threadIdx.x; n < outputs; n += stride) {
    const Window window(g, (Offset)n);
    const Storage* image = img + window.image_offset(g);
    const Storage* kernel = krn + window.kernel_offset(g);
#if defined(SEMICONV_CHANNELS_ADD)
    out[n] = store(sum_of_channels(g, window, image, kernel, residual, residual_plane, n, g.pixels()));
#else
    const Setting setting = window.setting(g);
    Chosen acc;
    acc.start(setting);
    accumulate(g, window, acc, setting, image, kernel, 0, (int32)g.in_channels);
    out[n] = store(acc.result(setting));
    store_residual(residual, residual_plane, n, acc, setting);
#endif
  }
}
