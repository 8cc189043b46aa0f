// The gradient of the image, gathered: one thread per image element asks every output that saw it.
//
// Needs what backward.cuh needs and SEMICONV_KERNEL. No atomics: two runs give the same bits.
#include "backward.cuh"

namespace semiconv {

// Visit every (output pixel, tap) whose tap lies at `position`; axes from the first to the last.
template <int AXIS, class F>
SEMICONV_FN void visit_outputs(const Geometry& g, const int64* position, int64 pixel, int64 krn, int32 tap,
                               F& visit) {
  if constexpr (AXIS == rank) {
    visit(pixel, krn, tap);
  } else {
    const int64 stride = SEMICONV_STRIDES[AXIS];
    for (int32 y = 0; y < SEMICONV_KERNEL_SIZE[AXIS]; ++y) {
      const int64 shifted =
          position[AXIS] + g.pad_begin[AXIS] - g.step(AXIS, y) * SEMICONV_DILATIONS[AXIS];
      if (shifted < 0 || shifted % stride || shifted / stride >= g.out_size[AXIS]) continue;
      visit_outputs<AXIS + 1>(g, position, pixel * g.out_size[AXIS] + shifted / stride,
                              krn + y * g.krn_strides[AXIS + 2],
                              tap * SEMICONV_KERNEL_SIZE[AXIS] + y, visit);
    }
  }
}

}  // namespace semiconv

extern "C" __global__ void __launch_bounds__(256, 2)
SEMICONV_KERNEL(const semiconv::Geometry g, const semiconv::Storage* __restrict__ grad_out,
                const semiconv::Storage* __restrict__ img, const semiconv::Storage* __restrict__ krn,
                const void* __restrict__ residual, semiconv::Real* __restrict__ grad_img,
                long long residual_plane, long long elements) {
  using namespace semiconv;
  const Differentiated d{grad_out, img, krn, residual, residual_plane};
  const int64 pixels = g.pixels(), stride = (int64)blockDim.x * gridDim.x;
  for (int64 n = (int64)blockIdx.x * blockDim.x + threadIdx.x; n < elements; n += stride) {
    int64 position[rank], rest = n, at = 0;
    for (int a = last_axis; a >= 0; --a) {
      position[a] = rest % g.image_size[a];
      rest /= g.image_size[a];
      at += position[a] * g.img_strides[a + 2];
    }
    const int32 channel = (int32)(rest % g.in_channels);
    const int64 group = rest / g.in_channels % g.groups, b = rest / g.in_channels / g.groups;
    at += b * g.img_strides[0] + (group * g.in_channels + channel) * g.img_strides[1];
    Real sum = 0;
    for (int64 o = 0; o < g.outputs_per_group; ++o) {
      const int64 plane = (b * g.groups + group) * g.outputs_per_group + o;
      const int64 kernel =
          g.kernel_of(group, o) * g.krn_strides[0] + channel * g.krn_strides[1];
      auto visit = [&](int64 pixel, int64 krn_at, int32 tap) {
        const Term term{at, kernel + krn_at, channel * window_size() + tap};
        sum += Flow(d, term, plane * pixels + pixel,
                    residual_place(g, plane, channel, pixel, pixels)).to_img();
      };
      visit_outputs<0>(g, position, 0, 0, 0, visit);
    }
    grad_img[n] = sum;
  }
}
