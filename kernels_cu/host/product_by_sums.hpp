// Matrix products in log and root by ordinary sums. Outputs whose sums prove nothing are computed directly.
//
// by_sums.cuh has the mathematics. Both operands are transformed once, each row relative to its own extreme
// number, so that an output's sum is relative to the sum of two shifts (log) or to their product (root):
//
//   img -> E(img), a range for each free index        \  S of a block    holds(S)  -> restore(S) -> out
//   krn -> E(krn), a range for each produced index    /                  otherwise -> the register directly
//
// A register with an unproven output is computed by the semifield's own accumulator, from the numbers as they
// are. So a row out of range costs no more than its own outputs.
#pragma once
#include "by_sums.hpp"
#include "product.hpp"

namespace semiconv {

// The ordinary sum of products of transformed numbers.
template <class V> struct Products {
  static constexpr bool two_pass = false;
  static constexpr int residuals = 0;
  BlockedSum<V> sum;
  SEMICONV_FN void start(const Setting&) { sum.start(); }
  template <class I> SEMICONV_FN void add(V val, I, const Setting&) { sum.add(val); }
  SEMICONV_FN void fold() { sum.fold(); }
  SEMICONV_FN V result(const Setting& = {}) const { return sum.result(); }
};
template <class V> constexpr bool has_settings<Products<V>> = false;
template <class V> struct Multiplies<Products<V>> {
  static SEMICONV_FN Vector of(Vector img, Vector krn, const Setting&) { return img * krn; }
};

// E of an operand: a row of terms for each own index of each batch, filled up to whole vectors by E of the
// zero, and the ranges of the rows.
class TransformedOperand {
  Buffer<Real> shift_data, smallest_data;
  AlignedBuffer<Real> values;
  Level own, terms, batch;

 public:
  int64 pitch = 0;  // numbers from a row to the next
  const Real* numbers() const { return values.data; }
  // With room for a vector that is read beyond the end.
  const Real *shifts = nullptr, *smallest = nullptr;

  // False where the machine had not so much memory.
  bool fill(const Setting& setting, const Operand<Storage>& x, int64 batches, int64 count, int64 term_count,
            int threads) {
    // fill_panel writes up to a block beyond a row, and the next one may be of another thread.
    pitch = whole_vectors(term_count + side) * lanes;
    const int64 rows = batches * count;
    if (!values.allocate(rows * pitch + lanes) || !shift_data.allocate(rows + 8 * lanes) ||
        !smallest_data.allocate(rows + 8 * lanes))
      return false;
    shifts = shift_data.data, smallest = smallest_data.data;
    for (int64 i = rows; i < rows + 8 * lanes; ++i) shift_data.data[i] = smallest_data.data[i] = 1;
    const int64 some = larger_of(1, 4096 / pitch);  // rows of an item
    in_parallel(ceil_div(rows, some), threads, [&](Items& rest) {
      for (int64 item; rest.take(item);)
        for (int64 row = item * some; row < smaller_of(rows, (item + 1) * some); ++row) {
          Operand<Storage> operand = x;
          operand.data += Walk(x.shared, x.shared_levels, x.stride, row / count).offset;
          Real* const numbers = values.data + row * pitch;
          fill_panel(operand, row % count, 1, 0, term_count, numbers, 1);
          for (int64 t = term_count; t < pitch; ++t) numbers[t] = semifield_zero<Real>(setting);
          const Range<Real> range = range_of(setting, numbers, pitch);
          transform_all(setting, numbers, nullptr, pitch, range.shift);
          shift_data.data[row] = range.shift;
          smallest_data.data[row] = range.smallest;
        }
    });
    own = Level{count, pitch, pitch, 0};
    terms = Level{term_count, 1, 1, 0};
    batch = Level{batches, count * pitch, count * pitch, 0};
    return true;
  }
  Operand<Real> operand() const { return {values.data, &batch, &own, &terms, 1, 1, 1, &Level::img}; }
};

// Proof of by_sums.cuh, where each lane has a shift of its own.
SEMICONV_FN Mask proven(const Setting& setting, Vector sum, Vector a, Vector b, Vector smallest, int64 terms) {
  using L = Limits<Real>;
  const Vector none{};
  const Vector least = where(smallest >= constant<Vector>(L::smallest_normal), none,
                             broadcast(4 * (L::smallest_normal * (Real)terms) / (L::epsilon / 2)));
#if defined(SEMICONV_LOG)
  const Mask representable = absolute(Vector(a + b)) <= constant<Vector>(L::largest);
#else
  const Vector normal = constant<Vector>(L::smallest_normal), scale = a * b;
  const Mask representable = (a >= normal) & (b >= normal) &
                             (scale >= broadcast(L::smallest_normal / L::epsilon)) &
                             (scale <= broadcast(L::largest * L::epsilon));
#endif
  if (!BySums<Real>(setting).applies()) return Mask{};
  return (sum >= least) & (sum < infinity<Vector>()) & representable;
}

// Takes sums, and stores values.
template <bool KRN_IS_VECTOR> class Restored {
  const Setting& setting;
  const Roles<Storage>& direct;
  const TransformedOperand &u, &v;
  Storage* out;
  int64 terms;

 public:
  Restored(const Setting& setting_, const Roles<Storage>& direct_, const TransformedOperand& u_,
           const TransformedOperand& v_, Storage* out_)
      : setting(setting_), direct(direct_), u(u_), v(v_), out(out_), terms(direct_.terms) {}

  template <int VECTORS, bool, class A>
  void take(const A* block, const uint32*, int rows, const Places& at, const Corner& corner) const {
    const BySums<Vector> e(setting);
    Vector values[registers];
    bool unproven[registers], all_proven = true;
    const int64 column = corner.batch * direct.columns + corner.column;
    for (int r = 0; r < rows; ++r) {
      const int64 row = corner.batch * direct.rows + corner.row + r;
      const Vector row_shift = broadcast(u.shifts[row]), row_smallest = broadcast(u.smallest[row]);
      for (int w = 0; w < VECTORS; ++w) {
        const Vector shift = load_vector<Vector>(v.shifts + column + w * lanes);
        const Vector smallest = load_vector<Vector>(v.smallest + column + w * lanes);
        const Vector sum = block[r * VECTORS + w].result();
        const Mask outputs = first_lanes((int)larger_of(0, smaller_of(lanes, at.count - w * lanes)));
        const bool fails = any(outputs & ~(Mask)proven(setting, sum, row_shift, shift, row_smallest * smallest, terms));
        unproven[r * VECTORS + w] = fails;
        all_proven = all_proven && !fails;
        values[r * VECTORS + w] =
            KRN_IS_VECTOR ? e.restore(sum, row_shift, shift) : e.restore(sum, shift, row_shift);
      }
    }
    if (!all_proven) compute<VECTORS>(values, unproven, rows, at, corner);
    store_block<VECTORS>(out, at, rows, [&](int j) { return values[j]; });
  }

 private:
  // The values of unproven registers by the semifield's own accumulator.
  template <int VECTORS>
  __attribute__((noinline)) void compute(Vector* values, const bool* unproven, int rows, const Places& at,
                                         const Corner& corner) const {
    using A = Accumulator<Vector>;
    constexpr int64 some = 128;
    alignas(64) Real along[some * lanes + 16], one[some + 16];
    alignas(64) A acc[registers];
    RowSettings<1> settings;
    settings.of[0] = setting;
    Operand<Storage> x = direct.u, y = direct.v;
    x.data += Walk(x.shared, x.shared_levels, x.stride, corner.batch).offset;
    y.data += Walk(y.shared, y.shared_levels, y.stride, corner.batch).offset;
    for (int w = 0; w < VECTORS; ++w) {
      bool proven_all = true;
      for (int r = 0; r < rows; ++r) proven_all = proven_all && !unproven[r * VECTORS + w];
      if (proven_all) continue;
      const int64 column = corner.column + w * lanes, columns = smaller_of(lanes, at.count - w * lanes);
      int64 term = 0;
      do {
        const int64 count = smaller_of(some, terms - term);
        fill_panel(y, column, columns, term, count, along, lanes);
        for (int r = 0; r < rows; ++r) {
          if (!unproven[r * VECTORS + w]) continue;
          fill_panel(x, corner.row + r, 1, term, count, one, 1);
          accumulate<A, 1, 1, KRN_IS_VECTOR || commutes>(one, along, term, count, term == 0, acc + r, settings);
        }
        term += count;
      } while (term < terms);
      for (int r = 0; r < rows; ++r)
        if (unproven[r * VECTORS + w]) values[r * VECTORS + w] = acc[r].result(setting);
    }
  }
};

template <bool KRN_IS_VECTOR>
int product_by_sums(const Product& p, const Storage* img, const Storage* krn, Storage* out, int threads) {
  const auto direct = roles_of(p, image_of(p, img), kernel_of(p, krn), KRN_IS_VECTOR);
  const Setting setting(p.parameters, 0);
  TransformedOperand u, v;
  if (!u.fill(setting, direct.u, direct.batches, direct.rows, direct.terms, threads) ||
      !v.fill(setting, direct.v, direct.batches, direct.columns, direct.terms, threads))
    return out_of_memory;
  const Restored<KRN_IS_VECTOR> sink(setting, direct, u, v, out);
  const auto &image = KRN_IS_VECTOR ? u : v, &kernel = KRN_IS_VECTOR ? v : u;
  using A = Products<Vector>;
  return run_product<A, rows_of<A>(), 2, KRN_IS_VECTOR>(p, image.operand(), kernel.operand(), sink, threads);
}

}  // namespace semiconv
