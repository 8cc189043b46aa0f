// The gradients of matrix products in log by ordinary sums: two more products.
//
// An output is ln(S) / mu, S = sum over c of E(img) E(krn), so that a term's weight is E(img) E(krn) / S:
//
//     grad_img = E(img) * sum over p of T E(krn),   grad_krn = E(krn) * sum over f of T E(img),
//
// where T = grad_out / S. The transformed operands are those of product_by_sums.hpp, and their shifts cancel.
// Where a sum proves nothing, the caller computes the gradients by their own weights (product_backward.hpp).
#pragma once
#include "product_backward.hpp"
#include "product_by_sums.hpp"

namespace semiconv {

constexpr int unproven_sums = 2;  // beside the values of Status

// Takes sums S of rows f and columns p, and divides what `slopes` holds, [batch][f][p], by them.
template <bool KRN_IS_VECTOR> class Quotients {
  const TransformedOperand &u, &v;
  const Roles<Real>& x;
  Real* slopes;
  int& status;

 public:
  Quotients(const TransformedOperand& u_, const TransformedOperand& v_, const Roles<Real>& x_, Real* slopes_,
            int& status_)
      : u(u_), v(v_), x(x_), slopes(slopes_), status(status_) {}
  template <int VECTORS, class A>
  void take(const A* block, const uint32*, int rows, const Places& at, const Corner& corner) const {
    for (int r = 0; r < rows; ++r)
      for (int w = 0; w < VECTORS; ++w) {
        const int64 row = corner.batch * x.rows + corner.row + r;
        const int64 column = corner.batch * x.columns + corner.column + w * lanes;
        const int count = (int)larger_of(0, smaller_of(lanes, at.count - w * lanes));
        const Vector sum = block[r * VECTORS + w].result();
        const Mask holds = proven(sum, broadcast(u.shifts[row]), load_vector<Vector>(v.shifts + column),
                                  broadcast(u.smallest[row]) * load_vector<Vector>(v.smallest + column), x.terms);
        if (any(first_lanes(count) & ~holds)) set_flag(status, unproven_sums);
        const Vector factor = where(sum == Vector{}, Vector{}, BySums<Vector>::d_restore(sum));
        Real factors[lanes];
        store_vector(factors, factor);
        for (int i = 0; i < count; ++i) {
          Real& slope = slopes[at.rows[r] + at.columns[w * lanes + i]];
          slope = slope == 0 ? 0 : slope * factors[i];
        }
      }
  }
};

// Takes the sums of a gradient, and stores them times E of the operand itself.
template <bool KRN_IS_VECTOR> class Scaled {
  const Real* own;  // [batch][own][term]
  int64 pitch, owns;
  Real* grad;

 public:
  Scaled(const Real* own_, int64 pitch_, int64 owns_, Real* grad_)
      : own(own_), pitch(pitch_), owns(owns_), grad(grad_) {}
  template <int VECTORS, class A>
  void take(const A* block, const uint32*, int rows, const Places& at, const Corner& corner) const {
    const Real* const from = own + corner.batch * owns * pitch;
    store_block<VECTORS>(grad, at, rows, [&](int j) {
      Real factors[lanes];
      for (int i = 0; i < lanes; ++i) {
        const int64 r = corner.row + j / VECTORS;
        const int64 c = corner.column + smaller_of(j % VECTORS * lanes + i, at.count - 1);
        factors[i] = KRN_IS_VECTOR ? from[r * pitch + c] : from[c * pitch + r];
      }
      return Vector(block[j].result() * load_vector<Vector>(factors));
    });
  }
};

// The levels of one gradient, with their strides in it as those of a result.
template <bool IMAGE> Product layout_of(const Product& g) {
  constexpr Stride mine = Side<IMAGE>::mine;
  Product q{g.shared_levels, IMAGE ? g.free_levels : g.produced_levels, g.contracted_levels, 0, {}, {}, {}, {}};
  for (int64 l = 0; l < q.shared_levels; ++l) q.shared[l] = Level{g.shared[l].size, 0, 0, g.shared[l].*mine};
  for (int64 l = 0; l < q.free_levels; ++l) {
    const Level& level = IMAGE ? g.free[l] : g.produced[l];
    q.free[l] = Level{level.size, 0, 0, level.*mine};
  }
  for (int64 l = 0; l < q.produced_levels; ++l)
    q.produced[l] = Level{g.contracted[l].size, 0, 0, g.contracted[l].*mine};
  return q;
}

// The gradient of one operand: `rows` own indices, `others` of the other operand, of each batch.
template <bool IMAGE>
int gradient_by_sums(const Product& g, const Real* slopes, const TransformedOperand& mine,
                     const TransformedOperand& other, int64 rows, int64 others, int64 terms, Real* grad,
                     int threads) {
  const int64 batches = size_of(g.shared, g.shared_levels);
  Product q = layout_of<IMAGE>(g);
  q.contracted_levels = 1;
  q.contracted[0] = Level{others, 0, 0, 0};
  const Level batch{batches, rows * others, others * other.pitch, 0};
  const Level own{rows, IMAGE ? others : 1, 0, 0}, term{terms, 0, 1, 0};
  const Level sum{others, IMAGE ? 1 : rows, other.pitch, 0};
  const Operand<Real> image{slopes, &batch, &own, &sum, 1, 1, 1, &Level::img};
  const Operand<Real> kernel{other.numbers(), &batch, &term, &sum, 1, 1, 1, &Level::krn};
  using A = Products<Vector>;
  if (krn_along_lanes(q, 2 * lanes))
    return run_product<A, rows_of<A>(), 2, true>(
        q, image, kernel, Scaled<true>(mine.numbers(), mine.pitch, rows, grad), threads);
  return run_product<A, rows_of<A>(), 2, false>(
      q, image, kernel, Scaled<false>(mine.numbers(), mine.pitch, rows, grad), threads);
}

template <bool KRN_IS_VECTOR>
int product_by_sums_backward(const ProductBackward& call, Real* grad_img, Real* grad_krn, int threads) {
  const Product &p = call.product, &g = call.gradients;
  const auto direct = roles_of(p, image_of(p, call.img), kernel_of(p, call.krn), KRN_IS_VECTOR);
  TransformedOperand u, v;
  Buffer<Real> slopes;
  if (!u.fill(direct.u, direct.batches, direct.rows, direct.terms, threads) ||
      !v.fill(direct.v, direct.batches, direct.columns, direct.terms, threads) ||
      !slopes.allocate(direct.batches * direct.rows * direct.columns))
    return out_of_memory;
  const auto &image = KRN_IS_VECTOR ? u : v, &kernel = KRN_IS_VECTOR ? v : u;
  const int64 free = size_of(p.free, p.free_levels), produced = size_of(p.produced, p.produced_levels);

  // grad_out as [batch][f][p].
  in_parallel(direct.batches * free, threads, [&](Items& rest) {
    for (int64 item; rest.take(item);) {
      Walk walk(g.produced, g.produced_levels, &Level::out, 0);
      const Storage* const from = call.grad_out +
                                  Walk(g.shared, g.shared_levels, &Level::out, item / free).offset +
                                  Walk(g.free, g.free_levels, &Level::out, item % free).offset;
      for (int64 n = 0; n < produced; ++n, walk.skip(1)) slopes.data[item * produced + n] = load(from[walk.offset]);
    }
  });
  Product flat{1, 1, 1, 1, {}, {}, {}, {}};
  flat.shared[0] = Level{direct.batches, 0, 0, free * produced};
  flat.free[0] = Level{free, 0, 0, produced};
  flat.produced[0] = Level{produced, 0, 0, 1};
  flat.contracted[0] = Level{direct.terms, 0, 0, 0};
  using A = Products<Vector>;
  int proof = success;
  const auto roles = roles_of(flat, image.operand(), kernel.operand(), KRN_IS_VECTOR);
  const Quotients<KRN_IS_VECTOR> sink(u, v, roles, slopes.data, proof);
  int status = run_product<A, rows_of<A>(), 2, KRN_IS_VECTOR>(flat, image.operand(), kernel.operand(), sink, threads);
  if (status == success) status = proof;
  if (status == success && grad_img)
    status = gradient_by_sums<true>(g, slopes.data, image, kernel, free, produced, direct.terms, grad_img, threads);
  if (status == success && grad_krn)
    status = gradient_by_sums<false>(g, slopes.data, kernel, image, produced, free, direct.terms, grad_krn, threads);
  return status;
}

}  // namespace semiconv
