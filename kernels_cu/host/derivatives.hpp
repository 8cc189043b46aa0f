// The gradients of additions other than selections: every term receives its derivative times grad_out.
//
// Needs the derivatives of times. For an output of the accumulated value A(v_1, v_2, ...) with terms
// v_k = times(img_k, krn_k),
//
//   grad_img_k += grad_out * dA/dv_k * d_times_d_img(img_k, krn_k),   grad_krn_k likewise.
//
// dA/dv_k is the accumulator's Derivative: made once for an output from its residual, then called with
// v_k. img and the gradient of the image are the tile's scratch and its twin of the same layout.
#pragma once
#include "partition.hpp"

namespace semiconv {

template <class D, int RESIDUALS = Differentiable<Vector>::residuals>
SEMICONV_FN D load_derivative(const Backward& call, const Setting& setting, int64 at, int count, int64 step) {
  if constexpr (RESIDUALS == 0) return D();
  else {
    const Real* residual = (const Real*)call.residual + at;
    const Vector first = load_lanes(residual, count, step);
    if constexpr (RESIDUALS == 1) return D(first, setting);
    else return D(first, load_lanes(residual + call.plane, count, step), setting);
  }
}

// grad_out of N strips of one output channel, and the lanes in which it is not 0.
template <int N> struct GradOut {
  Vector of[N];
  Mask live[N];
  // step: elements from an output to the next one of its row.
  SEMICONV_FN GradOut(const Storage* grad_out, const Strip* strips, int used, int64 step) {
    for (int j = 0; j < N; ++j) {
      of[j] = load_lanes(grad_out + strips[j].to, j < used ? strips[j].count : 0, step);
      live[j] = of[j] != Vector{};
    }
  }
};

// Add the gradients through all taps of one input channel to `gradient` (laid out like the scratch)
// and to `bins`, one vector a tap; either may be null. `order` lists the taps column by column of the
// kernel (column_order says why).
template <int N, bool MASKED, class D>
SEMICONV_FN void differentiate_channel(const Real* scratch, const MaskLane* mask, Real* gradient,
                                       Vector* bins, const Strip* strips, const Taps& taps,
                                       const int32* order, const D* derivatives,
                                       const GradOut<N>& grad_out, const Setting& setting) {
  const auto loop = [&](const auto& of_kind) __attribute__((always_inline)) {
    for (int64 n = 0; n < taps.count; ++n) {
      const int64 t = order[n], offset = taps.offsets[t];
      const Vector krn = broadcast(taps.values[t]);
      Vector to_krn{};
  #pragma GCC unroll 8
      for (int j = 0; j < N; ++j) {
        const int64 place = strips[j].from + offset;
        const Vector img = load_vector<Vector>(scratch + place);
        // Where grad_out is 0, and outside the image, the derivative may be infinite or NaN.
        Mask keep = grad_out.live[j];
        if constexpr (MASKED) keep &= load_vector<Mask>(mask + place);
        const Vector flow = where(keep, derivatives[j](times(img, krn, of_kind), of_kind) * grad_out.of[j], Vector{});
        if (gradient) {
          const Vector part = chained_of_kind(flow, d_times_d_img(img, krn, of_kind), of_kind);
          store_vector(gradient + place, load_vector<Vector>(gradient + place) + part);
        }
        to_krn = to_krn + chained_of_kind(flow, d_times_d_krn(img, krn, of_kind), of_kind);
      }
      if (bins) bins[t] = bins[t] + to_krn;
    }
  };
  if constexpr (MASKED) loop(Outlined(setting));
  else by_kind(setting, loop);
}

// The same of all input channels, for `used` of N strips of one output channel, whose place is `plane`.
template <int N, bool MASKED>
__attribute__((noinline)) void differentiate_strips(
    const Geometry& g, const TapTable& table, int64 kernel, const Real* scratch, int64 channel_size,
    const MaskLane* mask, Real* gradient, Vector* bins, const int32* order, const Strip* strips,
    int used, const Backward& call, int64 plane, int64 pixels, int64 window) {
  const int64 step = g.out_strides[g.rank + 1];
  using D = typename Differentiable<Vector>::Derivative;
  const GradOut<N> grad_out(call.grad_out + plane, strips, used, step);
  const Setting setting(g.parameters, kernel);
  D derivatives[N];
  for (int64 i = 0; i < g.in_channels; ++i) {
    if (i == 0 || channels_add) {
      // With an axis of input channels, a residual is C-contiguous, and so is the output.
      const int64 at = channels_add ? plane * g.in_channels + i * pixels : plane;
      for (int j = 0; j < N; ++j)
        derivatives[j] = load_derivative<D>(call, setting, at + strips[j].to, strips[j].count, step);
    }
    differentiate_channel<N, MASKED>(
        scratch + i * channel_size, mask, gradient ? gradient + i * channel_size : nullptr,
        bins ? bins + i * window : nullptr, strips, table.of(kernel, i), order, derivatives, grad_out,
        setting);
  }
}

}  // namespace semiconv
