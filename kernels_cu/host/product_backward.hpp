// The gradients of matrix products: of each operand by itself, from the gradient of the result.
//
// Seen from one operand, whose `own` index is the free or the produced one, every other index of the result
// adds to its gradient:
//
//     grad[batch, own, term] = sum over other of
//         grad_out * d out / d value * d value / d number,   value = times(img[...], krn[...])
//
// A level along which the operand was broadcast is one of the others. Threads share the own indices; each
// sum is added up in the order of the other indices, so that their number changes no bit. A selection's
// winner receives all (scatter); of other additions each term has a weight, from the residual (share).
#pragma once
#include "parallel.hpp"
#include "product.hpp"

namespace semiconv {

// Beside the values of Status: gradients by two more products prove nothing, and the caller computes them term by term.
constexpr int unproven_sums = 2;

// The arrays of one call. `product` has the strides of img, krn and the residual, `gradients` those of
// grad_img, grad_krn and grad_out, level by level.
struct ProductBackward {
  const Product &product, &gradients;
  const Storage *grad_out, *img, *krn;  // img and krn: null where the derivatives are constants
  const void* residual;
  int64 itemsize, plane;  // of the residual: bytes of a winner, elements from one array to the next
};

// Levels with the strides of operands and residual, and the same levels with those of the gradients.
struct TwinLevels {
  Level values[2 * max_levels], slopes[2 * max_levels];
  int64 count = 0;
  void add(const Level& value, const Level& slope) {
    values[count] = value;
    slopes[count++] = slope;
  }
  int64 size() const { return size_of(values, count); }
  // Where index `start` and the next ones lie in the array of these strides.
  void offsets(bool of_slopes, Stride stride, int64 start, int64 some, int64* to) const {
    Walk walk(of_slopes ? slopes : values, count, stride, start);
    for (int64 i = 0; i < some;) {
      const int64 few = smaller_of(walk.run(), some - i), pitch = walk.pitch();
      for (int64 n = 0; n < few; ++n) to[i++] = walk.offset + n * pitch;
      walk.skip(few);
    }
  }
  int64 offset(bool of_slopes, Stride stride, int64 index) const {
    return Walk(of_slopes ? slopes : values, count, stride, index).offset;
  }
};

// The indices of a result as one operand sees them.
template <bool IMAGE> struct Side {
  static constexpr Stride mine = IMAGE ? &Level::img : &Level::krn;
  TwinLevels batch, own, other, terms;

  explicit Side(const ProductBackward& call) {
    const Product &p = call.product, &g = call.gradients;
    const auto sort = [&](const Level* values, const Level* slopes, int64 count, TwinLevels& present) {
      for (int64 l = 0; l < count; ++l)
        (slopes[l].*mine ? present : other).add(values[l], slopes[l]);
    };
    sort(p.shared, g.shared, p.shared_levels, batch);
    if (IMAGE) sort(p.free, g.free, p.free_levels, own);
    else sort(p.produced, g.produced, p.produced_levels, own);
    for (int64 l = 0; l < (IMAGE ? p.produced_levels : p.free_levels); ++l)
      other.add(IMAGE ? p.produced[l] : p.free[l], IMAGE ? g.produced[l] : g.free[l]);
    for (int64 l = 0; l < p.contracted_levels; ++l) terms.add(p.contracted[l], g.contracted[l]);
  }
};

#if defined(SEMICONV_PROVENANCE)

// Own indices first .. first + count - 1 of a batch. `sums` has room for count x terms numbers, `places`
// for 4 x count. `term_places`: where the terms lie in the gradient, in img and in krn.
template <bool IMAGE, class I>
void scatter(const ProductBackward& call, const Side<IMAGE>& side, int64 batch, int64 first, int64 count,
             int64 terms, const int64* const* term_places, double* sums, int64* places, Real* grad) {
  constexpr Stride mine = Side<IMAGE>::mine;
  memset(sums, 0, count * terms * sizeof(double));
  int64 *const slope = places, *const winner = places + count, *const img = places + 2 * count,
        *const krn = places + 3 * count;
  side.own.offsets(true, &Level::out, first, count, slope);
  side.own.offsets(false, &Level::out, first, count, winner);
  side.own.offsets(false, &Level::img, first, count, img);
  side.own.offsets(false, &Level::krn, first, count, krn);
  const Storage* const grad_out = call.grad_out + side.batch.offset(true, &Level::out, batch);
  const I* const winners = (const I*)call.residual + side.batch.offset(false, &Level::out, batch);
  const int64 img_batch = side.batch.offset(false, &Level::img, batch);
  const int64 krn_batch = side.batch.offset(false, &Level::krn, batch);
  const auto walk = [&](bool of_slopes, Stride stride) {
    return Walk(of_slopes ? side.other.slopes : side.other.values, side.other.count, stride, 0);
  };
  Walk of_slope = walk(true, &Level::out), of_winner = walk(false, &Level::out);
  Walk of_img = walk(false, &Level::img), of_krn = walk(false, &Level::krn);
  const Product& product = call.product;
  const int64 produced = size_of(product.produced, product.produced_levels);
  const auto setting_of = [&](int64 kernel) {
    return Setting(product.parameters, batch * product.matrix_step + kernel % produced);
  };
  const int64 others = side.other.size();
  for (int64 o = 0; o < others; ++o) {
    for (int64 i = 0; i < count; ++i) {
      const int64 term = (int64)winners[of_winner.offset + winner[i]];
      if (term >= terms) continue;  // no term won
      const Real flow = load(grad_out[of_slope.offset + slope[i]]);
#if defined(SEMICONV_CONSTANT_DERIVATIVES)
      const Real a = 0, b = 0;
#else
      const Real a = load(call.img[img_batch + of_img.offset + img[i] + term_places[1][term]]);
      const Real b = load(call.krn[krn_batch + of_krn.offset + krn[i] + term_places[2][term]]);
#endif
      const Setting setting = setting_of(IMAGE ? o : first + i);
      sums[i * terms + term] += chained(flow, IMAGE ? d_times_d_img(a, b, setting) : d_times_d_krn(a, b, setting));
    }
    of_slope.skip(1), of_winner.skip(1), of_img.skip(1), of_krn.skip(1);
  }
  side.own.offsets(true, mine, first, count, slope);
  Real* const to = grad + side.batch.offset(true, mine, batch);
  // Where the terms are not contiguous in the gradient, a few at a time: then the next own index finds the
  // lines of the cache that the last one began to fill.
  const bool contiguous = terms > 1 && term_places[0][1] - term_places[0][0] == 1;
  const int64 some = contiguous ? terms : 16;
  for (int64 begin = 0; begin < terms; begin += some)
    for (int64 i = 0; i < count; ++i)
      for (int64 t = begin; t < smaller_of(begin + some, terms); ++t)
        to[slope[i] + term_places[0][t]] = (Real)sums[i * terms + t];
}

template <bool IMAGE> int gradient_of(const ProductBackward& call, Real* grad, int threads) {
  const Side<IMAGE> side(call);
  const int64 terms = side.terms.size(), owns = side.own.size();
  Buffer<int64> places;
  if (!places.allocate(3 * terms)) return out_of_memory;
  const int64* const term_places[] = {places.data, places.data + terms, places.data + 2 * terms};
  side.terms.offsets(true, Side<IMAGE>::mine, 0, terms, places.data);
  side.terms.offsets(false, &Level::img, 0, terms, places.data + terms);
  side.terms.offsets(false, &Level::krn, 0, terms, places.data + 2 * terms);
  const int64 room = 256 * 1024 / sizeof(double);  // numbers within the L2 cache
  int64 some = smaller_of(owns, larger_of(1, smaller_of(64, room / larger_of(1, terms))));
  const int64 blocks = ceil_div(owns, some);
  int status = success;
  in_parallel(side.batch.size() * blocks, threads, [&](Items& rest) {
    thread_local Workspace workspace;
    char* const memory = (char*)workspace.reserve(some * (terms * sizeof(double) + 4 * sizeof(int64)) + 64);
    if (!memory) {
      set_flag(status, out_of_memory);
      return;
    }
    double* const sums = (double*)memory;
    int64* const own_places = (int64*)(sums + some * terms);
    for (int64 item; rest.take(item);) {
      const int64 first = item % blocks * some, count = smaller_of(some, owns - first);
      const auto run = call.itemsize == 1   ? scatter<IMAGE, uint8>
                       : call.itemsize == 2 ? scatter<IMAGE, uint16>
                                            : scatter<IMAGE, uint32>;
      run(call, side, item / blocks, first, count, terms, term_places, sums, own_places, grad);
    }
    workspace.release_beyond(kept_bytes);
  });
  return status;
}

#else

// What one thread has for a block of `rows` own indices, a panel of terms and a block of other indices.
template <bool IMAGE> class Shares {
  using D = typename Differentiable<Vector>::Derivative;
  static constexpr Stride mine = Side<IMAGE>::mine, theirs = IMAGE ? &Level::krn : &Level::img;
  static constexpr int vectors = 2;

 public:
  static constexpr int64 rows = 32, width = vectors * lanes, others = 64;

 private:
  alignas(64) Real own[rows * width + 16], other[others * width + 16];
  Real slope[others * rows], residuals[2][others * rows];
  Setting settings[others > rows ? others : rows];  // of the kernels of the block: of one, where all are equal
  bool by_channel;
  BlockedSum<Vector> sums[rows * vectors];
  int64 places[3 * width + 2 * rows + 2 * others];

 public:
  // The gradient of terms first_term .. of own indices first .. first + count - 1.
  void run(const ProductBackward& call, const Side<IMAGE>& side, int64 batch, int64 first, int64 count,
           int64 first_term, Real* grad) {
    const int64 terms = smaller_of(width, side.terms.size() - first_term), all = side.other.size();
    for (int64 j = 0; j < count * vectors; ++j) sums[j].start();
    const Storage* const my_data = (IMAGE ? call.img : call.krn) + side.batch.offset(false, mine, batch);
    const Storage* const their_data = (IMAGE ? call.krn : call.img) + side.batch.offset(false, theirs, batch);
    const auto panel = [&](const Storage* data, const TwinLevels& levels, Stride stride, int64 from,
                           int64 some, Real* to) {
      fill_panel(Operand<Storage>{data, nullptr, side.terms.values, levels.values, 0, side.terms.count,
                                  levels.count, stride},
                 first_term, terms, from, some, to, width);
    };
    panel(my_data, side.own, mine, first, count, own);
    for (int64 o = 0; o < all; o += others) {
      const int64 some = smaller_of(others, all - o);
      panel(their_data, side.other, theirs, o, some, other);
      gather(call, side, batch, first, count, o, some);
      set(call, batch, IMAGE ? o : first, IMAGE ? some : count);
      for (int64 i = 0; i < count; ++i) add(i, some);
    }
    int64 *const term_place = places, *const own_place = places + width;
    side.terms.offsets(true, mine, first_term, terms, term_place);
    side.own.offsets(true, mine, first, count, own_place);
    Real* const to = grad + side.batch.offset(true, mine, batch);
    for (int64 i = 0; i < count; ++i) {
      Real numbers[width];
      for (int w = 0; w < vectors; ++w) store_vector(numbers + w * lanes, sums[i * vectors + w].result());
      for (int64 t = 0; t < terms; ++t) to[own_place[i] + term_place[t]] = numbers[t];
    }
  }

 private:
  // grad_out and residual of a block of outputs.
  void gather(const ProductBackward& call, const Side<IMAGE>& side, int64 batch, int64 first, int64 count,
              int64 first_other, int64 some) {
    int64 *const own_place = places, *const other_place = places + rows;
    for (int kind = 0; kind <= Differentiable<Vector>::residuals; ++kind) {
      const bool of_slopes = kind == 0;
      if (kind < 2) {
        side.own.offsets(of_slopes, &Level::out, first, count, own_place);
        side.other.offsets(of_slopes, &Level::out, first_other, some, other_place);
      }
      const int64 begin = side.batch.offset(of_slopes, &Level::out, batch);
      for (int64 o = 0; o < some; ++o)
        for (int64 i = 0; i < count; ++i) {
          const int64 at = begin + own_place[i] + other_place[o];
          if (of_slopes) slope[o * rows + i] = load(call.grad_out[at]);
          else residuals[kind - 1][o * rows + i] = ((const Real*)call.residual)[(kind - 1) * call.plane + at];
        }
    }
  }
  // The settings of kernels first .. first + count - 1, or of all.
  void set(const ProductBackward& call, int64 batch, int64 first, int64 count) {
    const Parameters& parameters = call.product.parameters;
    by_channel = parameters.channels > 1;
    const int64 produced = size_of(call.product.produced, call.product.produced_levels);
    for (int64 i = 0; i < (by_channel ? count : 1); ++i)
      settings[i] = Setting(parameters, batch * call.product.matrix_step + (first + i) % produced);
  }
  // A template, as only the constructor that is called exists.
  template <class Made = D> SEMICONV_FN Made derivative(int64 at, const Setting& setting) const {
    if constexpr (Differentiable<Vector>::residuals == 0) return Made();
    else if constexpr (Differentiable<Vector>::residuals == 1) return Made(broadcast(residuals[0][at]), setting);
    else return Made(broadcast(residuals[0][at]), broadcast(residuals[1][at]), setting);
  }
  __attribute__((noinline)) void add(int64 i, int64 some) {
    Vector number[vectors];
    BlockedSum<Vector> sum[vectors];
    for (int w = 0; w < vectors; ++w) {
      number[w] = load_vector<Vector>(own + i * width + w * lanes);
      sum[w] = sums[i * vectors + w];
    }
    for (int64 begin = 0; begin < some; begin += terms_per_fold) {
      for (int64 o = begin; o < smaller_of(begin + terms_per_fold, some); ++o) {
        const Real grad = slope[o * rows + i];
        if (grad == 0) continue;  // the derivative may be infinite or NaN
        const Setting& setting = settings[by_channel ? (IMAGE ? o : i) : 0];
        const D d = derivative(o * rows + i, setting);
        by_kind(setting, [&](const auto& of_kind) __attribute__((always_inline)) {
#pragma GCC unroll 4
          for (int w = 0; w < vectors; ++w) {
            const Vector factor = load_vector<Vector>(other + o * width + w * lanes);
            const Vector a = IMAGE ? number[w] : factor, b = IMAGE ? factor : number[w];
            const Vector flow = d(times(a, b, of_kind), of_kind) * broadcast(grad);
            sum[w].add(chained(flow, IMAGE ? d_times_d_img(a, b, of_kind) : d_times_d_krn(a, b, of_kind)));
          }
        });
      }
      for (int w = 0; w < vectors; ++w) sum[w].fold();
    }
    for (int w = 0; w < vectors; ++w) sums[i * vectors + w] = sum[w];
  }
};

template <bool IMAGE> int gradient_of(const ProductBackward& call, Real* grad, int threads) {
  using S = Shares<IMAGE>;
  const Side<IMAGE> side(call);
  const int64 owns = side.own.size();
  const int64 blocks = ceil_div(owns, S::rows), panels = ceil_div(side.terms.size(), S::width);
  int status = success;
  in_parallel(side.batch.size() * blocks * panels, threads, [&](Items& rest) {
    AlignedBuffer<S> shares;
    if (!shares.allocate(1)) {
      set_flag(status, out_of_memory);
      return;
    }
    for (int64 item; rest.take(item);) {
      const int64 first = item / panels % blocks * S::rows;
      shares.data->run(call, side, item / panels / blocks, first, smaller_of(S::rows, owns - first),
                       item % panels * S::width, grad);
    }
  });
  return status;
}

#endif

inline int product_backward(const ProductBackward& call, Real* grad_img, Real* grad_krn, int threads) {
  int status = success;
  const Product& p = call.product;
  const int64 outputs = size_of(p.shared, p.shared_levels) * size_of(p.free, p.free_levels) *
                        size_of(p.produced, p.produced_levels);
  if (outputs * size_of(p.contracted, p.contracted_levels) == 0) return status;  // no term
  if (grad_img) status = gradient_of<true>(call, grad_img, threads);
  if (grad_krn && status == success) status = gradient_of<false>(call, grad_krn, threads);
  return status;
}

}  // namespace semiconv
