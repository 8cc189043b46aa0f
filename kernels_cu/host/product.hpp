// Matrix products on the host: blocks of outputs stay in vector registers over all terms.
//
// Needs the semifield's macros and SEMICONV_STORAGE; SEMICONV_CHANNELS_ADD has no effect. No sizes are
// compiled in. Exported by product.cpp and product_residual.cpp.
//
// One operand runs along the vectors' lanes, the other one is broadcast: a register block has ROWS of the
// broadcast operand and VECTORS registers of the other.
//
//                 v: VECTORS registers
//               +----------+----------+
//     u: row 0  |  acc     |  acc     |    for each term t:
//        row 1  |  acc     |  acc     |      acc[r][w].add(times(u[t][r], v[t][w]))
//        ...    +----------+----------+
//
// Which operand is which follows from the sizes and from where the result's neighbours lie. over_blocks.cpp
// walks over the register blocks, from panels of both operands.
#pragma once
#include "product_work.hpp"
#include "lanes.hpp"
#include "memory.hpp"
#include "terms.hpp"

namespace semiconv {

// ---- register blocks -----------------------------------------------------------------------------

#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int registers = 32;
#else
constexpr int registers = 16;
#endif
// Rows of a register block of two vectors: as many as leave registers for the operands.
template <class A> constexpr int rows_of() {
  if (A::two_pass) return 2;
  if (UsesProvenance<A>::value) return registers == 32 ? 6 : 3;
  return registers == 32 ? 12 : 6;
}
// The term that an accumulator adds: the semifield's multiplication, unless it has one of its own.
template <class A> struct Multiplies {
  static SEMICONV_FN Vector of(Vector img, Vector krn, const Setting& setting) { return times(img, krn, setting); }
};
template <class A, bool KRN_IS_VECTOR> SEMICONV_FN Vector term_of(Vector u, Vector v, const Setting& setting) {
  return KRN_IS_VECTOR ? Multiplies<A>::of(u, v, setting) : Multiplies<A>::of(v, u, setting);
}

// The settings of `ROWS` rows of a block whose corner is `corner`: kernels with settings of their own are rows.
template <int ROWS> struct RowSettings {
  Setting of[ROWS];
  bool alike = true;
  RowSettings() = default;
  SEMICONV_FN RowSettings(const Product& p, const Corner& corner, bool rows_are_kernels, int rows = ROWS) {
    for (int r = 0; r < rows; ++r) {
      of[r] = Setting(p.parameters, corner.batch * p.matrix_step + (rows_are_kernels ? corner.row + r : 0));
      alike = alike && of[r].alike(of[0]);
    }
  }
};

// Whether terms of an accumulator depend on mu, p or parameters of the user's own.
template <class A> constexpr bool has_settings = true;

// Terms 0 .. count - 1 of a register block, from two panels; `first` is the first one's number.
template <class A, int ROWS, int VECTORS, bool KRN_IS_VECTOR>
__attribute__((noinline)) void accumulate(const Real* u, const Real* v, int64 first, int64 count,
                                          bool starts, A* block,
                                          const RowSettings<ROWS>& settings) {
  A acc[ROWS * VECTORS];
#pragma GCC unroll 32
  for (int j = 0; j < ROWS * VECTORS; ++j) {
    if (starts) acc[j].start(settings.of[j / VECTORS]);
    else acc[j] = block[j];
  }
  const auto each_term = [&](int64 begin, int64 end, auto change) __attribute__((always_inline)) {
    Mask index = Mask{} + (MaskLane)(first + begin);
    for (int64 t = begin; t < end; ++t) {
      Vector along[VECTORS];
#pragma GCC unroll 8
      for (int w = 0; w < VECTORS; ++w) along[w] = load_vector<Vector>(v + (t * VECTORS + w) * lanes);
#pragma GCC unroll 16
      for (int r = 0; r < ROWS; ++r) {
        const Vector one = broadcast(u[t * ROWS + r]);
#pragma GCC unroll 8
        for (int w = 0; w < VECTORS; ++w)
          change(acc[r * VECTORS + w], term_of<A, KRN_IS_VECTOR>(one, along[w], settings.of[r]), index, settings.of[r]);
      }
      index = index + (MaskLane)1;
    }
  };
  if constexpr (A::two_pass) {
    each_term(0, count, [](A& one, Vector term, Mask, const Setting& setting) { one.observe(term, setting); });
#pragma GCC unroll 32
    for (int j = 0; j < ROWS * VECTORS; ++j) acc[j].settle(settings.of[j / VECTORS]);
  }
  const auto add_all = [&](const auto& of_kind) __attribute__((always_inline)) {
    using K = typename Plain<decltype(of_kind)>::type;
    const auto add = [](A& one, Vector term, Mask index, const Setting& setting) {
      one.add(term, index, K(setting));
    };
    if constexpr (folds) {
      for (int64 begin = 0; begin < count; begin += terms_per_fold) {
        each_term(begin, smaller_of(begin + terms_per_fold, count), add);
#pragma GCC unroll 32
        for (int j = 0; j < ROWS * VECTORS; ++j) acc[j].fold();
      }
    } else {
      each_term(0, count, add);
    }
  };
  if constexpr (!has_settings<A>) add_all(settings.of[0]);
  else if (has_kinds && !settings.alike) add_all(Outlined(settings.of[0]));
  else by_kind(settings.of[0], add_all);
#pragma GCC unroll 32
  for (int j = 0; j < ROWS * VECTORS; ++j) block[j] = acc[j];
}

// ---- results -------------------------------------------------------------------------------------

// Store numbers of a block: number(j) is a vector of register j, rows x VECTORS of them.
template <int VECTORS, class To, class Number>
SEMICONV_FN void store_block(To* to, const Places& at, int rows, Number number) {
  using V = decltype(number(0));
  using T = typename VectorElement<V>::type;
  if (at.adjoining) {
    for (int r = 0; r < rows; ++r)
      for (int w = 0; w < VECTORS; ++w) {
        const int some = (int)smaller_of(lanes, at.count - w * lanes);
        if (some > 0)
          store_lanes(to + at.rows[r] + at.columns[w * lanes], number(r * VECTORS + w), some, 1);
      }
    return;
  }
  // Column by column, whose rows may lie together.
  T numbers[registers * lanes];
  for (int j = 0; j < rows * VECTORS; ++j) store_vector(numbers + j * lanes, number(j));
  for (int c = 0; c < at.count; ++c)
    for (int r = 0; r < rows; ++r)
      to[at.rows[r] + at.columns[c]] = Store<To>::from(numbers[r * VECTORS * lanes + c]);
}

template <int VECTORS, class I>
SEMICONV_FN void store_winners(I* to, const Places& at, int rows, const uint32* winners) {
  if (at.adjoining) {
    for (int r = 0; r < rows; ++r) {
      I* const row = to + at.rows[r] + at.columns[0];
      const uint32* const from = winners + r * VECTORS * lanes;
      if (at.count == VECTORS * lanes)
        for (int c = 0; c < VECTORS * lanes; ++c) row[c] = (I)from[c];
      else
        for (int c = 0; c < at.count; ++c) row[c] = (I)from[c];
    }
    return;
  }
  for (int r = 0; r < rows; ++r)
    for (int c = 0; c < at.count; ++c)
      to[at.rows[r] + at.columns[c]] = (I)winners[r * VECTORS * lanes + c];
}

// Where results go. residual is null where no derivative is needed.
struct Target {
  const Product& product;
  Storage* out;
  void* residual;
  int64 residual_itemsize;  // bytes of a winner; other residuals are Real
  int64 residual_plane;     // elements from one residual array to the next

  // Take a block whose terms are all added up. Winners of narrow lanes come apart.
  template <int VECTORS, bool KRN_IS_VECTOR, class A>
  void take(const A* block, const uint32* winners, int rows, const Places& at, const Corner& corner) const {
    const RowSettings<registers> settings(product, corner, !KRN_IS_VECTOR, rows);
    store_block<VECTORS>(out, at, rows, [&](int j) { return block[j].result(settings.of[j / VECTORS]); });
    if (!residual) return;
    if constexpr (UsesProvenance<A>::value) {
      const auto store = [&](auto* to) {
        if constexpr (narrow_winners) store_winners<VECTORS>(to, at, rows, winners);
        else {
          uint32 numbers[registers * lanes];
          for (int j = 0; j < rows * VECTORS; ++j)
            for (int i = 0; i < lanes; ++i) numbers[j * lanes + i] = (uint32)block[j].winner[i];
          store_winners<VECTORS>(to, at, rows, numbers);
        }
      };
      if (residual_itemsize == 1) store((uint8*)residual);
      else if (residual_itemsize == 2) store((uint16*)residual);
      else store((uint32*)residual);
    } else if constexpr (A::residuals > 0) {
      for (int k = 0; k < A::residuals; ++k)
        store_block<VECTORS>((Real*)residual + k * residual_plane, at, rows,
                             [&](int j) { return block[j].residual(k, settings.of[j / VECTORS]); });
    }
  }
};

// ---- blocks --------------------------------------------------------------------------------------

// Lanes that count winners hold so many; a block of terms has no more.
constexpr int64 most_winners = sizeof(MaskLane) == 1 ? 112 : sizeof(MaskLane) == 2 ? 32752 : 1 << 30;

// BlockLoops::accumulate for SOME rows, or fewer; the same for all sinks.
template <class A, int VECTORS, bool KRN_IS_VECTOR, int SOME>
void accumulate_rows(int rows, const Real* u, const Real* v, int64 first, int64 count, bool starts, void* block,
                     const Product& result, const Corner& corner) {
  if constexpr (SOME > 1)
    if (rows != SOME)
      return accumulate_rows<A, VECTORS, KRN_IS_VECTOR, fewer_rows(SOME)>(rows, u, v, first, count, starts, block,
                                                                          result, corner);
  RowSettings<SOME> settings;
  if constexpr (has_settings<A>) settings = RowSettings<SOME>(result, corner, !KRN_IS_VECTOR);
  accumulate<A, SOME, VECTORS, KRN_IS_VECTOR || commutes>(u, v, first, count, starts, (A*)block, settings);
}

// BlockLoops of an accumulator. `Sink` takes the finished blocks, as Target does.
template <class A, int ROWS, int VECTORS, bool KRN_IS_VECTOR, class Sink> struct LoopsOf {
  static constexpr bool wide = UsesProvenance<A>::value && narrow_winners;

  static void number_winners(void* states, int count, int64 term, uint32* numbers) {
    A* const block = (A*)states;
    if constexpr (wide)
      for (int j = 0; j < count; ++j, numbers += lanes) {
        MaskLane found[lanes];
        store_vector(found, block[j].winner);
        if (!term)
          for (int i = 0; i < lanes; ++i) numbers[i] = (uint32)(int32)found[i];  // -1 stays -1
        else if (any(block[j].winner >= 0))
          for (int i = 0; i < lanes; ++i)
            numbers[i] = found[i] < 0 ? numbers[i] : (uint32)term + (uint32)found[i];
        block[j].winner = A::no_winner();
      }
  }
  static void take(const void* sink, const void* block, const uint32* winners, int rows, const Places& at,
                   const Corner& corner) {
    ((const Sink*)sink)->template take<VECTORS, KRN_IS_VECTOR>((const A*)block, winners, rows, at, corner);
  }
  static BlockLoops with(const Sink& sink) {
    constexpr auto rows_of_any = accumulate_rows<A, VECTORS, KRN_IS_VECTOR || !has_settings<A>, ROWS>;
    return {rows_of_any, wide ? number_winners : nullptr, take, &sink, ROWS, VECTORS, sizeof(A),
            UsesProvenance<A>::value ? most_winners : 0, KRN_IS_VECTOR};
  }
};

template <class A, int ROWS, int VECTORS, bool KRN_IS_VECTOR, class T, class Sink>
int run_product(const Product& result, const Operand<T>& image, const Operand<T>& kernel, const Sink& sink,
                int threads) {
  const BlockLoops loops = LoopsOf<A, ROWS, VECTORS, KRN_IS_VECTOR, Sink>::with(sink);
  return over_blocks(result, &image, &kernel, !Same<T, Storage>::value, loops, threads);
}

// The same where terms depend on no setting, nor on the order of the operands: one text for both sides.
template <class A, int ROWS, int VECTORS, class T, class Sink>
int run_plain_product(const Product& result, const Operand<T>& image, const Operand<T>& kernel, const Sink& sink,
                      bool krn_is_vector, int threads) {
  static_assert(!has_settings<A>, "settings belong to kernels");
  BlockLoops loops = LoopsOf<A, ROWS, VECTORS, true, Sink>::with(sink);
  loops.krn_is_vector = krn_is_vector;
  return over_blocks(result, &image, &kernel, !Same<T, Storage>::value, loops, threads);
}

template <class T> Operand<T> image_of(const Product& p, const T* img) {
  return {img, p.shared, p.free, p.contracted, p.shared_levels, p.free_levels, p.contracted_levels, &Level::img};
}
template <class T> Operand<T> kernel_of(const Product& p, const T* krn) {
  return {krn, p.shared, p.produced, p.contracted, p.shared_levels, p.produced_levels, p.contracted_levels,
          &Level::krn};
}
// Whether the kernel runs along the lanes: the side that leaves fewer lanes without an output; if
// neither does, the one along which the result is contiguous.
inline bool krn_along_lanes(const Product& p, int64 width) {
  const int64 free = size_of(p.free, p.free_levels), produced = size_of(p.produced, p.produced_levels);
  const auto whole = [](int64 count, int64 unit) { return ceil_div(count, unit) * unit; };
  const int64 by_krn = free * whole(produced, width), by_img = produced * whole(free, width);
  if (4 * by_krn < 3 * by_img) return true;
  if (4 * by_img < 3 * by_krn) return false;
  const auto innermost = [](const Level* levels, int64 count) {
    return count ? levels[count - 1].out : 0;
  };
  return innermost(p.produced, p.produced_levels) == 1 || innermost(p.free, p.free_levels) != 1;
}

template <class A>
int product(const Product& p, const Storage* img, const Storage* krn, const Target& target, int threads) {
  constexpr int rows = rows_of<A>(), vectors = A::two_pass ? 1 : 2;
  const auto image = image_of(p, img);
  const auto kernel = kernel_of(p, krn);
  return p.parameters.channels <= 1 && krn_along_lanes(p, vectors * lanes)
             ? run_product<A, rows, vectors, true>(p, image, kernel, target, threads)
             : run_product<A, rows, vectors, false>(p, image, kernel, target, threads);
}

}  // namespace semiconv
