// The gradient of one operand of a matrix product; and the sum of its parts.
//
// Needs the semifield's macros and SEMICONV_STORAGE, SEMICONV_KERNEL, SEMICONV_RESIDUAL as backward.cuh, and
//   SEMICONV_OF_IMAGE   1 for the image's gradient, 0 for the kernel's
//   SEMICONV_JOIN       defined in the kernel that adds parts; absent in the one that leaves them
//
// "own" is the index of the operand whose gradient it is, f or p, and "other" that of the other operand:
//
//     grad[s, own, c] = sum over other of  grad_out[s, f, p] * d out / d term(c) * d term(c) / d own number
//
// From a provenance: only the winner of an output gets something. A warp owns a row (s, own) of the gradient
// and walks along the other index, 32 outputs at a time. Outputs with the same winner take turns, in the order
// of their lanes, so that two runs give the same bits.
//
//     winners of 8 outputs   3 7 3 1 7 3 0 2      turn 0: 3 7 . 1 . . 0 2     turn 1: . . 3 . 7 . . .
//                                                                             turn 2: . . . . . 3 . .
//
// Otherwise every term gets something. A lane owns `own_rows` gradients of one term c, keeps their own numbers
// in registers, and walks along the other index. What it needs of an output is the same in all lanes: each lane
// finds it for one of 32 outputs, in shared memory.
//
// Where gradients are few, warps share the other index: each leaves a part, and the same kernel with
// SEMICONV_JOIN adds the parts in order. No atomics.
#include "../accumulators.cuh"
#include "../product.cuh"
#include "this_thread.cuh"

namespace semiconv {

constexpr bool of_image = SEMICONV_OF_IMAGE;
constexpr int own_rows = 4;

struct ProductGradient {
  int64 matrices, own, other, terms;  // sizes
  int64 parts, part_size;             // of the other index
};

// The offset of an index in an array, by its levels: 'i' the image's stride, 'k' the kernel's, 'o' the result's.
template <char ARRAY> SEMICONV_FN int64 offset_in(const Level* levels, int64 count, int64 index) {
  int64 at = 0;
  uint32 rest = (uint32)index;  // the launcher sees to it that every index fits
  for (int l = (int)count - 1; l > 0; --l) {
    const uint32 size = (uint32)levels[l].size;
    at += rest % size * (ARRAY == 'i' ? levels[l].img : ARRAY == 'k' ? levels[l].krn : levels[l].out);
    rest /= size;
  }
  return at + rest * (ARRAY == 'i' ? levels[0].img : ARRAY == 'k' ? levels[0].krn : levels[0].out);
}
constexpr char own_array = of_image ? 'i' : 'k', other_array = of_image ? 'k' : 'i';

template <char ARRAY> SEMICONV_FN int64 at_own(const Product& g, int64 index) {
  return of_image ? offset_in<ARRAY>(g.free, g.free_levels, index)
                  : offset_in<ARRAY>(g.produced, g.produced_levels, index);
}
template <char ARRAY> SEMICONV_FN int64 at_other(const Product& g, int64 index) {
  return of_image ? offset_in<ARRAY>(g.produced, g.produced_levels, index)
                  : offset_in<ARRAY>(g.free, g.free_levels, index);
}
template <char ARRAY> SEMICONV_FN int64 at_matrix(const Product& g, int64 index) {
  return offset_in<ARRAY>(g.shared, g.shared_levels, index);
}
template <char ARRAY> SEMICONV_FN int64 at_term(const Product& g, int64 index) {
  return offset_in<ARRAY>(g.contracted, g.contracted_levels, index);
}

SEMICONV_FN Real d_own(Real own, Real other, const Setting& setting) {
  return of_image ? d_times_d_img(own, other, setting) : d_times_d_krn(other, own, setting);
}

// The settings of the kernels of one matrix; the kernel is the own index or the other one.
struct SettingsOf {
  const Product& g;
  int64 first_kernel;
  Setting first;
  SEMICONV_FN SettingsOf(const Product& g, int64 matrix)
      : g(g), first_kernel(matrix * g.matrix_step), first(g.parameters, first_kernel) {}
  SEMICONV_FN Setting operator()(int64 own, int64 other) const {
    return g.parameters.channels > 1 ? Setting(g.parameters, first_kernel + (of_image ? other : own)) : first;
  }
};

// d result / d term of one output, from what the forward pass kept.
template <class D, int RESIDUALS>
SEMICONV_FN D derivative_at(const Real* kept, int64 residual_plane, const Setting& setting) {
  if constexpr (RESIDUALS == 0) return D();
  else if constexpr (RESIDUALS == 1) return D(kept[0], setting);
  else return D(kept[0], kept[residual_plane], setting);
}

// The gradient of one output, and how it depends on its terms.
template <class D> struct Slope {
  Real given;
  D derivative;
};

// Where a gradient is written: into its array, or as a part, C-contiguous in (part, s, own, c).
struct Target {
  const Product& d;
  const ProductGradient& sizes;
  Real* grad;
  Real* partial;
  int64 part, matrix, row;
  int64 base;

  SEMICONV_FN Target(const Product& d, const ProductGradient& sizes, Real* grad, Real* partial, int64 part,
                     int64 matrix, int64 row)
      : d(d), sizes(sizes), grad(grad), partial(partial), part(part), matrix(matrix), row(row) {
    base = sizes.parts > 1 ? ((part * sizes.matrices + matrix) * sizes.own + row) * sizes.terms
                           : at_matrix<own_array>(d, matrix) + at_own<own_array>(d, row);
  }
  SEMICONV_FN Real& operator[](int64 term) const {
    return sizes.parts > 1 ? partial[base + term] : grad[base + at_term<own_array>(d, term)];
  }
};

}  // namespace semiconv

// g: where the numbers of img, krn and the residual lie; d: the same of the gradients and of grad_out.
extern "C" __global__ void __launch_bounds__(256, 2)
SEMICONV_KERNEL(const __grid_constant__ semiconv::Product g, const __grid_constant__ semiconv::Product d,
                const semiconv::Storage* __restrict__ grad_out, const semiconv::Storage* __restrict__ img,
                const semiconv::Storage* __restrict__ krn, const void* __restrict__ residual,
                semiconv::Real* grad, semiconv::Real* partial, long long residual_plane,
                const __grid_constant__ semiconv::ProductGradient sizes) {
  using namespace semiconv;
#if defined(SEMICONV_JOIN)
  const int64 elements = sizes.matrices * sizes.own * sizes.terms;
  const int64 n = (int64)this_block() * 256 + this_thread();
  if (n >= elements) return;
  double sum = 0;
  for (int64 part = 0; part < sizes.parts; ++part) sum += (double)partial[part * elements + n];
  const int64 term = n % sizes.terms, row = n / sizes.terms % sizes.own, matrix = n / sizes.terms / sizes.own;
  grad[at_matrix<own_array>(d, matrix) + at_own<own_array>(d, row) + at_term<own_array>(d, term)] = (Real)sum;
#else
  const int lane = this_thread() % 32;
  int64 work = (int64)this_block() * 8 + this_thread() / 32;
  const int64 part = work % sizes.parts;
  work /= sizes.parts;
  const int64 first = part * sizes.part_size;
  const int64 last = smaller_of(first + sizes.part_size, sizes.other);
#if defined(SEMICONV_PROVENANCE)
  const int64 row = work % sizes.own, matrix = work / sizes.own;
  if (matrix >= sizes.matrices) return;
  const Target target(d, sizes, grad, partial, part, matrix, row);
  const SettingsOf setting_of(g, matrix);
  for (int64 c = lane; c < sizes.terms; c += 32) target[c] = 0;
  __syncwarp();
  const int64 kept_at = at_matrix<'o'>(g, matrix) + at_own<'o'>(g, row);
  const int64 slope_at = at_matrix<'o'>(d, matrix) + at_own<'o'>(d, row);
  for (int64 begin = first; begin < last; begin += 32) {
    const int64 other = begin + lane;
    int32 winner = -1;
    Real value = 0;
    if (other < last) {
      winner = (int32)((const SEMICONV_RESIDUAL*)residual)[kept_at + at_other<'o'>(g, other)];
      value = load(grad_out[slope_at + at_other<'o'>(d, other)]);
    }
    const bool won = (uint32)winner < (uint32)sizes.terms;
    if (won) {
      Real own_number = 0, other_number = 0;
#if !defined(SEMICONV_CONSTANT_DERIVATIVES)
      const Storage *owns = of_image ? img : krn, *others = of_image ? krn : img;
      own_number = load(owns[at_matrix<own_array>(g, matrix) + at_own<own_array>(g, row) +
                             at_term<own_array>(g, winner)]);
      other_number = load(others[at_matrix<other_array>(g, matrix) + at_other<other_array>(g, other) +
                                 at_term<other_array>(g, winner)]);
#endif
      value = chained(value, d_own(own_number, other_number, setting_of(row, other)));
    }
    const uint32 same = __match_any_sync(0xffffffffu, won ? winner : -1);
    const int turn_of_lane = __popc(same & ((1u << lane) - 1));
    for (int turn = 0; __any_sync(0xffffffffu, won && turn_of_lane >= turn); ++turn) {
      if (won && turn_of_lane == turn) target[winner] += value;
      __syncwarp();
    }
  }
#else
  using Derivative = typename Differentiable<Real>::Derivative;
  constexpr int residuals = Differentiable<Real>::residuals;
  const int64 columns = ceil_div(sizes.terms, (int64)32), groups = ceil_div(sizes.own, (int64)own_rows);
  const int64 term = work % columns * 32 + lane;
  work /= columns;
  const int64 first_row = work % groups * own_rows, matrix = work / groups;
  if (matrix >= sizes.matrices) return;
  const bool exists = term < sizes.terms;
  const int64 some_term = exists ? term : 0;
  const Storage *owns = (of_image ? img : krn) + at_matrix<own_array>(g, matrix) + at_term<own_array>(g, some_term);
  const Storage* others =
      (of_image ? krn : img) + at_matrix<other_array>(g, matrix) + at_term<other_array>(g, some_term);
  using Slopes = Slope<Derivative>[own_rows][32];
  __shared__ Real numbers[8 * sizeof(Slopes) / sizeof(Real)];  // of each warp's slopes, which have constructors
  Slopes& slopes = ((Slopes*)numbers)[this_thread() / 32];
  Real own[own_rows];
  BlockedSum<Real> sum[own_rows];
#pragma unroll
  for (int r = 0; r < own_rows; ++r) {
    own[r] = load(owns[at_own<own_array>(g, smaller_of(first_row + r, sizes.own - 1))]);
    sum[r].start();
  }
  const Real* kept = (const Real*)residual + at_matrix<'o'>(g, matrix);
  const SettingsOf setting_of(g, matrix);
  const Storage* given = grad_out + at_matrix<'o'>(d, matrix);
  for (int64 begin = first; begin < last; begin += 32) {
    // Each lane looks at one of the next 32 outputs of every row, for all lanes.
    const int64 mine = smaller_of(begin + lane, last - 1);
    const int64 kept_at = at_other<'o'>(g, mine), given_at = at_other<'o'>(d, mine);
    __syncwarp();
#pragma unroll
    for (int r = 0; r < own_rows; ++r) {
      const int64 row = smaller_of(first_row + r, sizes.own - 1);
      slopes[r][lane] = {load(given[given_at + at_own<'o'>(d, row)]),
                         derivative_at<Derivative, residuals>(kept + kept_at + at_own<'o'>(g, row), residual_plane,
                                                              setting_of(row, mine))};
    }
    __syncwarp();
    const int count = last - begin < 32 ? (int)(last - begin) : 32;
    for (int n = 0; n < count; ++n) {
      const Real number = load(others[at_other<other_array>(g, begin + n)]);
#pragma unroll
      for (int r = 0; r < own_rows; ++r) {
        const Slope<Derivative> slope = slopes[r][n];
        const Setting setting = setting_of(smaller_of(first_row + r, sizes.own - 1), begin + n);
        const Real val = of_image ? times(own[r], number, setting) : times(number, own[r], setting);
        const Real flow = slope.given * slope.derivative(val, setting);
        sum[r].add(slope.given == 0 ? Real(0) : chained(flow, d_own(own[r], number, setting)));
      }
      if ((n + 1) % terms_per_fold == 0 || n + 1 == count) {
#pragma unroll
        for (int r = 0; r < own_rows; ++r) sum[r].fold();
      }
    }
  }
#pragma unroll
  for (int r = 0; r < own_rows; ++r)
    if (exists && first_row + r < sizes.own)
      Target(d, sizes, grad, partial, part, matrix, first_row + r)[term] = sum[r].result();
#endif
#endif
}
