// The gradients of ordinary matrix products: two more products.
//
//     grad_img[f, c] = sum over p of grad_out[f, p] krn[p, c]
//     grad_krn[p, c] = sum over f of grad_out[f, p] img[f, c]
//
// A level along which an operand was broadcast is summed, too. Where grad_out is 0 a term has no part in a
// gradient, even if its number is infinite or NaN: such a product makes the sum NaN. So the caller computes the
// gradients of which a sum is NaN term by term (product_backward.hpp); all others are right.
#pragma once
#include "product_backward.hpp"

namespace semiconv {

// Takes the sums of a gradient, and stores them.
class Stored {
  Real* grad;
  int& status;

 public:
  Stored(Real* grad_, int& status_) : grad(grad_), status(status_) {}
  template <int VECTORS, bool, class A>
  void take(const A* block, const uint32*, int rows, const Places& at, const Corner&) const {
    Mask nan{};  // lanes beyond the last column repeat that
    for (int j = 0; j < rows * VECTORS; ++j) {
      const Vector sum = block[j].result();
      nan |= sum != sum;
    }
    if (any(nan)) set_flag(status, unproven_sums);
    store_block<VECTORS>(grad, at, rows, [&](int j) { return block[j].result(); });
  }
};

// The gradient of one operand: a product of grad_out and the other operand, whose rows are the own indices and
// whose columns are the terms.
template <bool IMAGE> int gradient_by_product(const ProductBackward& call, Real* grad, int threads) {
  constexpr Stride mine = Side<IMAGE>::mine, theirs = IMAGE ? &Level::krn : &Level::img;
  const Side<IMAGE> side(call);
  Product result{side.batch.count, side.own.count, side.terms.count, 1, {}, {}, {}, {}, 0, {}};
  const auto lay = [](const TwinLevels& levels, Level* to) {
    for (int64 l = 0; l < levels.count; ++l) to[l] = Level{levels.slopes[l].size, 0, 0, levels.slopes[l].*mine};
  };
  lay(side.batch, result.shared), lay(side.own, result.free), lay(side.terms, result.produced);
  result.contracted[0] = Level{side.other.size(), 0, 0, 0};
  const Operand<Storage> image{call.grad_out, side.batch.slopes, side.own.slopes, side.other.slopes,
                               side.batch.count, side.own.count, side.other.count, &Level::out};
  const Operand<Storage> kernel{IMAGE ? call.krn : call.img, side.batch.values, side.terms.values,
                                side.other.values, side.batch.count, side.terms.count, side.other.count, theirs};
  int proof = success;
  const Stored sink(grad, proof);
  using A = Summation<Vector>;
  const int status =
      krn_along_lanes(result, 2 * lanes)
          ? run_product<A, rows_of<A>(), 2, true>(result, image, kernel, sink, threads)
          : run_product<A, rows_of<A>(), 2, false>(result, image, kernel, sink, threads);
  return status == success ? proof : status;
}

inline int product_linear_backward(const ProductBackward& call, Real* grad_img, Real* grad_krn, int threads) {
  int status = success;
  if (grad_img) status = gradient_by_product<true>(call, grad_img, threads);
  if (grad_krn && status == success) status = gradient_by_product<false>(call, grad_krn, threads);
  return status;
}

}  // namespace semiconv
