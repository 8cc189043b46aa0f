// The gradients of selections: each output sends its gradient to the tap that won.
//
// The residual is the winner's tap index, over all input channels of the group (with channels that
// add: within one channel), and the largest number of its type where no tap won. With (x, tap) known,
// the element of img lies at corner(x) + offset(tap), where the corner is the image position of the
// window's first dilation step: two tables of offsets, one for the C-contiguous grad_img, one for img.
// No scratch is needed, and no term is computed again.
//
// Winners are data of the caller: an index that is no tap, or leads outside the image, is skipped.
#pragma once
#include "partition.hpp"

namespace semiconv {

// Where every tap lies relative to the image position of dilation step 0: in a C-contiguous image,
// and in img with its own strides.
inline void image_offsets(const Geometry& g, int64* contiguous, int64* strided) {
  int64 channel = 1;
  for (int a = 0; a < g.rank; ++a) channel *= g.image_size[a];
  const int64 window = g.window_size();
  for (int64 n = 0; n < g.in_channels * window; ++n) {
    int64 rest = n % window, pitch = 1;
    contiguous[n] = n / window * channel;
    strided[n] = n / window * g.img_strides[1];
    for (int a = (int)g.rank - 1; a >= 0; --a) {
      const int64 step = g.step(a, rest % g.kernel_size[a]) * g.dilation[a];
      contiguous[n] += step * pitch;
      strided[n] += step * g.img_strides[a + 2];
      rest /= g.kernel_size[a];
      pitch *= g.image_size[a];
    }
  }
}

// The bounds of one group's part of the image: its number of elements in grad_img, and the lowest and
// highest offset in img with its own strides.
struct Reach {
  int64 elements = 1, lowest = 0, highest = 0;
  explicit Reach(const Geometry& g) {
    const auto extend = [&](int64 size, int64 stride) {
      elements *= size;
      (stride < 0 ? lowest : highest) += (size - 1) * stride;
    };
    extend(g.in_channels, g.img_strides[1]);
    for (int a = 0; a < g.rank; ++a) extend(g.image_size[a], g.img_strides[a + 2]);
  }
};

// One tile of one output channel. Adds into grad_img (C-contiguous) and bins (one a tap); either may
// be null.
template <class I>
inline void scatter_tile(const Geometry& g, const int64* origin, const int64* size,
                         const Storage* grad_out, const I* winners, const int64* taps,
                         const int64* img_taps, const Storage* img, const Storage* krn, Real* grad_img,
                         double* bins, int64 tap_count, const Reach& reach) {
  const int last = (int)g.rank - 1;
  int64 index[max_rank] = {}, rows = 1;
  for (int a = 0; a < last; ++a) rows *= size[a];
  (void)img, (void)krn, (void)img_taps;
  for (int64 r = 0; r < rows; ++r) {
    int64 from = 0, to = 0, at = 0;
    for (int a = 0; a < g.rank; ++a) {
      const int64 corner = (origin[a] + index[a]) * g.stride[a] - g.pad_begin[a];
      from = from * g.out_size[a] + origin[a] + index[a];
      to = to * g.image_size[a] + corner;
      at += corner * g.img_strides[a + 2];
    }
    const I* winner = winners + from;
    const Storage* row = grad_out + from;
    for (int64 x = 0; x < size[last]; ++x, to += g.stride[last], at += g.stride[last] * g.img_strides[last + 2]) {
      const I tap = winner[x];
      if ((int64)tap >= tap_count) continue;  // no tap won
      const int64 place = to + taps[tap];
      if ((uint64)place >= (uint64)reach.elements) continue;
      const Real grad = load(row[x]);
#if defined(SEMICONV_CONSTANT_DERIVATIVES)
      const Real a = 0, b = 0;
#else
      const int64 read = at + img_taps[tap];
      if (read < reach.lowest || read > reach.highest) continue;
      const Real a = load(img[read]), b = load(krn[tap]);
#endif
      if (grad_img) grad_img[place] += chained(grad, d_times_d_img(a, b));
      if (bins) bins[tap] += chained(grad, d_times_d_krn(a, b));
    }
    for (int a = last - 1; a >= 0 && ++index[a] == size[a]; --a) index[a] = 0;
  }
}

}  // namespace semiconv
