// The gradients of matrix products in log and root by ordinary sums: two more products.
//
// An output is restore(S), S = sum over c of E(img) E(krn), so that with the names of by_sums.cuh
//
//     grad_img = D(img) * sum over p of T E(krn),   grad_krn = D(krn) * sum over f of T E(img),
//     T = grad_out * d_restore(S) * scale(img's shift) * scale(krn's shift),
//     D(x) = d_transform(x) / scale(x's shift).
//
// In log all scales are 1, d_restore(S) = 1 / S and D = E. The transformed operands are those of
// product_by_sums.hpp. Where a sum proves nothing, or T is so large that these sums could leave the range, the
// caller computes the gradients by their own weights (product_backward.hpp).
#pragma once
#include "product_backward.hpp"
#include "product_by_sums.hpp"

namespace semiconv {

// Takes sums S of rows f and columns p, and makes T of grad_out in `slopes`, [batch][f][p].
class Quotients {
  const Setting& setting;
  const TransformedOperand &u, &v;
  const Roles<Real>& x;
  Real* slopes;
  int& status;
  const Real most;  // as large as its sums with weights of at most 1 allow

 public:
  Quotients(const Setting& setting_, const TransformedOperand& u_, const TransformedOperand& v_,
            const Roles<Real>& x_, Real* slopes_, int& status_)
      : setting(setting_), u(u_), v(v_), x(x_), slopes(slopes_), status(status_),
        most(Limits<Real>::largest / 4 / (Real)(x_.rows + x_.columns)) {}
  template <int VECTORS, bool, class A>
  void take(const A* block, const uint32*, int rows, const Places& at, const Corner& corner) const {
    const BySums<Vector> e(setting);
    for (int r = 0; r < rows; ++r)
      for (int w = 0; w < VECTORS; ++w) {
        const int64 row = corner.batch * x.rows + corner.row + r;
        const int64 column = corner.batch * x.columns + corner.column + w * lanes;
        const int count = (int)larger_of(0, smaller_of(lanes, at.count - w * lanes));
        const Vector sum = block[r * VECTORS + w].result();
        const Mask holds = proven(setting, sum, broadcast(u.shifts[row]), load_vector<Vector>(v.shifts + column),
                                  broadcast(u.smallest[row]) * load_vector<Vector>(v.smallest + column), x.terms);
        const Vector scale = BySums<Vector>::scale(broadcast(u.shifts[row])) *
                             BySums<Vector>::scale(load_vector<Vector>(v.shifts + column));
        const Mask none = (sum == Vector{}) & e.flat_at_zero();
        const Vector factor = where(none, Vector{}, Vector(e.d_restore(sum) * scale));
        const Mask proves = (Mask)holds & (none | (absolute(factor) < infinity<Vector>()));
        Real factors[lanes];
        MaskLane proven_lanes[lanes];
        store_vector(factors, factor);
        store_vector(proven_lanes, (Mask)proves);
        for (int i = 0; i < count; ++i) {
          Real& slope = slopes[at.rows[r] + at.columns[w * lanes + i]];
          slope = slope == 0 ? 0 : slope * factors[i];
          const bool within = slope <= most && -slope <= most;  // a NaN is not
          if (!proven_lanes[i] || !within) set_flag(status, unproven_sums);
        }
      }
  }
};

// D of an operand's numbers, laid out as its E.
class OwnDerivatives {
  AlignedBuffer<Real> values;

 public:
  const Real* numbers = nullptr;

  // False where the machine had not so much memory.
  bool fill(const Setting& setting, const Operand<Storage>& x, const TransformedOperand& e, int64 batches,
            int64 count, int64 terms, int threads) {
    if constexpr (BySums<Vector>::own_derivative) {
      numbers = e.numbers();
      return true;
    }
    const int64 rows = batches * count;
    if (!values.allocate(rows * e.pitch + lanes)) return false;
    numbers = values.data;
    const int64 some = larger_of(1, 4096 / e.pitch);  // rows of an item
    in_parallel(ceil_div(rows, some), threads, [&](Items& rest) {
      for (int64 item; rest.take(item);)
        for (int64 row = item * some; row < smaller_of(rows, (item + 1) * some); ++row) {
          Operand<Storage> operand = x;
          operand.data += Walk(x.shared, x.shared_levels, x.stride, row / count).offset;
          Real* const to = values.data + row * e.pitch;
          fill_panel(operand, row % count, 1, 0, terms, to, 1);
          for (int64 t = terms; t < e.pitch; ++t) to[t] = 0;
          const Vector shift = broadcast(e.shifts[row]);
          for (int64 t = 0; t < e.pitch; t += lanes) {
            const Vector own = BySums<Vector>(setting).d_transform(load_vector<Vector>(to + t), shift,
                                                           load_vector<Vector>(e.numbers() + row * e.pitch + t));
            store_vector(to + t, Vector(own / BySums<Vector>::scale(shift)));
          }
        }
    });
    return true;
  }
};

// Takes the sums of a gradient, and stores them times D of the operand itself.
class Scaled {
  const Real* own;  // [batch][own][term]
  int64 pitch, owns;
  Real* grad;
  int64 row_step, column_step;  // terms lie along the columns if the kernel does, else along the rows

 public:
  Scaled(const Real* own_, int64 pitch_, int64 owns_, Real* grad_, bool krn_is_vector)
      : own(own_), pitch(pitch_), owns(owns_), grad(grad_), row_step(krn_is_vector ? pitch : 1),
        column_step(krn_is_vector ? 1 : pitch) {}
  template <int VECTORS, bool, class A>
  void take(const A* block, const uint32*, int rows, const Places& at, const Corner& corner) const {
    const Real* const from = own + corner.batch * owns * pitch;
    store_block<VECTORS>(grad, at, rows, [&](int j) {
      Real factors[lanes];
      for (int i = 0; i < lanes; ++i) {
        const int64 r = corner.row + j / VECTORS;
        const int64 c = corner.column + smaller_of(j % VECTORS * lanes + i, at.count - 1);
        factors[i] = from[r * row_step + c * column_step];
      }
      const Vector sum = block[j].result();
      return where(sum == Vector{}, Vector{}, Vector(sum * load_vector<Vector>(factors)));
    });
  }
};

// The levels of one gradient, with their strides in it as those of a result.
inline Product layout_of(const Product& g, bool of_image) {
  const Stride mine = of_image ? Side<true>::mine : Side<false>::mine;
  const int64 own_levels = of_image ? g.free_levels : g.produced_levels;
  Product q{g.shared_levels, own_levels, g.contracted_levels, 0, {}, {}, {}, {}, 0, {}};
  for (int64 l = 0; l < q.shared_levels; ++l) q.shared[l] = Level{g.shared[l].size, 0, 0, g.shared[l].*mine};
  for (int64 l = 0; l < q.free_levels; ++l) {
    const Level& level = of_image ? g.free[l] : g.produced[l];
    q.free[l] = Level{level.size, 0, 0, level.*mine};
  }
  for (int64 l = 0; l < q.produced_levels; ++l)
    q.produced[l] = Level{g.contracted[l].size, 0, 0, g.contracted[l].*mine};
  return q;
}

// The gradient of one operand: `rows` own indices, `others` of the other operand, of each batch.
inline int gradient_by_sums(bool of_image, const Product& g, const Real* slopes, const OwnDerivatives& mine,
                            const TransformedOperand& other, int64 rows, int64 others, int64 terms, Real* grad,
                            int threads) {
  const int64 batches = size_of(g.shared, g.shared_levels);
  Product q = layout_of(g, of_image);
  q.contracted_levels = 1;
  q.contracted[0] = Level{others, 0, 0, 0};
  const Level batch{batches, rows * others, others * other.pitch, 0};
  const Level own{rows, of_image ? others : 1, 0, 0}, term{terms, 0, 1, 0};
  const Level sum{others, of_image ? 1 : rows, other.pitch, 0};
  const Operand<Real> image{slopes, &batch, &own, &sum, 1, 1, 1, &Level::img};
  const Operand<Real> kernel{other.numbers(), &batch, &term, &sum, 1, 1, 1, &Level::krn};
  using A = Products<Vector>;
  const bool krn_is_vector = krn_along_lanes(q, 2 * lanes);
  const Scaled sink(mine.numbers, other.pitch, rows, grad, krn_is_vector);
  return run_plain_product<A, rows_of<A>(), 2>(q, image, kernel, sink, krn_is_vector, threads);
}

inline int product_by_sums_backward(const ProductBackward& call, Real* grad_img, Real* grad_krn, int threads) {
  const Product &p = call.product, &g = call.gradients;
  const bool krn_is_vector = krn_along_lanes(p, 2 * lanes);
  const auto direct = roles_of(p, image_of(p, call.img), kernel_of(p, call.krn), krn_is_vector);
  const Setting setting(p.parameters, 0);
  TransformedOperand u, v;
  OwnDerivatives of_u, of_v;
  Buffer<Real> slopes;
  if (!u.fill(setting, direct.u, direct.batches, direct.rows, direct.terms, threads) ||
      !v.fill(setting, direct.v, direct.batches, direct.columns, direct.terms, threads) ||
      !of_u.fill(setting, direct.u, u, direct.batches, direct.rows, direct.terms, threads) ||
      !of_v.fill(setting, direct.v, v, direct.batches, direct.columns, direct.terms, threads) ||
      !slopes.allocate(direct.batches * direct.rows * direct.columns))
    return out_of_memory;
  const auto &image = krn_is_vector ? u : v, &kernel = krn_is_vector ? v : u;
  const auto &of_image = krn_is_vector ? of_u : of_v, &of_kernel = krn_is_vector ? of_v : of_u;
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
  Product flat{1, 1, 1, 1, {}, {}, {}, {}, 0, {}};
  flat.shared[0] = Level{direct.batches, 0, 0, free * produced};
  flat.free[0] = Level{free, 0, 0, produced};
  flat.produced[0] = Level{produced, 0, 0, 1};
  flat.contracted[0] = Level{direct.terms, 0, 0, 0};
  using A = Products<Vector>;
  int proof = success;
  const auto roles = roles_of(flat, image.operand(), kernel.operand(), krn_is_vector);
  const Quotients sink(setting, u, v, roles, slopes.data, proof);
  int status = run_plain_product<A, rows_of<A>(), 2>(flat, image.operand(), kernel.operand(), sink, krn_is_vector,
                                                     threads);
  if (status == success) status = proof;
  if (status == success && grad_img)
    status = gradient_by_sums(true, g, slopes.data, of_image, kernel, free, produced, direct.terms, grad_img, threads);
  if (status == success && grad_krn)
    status = gradient_by_sums(false, g, slopes.data, of_kernel, image, produced, free, direct.terms, grad_krn, threads);
  return status;
}

}  // namespace semiconv
