// The gradient of the image, gathered: one thread per image element asks every output that saw it, in the
// order of outputs in memory.
//
// Needs what backward.cuh needs and SEMICONV_KERNEL; `flags` and `flag_count` as in conditional_launch.cuh. No
// atomics: two runs give the same bits.
#include "backward.cuh"
#include "conditional_launch.cuh"

namespace semiconv {

constexpr int32 common_divisor(int32 a, int32 b) { return b ? common_divisor(b, a % b) : a; }

// Visit every (output pixel, tap) whose tap lies at `position`, in the order of pixels; axes from the first
// to the last. With strides, only every `apart`-th tap of an axis is some output's:
//
//     stride 3, dilation 1, position 7: tap 1 of output 2, tap 4 of output 1
template <int AXIS, class F>
SEMICONV_FN void visit_outputs(const Geometry& g, const Offset* position, Offset pixel, Offset krn,
                               int32 tap, F& visit) {
  if constexpr (AXIS == rank) {
    visit(pixel, krn, tap);
  } else {
    constexpr int32 size = SEMICONV_KERNEL_SIZE[AXIS], stride = SEMICONV_STRIDES[AXIS];
    constexpr int32 dilation = SEMICONV_DILATIONS[AXIS];
    constexpr int32 apart = stride / common_divisor(stride, dilation);
    // Output `at` sees the position by step size - 1 - k where at * stride is k dilations beyond `last`.
    const Offset last = position[AXIS] + (Offset)g.pad_begin[AXIS] - (Offset)(size - 1) * dilation;
    int32 k = 0;
    if constexpr (stride > 1) {
      int32 beyond = (int32)(last % stride);
      beyond = beyond < 0 ? beyond + stride : beyond;
      if constexpr (dilation % stride == 1) k = beyond ? stride - beyond : 0;
      else
        while (k < size && k < apart && (beyond + (Offset)k * dilation) % stride) ++k;
      if (k == apart) return;
    }
    Offset at = (last + (Offset)k * dilation) / stride;
    // Large strides end the loop here, as k + apart may be beyond 31 bits.
    for (; k < size; k = apart < size - k ? k + apart : size, at += dilation / (stride / apart)) {
      if (at < 0) continue;
      if (at >= (Offset)g.out_size[AXIS]) break;
      const int32 y = g.mirrored ? k : size - 1 - k;
      visit_outputs<AXIS + 1>(g, position, pixel * (Offset)g.out_size[AXIS] + at,
                              krn + y * (Offset)g.krn_strides[AXIS + 2], tap * size + y, visit);
    }
  }
}

}  // namespace semiconv

extern "C" __global__ void __launch_bounds__(256, 2)
SEMICONV_KERNEL(const semiconv::Geometry g, const semiconv::Storage* __restrict__ grad_out,
                const semiconv::Storage* __restrict__ img, const semiconv::Storage* __restrict__ krn,
                const void* __restrict__ residual, semiconv::Real* __restrict__ grad_img,
                long long residual_plane, long long elements, const int* __restrict__ flags,
                long long flag_count) {
  using namespace semiconv;
  if (!launch_is_needed(flags, flag_count)) return;
  const Differentiated d{grad_out, img, krn, residual, residual_plane};
  const Offset pixels = (Offset)outputs_of_channel(g), outputs = (Offset)g.outputs_per_group;
  const int64 stride = (int64)blockDim.x * gridDim.x;
  for (int64 n = (int64)blockIdx.x * blockDim.x + threadIdx.x; n < elements; n += stride) {
    Offset position[rank], rest = (Offset)n, at = 0;
    for (int a = last_axis; a >= 0; --a) {
      const Offset size = (Offset)g.image_size[a];
      position[a] = rest % size;
      rest /= size;
      at += position[a] * (Offset)g.img_strides[a + 2];
    }
    // Divisions take most of the time of an element that few outputs see.
    int32 channel = 0;
    if (g.in_channels > 1) {
      channel = (int32)(rest % (Offset)g.in_channels);
      rest /= (Offset)g.in_channels;
    }
    Offset group = 0, b = rest;
    if (g.groups > 1) {
      group = rest % (Offset)g.groups;
      b = rest / (Offset)g.groups;
    }
    at += b * (Offset)g.img_strides[0] +
          (group * (Offset)g.in_channels + channel) * (Offset)g.img_strides[1];
    Real sum = 0;
    for (Offset o = 0; o < outputs; ++o) {
      const Offset plane = (b * (Offset)g.groups + group) * outputs + o;
      const Offset kernel = (Offset)g.kernel_of(group, o) * (Offset)g.krn_strides[0] +
                            channel * (Offset)g.krn_strides[1];
      const Setting setting(g.parameters, g.kernel_of(group, o));
      auto visit = [&](Offset pixel, Offset krn_at, int32 tap) {
        const Term term{at, kernel + krn_at, channel * window_size() + tap};
        sum += TermGradient(d, setting, term, plane * pixels + pixel,
                    residual_place<Offset>(g, plane, channel, pixel, pixels)).to_img();
      };
      visit_outputs<0>(g, position, 0, 0, 0, visit);
    }
    grad_img[n] = sum;
  }
}
