// The derivative of one output by one of its terms, for all gradient kernels.
//
// Needs what forward.cu needs; SEMICONV_RESIDUAL is the provenance's type or Real.
#pragma once
#include "../window.cuh"

namespace semiconv {

// The arrays of one call; grad_out is C-contiguous. img and krn are not read where the derivative
// needs neither (a provenance, and a multiplication with constant derivatives).
struct Differentiated {
  const Storage *grad_out, *img, *krn;
  const void* residual;
  int64 residual_plane;  // elements between the residual's arrays
};

// d result / d term at the output whose residual lies at `at`: whether a tap won, or a function of the term.
struct OutputDerivative {
#if defined(SEMICONV_PROVENANCE)
  int32 winner;
  SEMICONV_FN OutputDerivative(const Differentiated& d, const Setting&, int64 at)
      : winner((int32)((const SEMICONV_RESIDUAL*)d.residual)[at]) {}
  SEMICONV_FN bool won(int32 tap) const { return winner == tap; }
#else
  using Derivative = typename Differentiable<Real>::Derivative;
  const Setting& setting;
  Derivative derivative;
  SEMICONV_FN OutputDerivative(const Differentiated& d, const Setting& s, int64 at)
      : setting(s), derivative(make<Derivative, Differentiable<Real>::residuals>(d, s, at)) {}
  SEMICONV_FN Real operator()(Real val) const { return derivative(val, setting); }

 private:
  template <class W, int RESIDUALS> static SEMICONV_FN W make(const Differentiated& d, const Setting& s, int64 at) {
    const Real* residual = (const Real*)d.residual + at;
    if constexpr (RESIDUALS == 0) return W();
    else if constexpr (RESIDUALS == 1) return W(residual[0], s);
    else return W(residual[0], residual[d.residual_plane], s);
  }
#endif
};

// The factors of one term, (output, tap), in the arrays.
struct Term {
  int64 img, krn;  // elements from the arrays' first
  int32 tap;       // flat index over (channel, kernel position)
};

// grad_out times d out / d term, and the factors of the term; all 0 where the term gets nothing. The winner
// is read first: most taps did not win, and then grad_out need not be loaded.
struct TermGradient {
  const Setting& setting;
  Real value, img, krn;
  SEMICONV_FN TermGradient(const Differentiated& d, const Setting& s, const Term& term, int64 output,
                           int64 residual_at)
      : setting(s), value(0), img(0), krn(0) {
#if defined(SEMICONV_PROVENANCE)
    if (!OutputDerivative(d, setting, residual_at).won(term.tap)) return;
    value = load(d.grad_out[output]);
#if !defined(SEMICONV_CONSTANT_DERIVATIVES)
    img = load(d.img[term.img]);
    krn = load(d.krn[term.krn]);
#endif
#else
    value = load(d.grad_out[output]);
    if (value == 0) return;
    img = load(d.img[term.img]);
    krn = load(d.krn[term.krn]);
    value *= OutputDerivative(d, setting, residual_at)(times(img, krn, setting));
#endif
  }
  SEMICONV_FN Real to_img() const { return chained(value, d_times_d_img(img, krn, setting)); }
  SEMICONV_FN Real to_krn() const { return chained(value, d_times_d_krn(img, krn, setting)); }
};

// Where the residual of an output lies: one for each input channel if channels add, else one.
template <class I>
SEMICONV_FN I residual_place(const Geometry& g, I plane, int32 channel, I pixel, I pixels) {
#if defined(SEMICONV_CHANNELS_ADD)
  return (plane * (I)g.in_channels + channel) * pixels + pixel;
#else
  return plane * pixels + pixel;
#endif
}

}  // namespace semiconv
