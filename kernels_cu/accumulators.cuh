// How the terms of one window become one value: a class per kind of addition.
//
// Every class has
//   two_pass                 whether terms are seen twice: observe() all of a block, then add() them
//   start()                  the empty window: the semifield's zero
//   observe(val)             first pass, two_pass only
//   settle()                 between the passes of a block: rescale what is there to the new extreme
//   add(val, index)          one term; index counts the taps in the kernel's memory order
//   fold()                   after at most `block` terms: move the block's sum into the total
//   result()                 the window's value, before rounding to Storage
//   residuals, residual(i)   what the derivative needs besides the terms, in V (not for Provenance)
//   steep                    whether d result / d term can be infinite where the result is finite
//   Weight(residual...)      d result / d term, as weight(val)
// A schedule may cut a window into blocks as it likes; values differ by rounding only, and not at
// all for selections. V is a scalar (GPU) or a SIMD vector (host).
#pragma once
#include "semifield.cuh"

namespace semiconv {

constexpr int block = 16;  // terms that are added plainly before a compensated addition

// A compensated total of plainly summed blocks: the error stays that of one block, however large the
// window. (Dekker's FastTwoSum; Ogita, Rump, Oishi 2005. Where the total is the smaller of the two,
// the correction is rounded as well, by no more than a unit roundoff of the block.)
template <class V> struct BlockedSum {
  V partial, total, correction;
  SEMICONV_FN void start() { partial = total = correction = constant<V>(0); }
  SEMICONV_FN void add(V val) { partial = partial + val; }
  SEMICONV_FN void fold() {
    const V sum = total + partial;
    correction = correction + (partial - (sum - total));
    total = sum;
    partial = constant<V>(0);
  }
  SEMICONV_FN void scale(V factor) {
    total = total * factor;
    correction = correction * factor;
  }
  // An infinite total has no error term (inf - inf makes it NaN).
  SEMICONV_FN V result() const {
    return where(absolute(total) < infinity<V>(), total + correction, total);
  }
};

#if defined(SEMICONV_SELECT)

#if defined(SEMICONV_SELECT_GREATER) || defined(SEMICONV_SELECT_LESS)
constexpr bool plain_extremum = true;  // the selection is max or min
#else
constexpr bool plain_extremum = false;
#endif

// One of the terms: the first in the kernel's memory order that no other beats.
template <class V> struct Selection {
  static constexpr bool two_pass = false;
  static constexpr int residuals = 0;
  V best;
  SEMICONV_FN void start() { best = semifield_zero<V>(); }
  template <class I> SEMICONV_FN void add(V val, I) { best = select(best, val); }
  SEMICONV_FN void fold() {}
  SEMICONV_FN V result() const { return best; }
};

// The same, and which one: the index of the winning tap, `nobody` where all are zero or NaN.
template <class V, class I> struct Provenance {
  static constexpr bool two_pass = false;
  static constexpr int residuals = 0;
  V best;
  I winner;
  SEMICONV_FN void start() {
    best = semifield_zero<V>();
    winner = constant_index(-1);
  }
  static SEMICONV_FN I constant_index(int value) { return I{} + value; }
  SEMICONV_FN void add(V val, I index) {
    const auto better = selects_right(best, val);
    winner = where(better, index, winner);
    if constexpr (plain_extremum && !moves_apart) best = select(best, val);
    else assign_where(better, best, val);
  }
  SEMICONV_FN void fold() {}
  SEMICONV_FN V result() const { return best; }
};

// The same, and how many terms are equal to it, so that they can share the gradient.
template <class V> struct SharedSelection {
  static constexpr bool two_pass = true;
  static constexpr int residuals = 2;
  static constexpr bool steep = false;
  V best, settled, count;
  SEMICONV_FN void start() {
    best = settled = semifield_zero<V>();
    count = constant<V>(0);
  }
  SEMICONV_FN void observe(V val) { best = select(best, val); }
  SEMICONV_FN void settle() {
    count = where(best == settled, count, constant<V>(0));
    settled = best;
  }
  template <class I> SEMICONV_FN void add(V val, I) {
    const V one = constant<V>(1), none = constant<V>(0);
    count = count + where(val == best, where(best == semifield_zero<V>(), none, one), none);
  }
  SEMICONV_FN void fold() {}
  SEMICONV_FN V result() const { return best; }
  SEMICONV_FN V residual(int i) const { return i == 0 ? best : count; }
  struct Weight {
    V best, share;
    Weight() = default;
    SEMICONV_FN Weight(V best_, V count)
        : best(best_), share(where(count > constant<V>(0), constant<V>(1) / count, constant<V>(0))) {}
    SEMICONV_FN V operator()(V val) const { return where(val == best, share, constant<V>(0)); }
  };
};

#elif defined(SEMICONV_LOG)

// ln(sum e^(mu val)) / mu, the exponentials relative to the window's own extreme term: no overflow,
// and weights that sum to 1 at any magnitude.
template <class V> struct LogSum {
  static constexpr bool two_pass = true;
  static constexpr int residuals = 2;
  static constexpr bool steep = false;
  static constexpr bool upwards = SEMICONV_PARAMETER > 0;
  V extreme, shift;
  BlockedSum<V> sum;
  static SEMICONV_FN V mu() { return constant<V>(SEMICONV_PARAMETER); }
  static SEMICONV_FN V most_exponent() { return constant<V>(Limits<Scalar<V>>::most_exponent); }
  // The infinity that is not the zero: one such term makes the result, and all of the gradient.
  static SEMICONV_FN V infinite() { return upwards ? infinity<V>() : negative_infinity<V>(); }
  // Of windows of zeros only, 0. Of those with an infinity the last number before it.
  static SEMICONV_FN V shift_of(V extreme) {
    const V largest = constant<V>(Limits<Scalar<V>>::largest);
    const V shift = upwards ? minimum(extreme, largest) : maximum(extreme, V(-largest));
    return where(extreme == semifield_zero<V>(), constant<V>(0), shift);
  }
  SEMICONV_FN void start() {
    extreme = semifield_zero<V>();
    shift = constant<V>(0);
    sum.start();
  }
  SEMICONV_FN void observe(V val) {
    extreme = upwards ? select_greater(extreme, val) : select_less(extreme, val);
  }
  SEMICONV_FN void settle() {
    const V settled = shift_of(extreme);
    // A total of 0 (nothing yet) stays 0; e^(mu (shift - settled)) <= 1 otherwise.
    const V exponent = mu() * (shift - settled);
    const V factor = bounded_exp(minimum(exponent, constant<V>(0)));
    sum.scale(factor);
    shift = settled;
  }
  template <class I> SEMICONV_FN void add(V val, I) {
    // Exponents are at most 0 but for an infinite term's, whose e^most_exponent counts it: beside it
    // all others vanish. NaN stays NaN in this order of minimum()'s arguments, not in select_less().
    sum.add(bounded_exp(minimum(mu() * (val - shift), most_exponent())));
  }
  SEMICONV_FN void fold() { sum.fold(); }
  SEMICONV_FN V result() const {
    const V total = sum.result();
    const V value = shift + log(total) / mu();
    return where(extreme == infinite(), where(total == total, infinite(), total), value);
  }
  // Of a window with infinite terms: what they are, and how many.
  SEMICONV_FN V residual(int i) const {
    const auto counted = extreme == infinite();
    const V total = sum.result();
    return i == 0 ? where(counted, infinite(), shift)
                  : where(counted, V(total / bounded_exp(most_exponent())), total);
  }
  struct Weight {
    V shift, scale;
    Weight() = default;
    SEMICONV_FN Weight(V shift_, V total)
        : shift(shift_),
          scale(where(total == constant<V>(0), constant<V>(0), V(constant<V>(1) / total))) {}
    // An infinite term minus an infinite shift is NaN, of which this order of minimum()'s arguments
    // makes 0. (Where a term is NaN, so is the total.)
    SEMICONV_FN V operator()(V val) const {
      return bounded_exp(minimum(constant<V>(0), V(mu() * (val - shift)))) * scale;
    }
  };
};

#elif defined(SEMICONV_ROOT)

// (sum val^p)^(1/p) of val >= 0, the powers relative to the window's own extreme term. A negative
// term is outside the semifield's set and gives NaN.
template <class V> struct PowerSum {
  static constexpr bool two_pass = true;
  static constexpr int residuals = 2;
  static constexpr double p = SEMICONV_PARAMETER;
  static constexpr bool upwards = p > 0, steep = p > 0 && p < 1;
  // Powers so flat that they make something of ratios beyond the range of numbers.
  static constexpr bool flat = p > -1 && p < 1;
  // Terms are multiplied by the inverse of the scale, which is kept from where that is not a normal
  // number: an extreme from there is up to 8 times the scale, or the smallest part of it that is not
  // 0. Where the powers of such ratios leave the range, terms are divided by the extreme itself.
  static constexpr bool divides = (p > 0 ? p : 1 - p) > (sizeof(Scalar<V>) == 4 ? 5 : 19);
  V extreme, lowest, scale, divisor;
  static SEMICONV_FN V divisor_of(V scale) {
    return divides ? scale : V(constant<V>(1) / scale);
  }
  static SEMICONV_FN V ratio(V val, V divisor) {
    return divides ? V(val / divisor) : V(val * divisor);
  }
  // r^p and r^(p-1): products where the exponent is a small whole number.
  template <int MINUS> static SEMICONV_FN V power_of(V r) {
    constexpr double exponent = p - MINUS;
    constexpr int whole = exponent > -17 && exponent < 17 ? (int)exponent : 0;
    if constexpr (whole == exponent && whole >= 0) return power<whole>(r);
    else if constexpr (whole == exponent) return constant<V>(1) / power<-whole>(r);
    else return exp(constant<V>(exponent) * log(r));
  }
  // (val / scale)^(p - MINUS). Where a ratio leaves the range, both of its numbers are first multiplied
  // by a power of two. The limits only keep 0 * infinity away: numbers beyond them make no such ratio.
  template <int MINUS> static SEMICONV_FN V relative_power(V val, V divisor) {
    const V r = ratio(val, divisor);
    if constexpr (flat) {
      constexpr bool single = sizeof(Scalar<V>) == 4;
      constexpr double step = single ? 0x1p100 : 0x1p800, limit = single ? 0x1p27 : 0x1p200;
      constexpr double logarithm = (single ? 200 : 1600) * 0.69314718055994531;  // of step^2
      const V zero = constant<V>(0);
      if constexpr (upwards) {
        const auto left = r < constant<V>(Limits<Scalar<V>>::smallest_normal);
        const V most = constant<V>(limit), factor = constant<V>(step);
        const V near = (minimum(val, most) * factor) * (minimum(divisor, most) * factor);
        const V offset = where(left, constant<V>(-logarithm), zero);
        return exp(constant<V>(p - MINUS) * (log(where(left, near, r)) + offset));
      } else {
        const auto left = r == infinity<V>();
        const V least = constant<V>(1 / limit), factor = constant<V>(1 / step);
        const V near = (maximum(val, least) * factor) * (maximum(divisor, least) * factor);
        const V offset = where(left, constant<V>(logarithm), zero);
        return exp(constant<V>(p - MINUS) * (log(where(left, near, r)) + offset));
      }
    } else {
      return power_of<MINUS>(r);
    }
  }
  BlockedSum<V> sum;
  // total^(1/p): the whole part of the exponent by products, since log's error is multiplied by it.
  static SEMICONV_FN V root_of(V total) {
    constexpr int whole = p > 0 && 1 / p < 17 ? (int)(1 / p) : 0;
    constexpr double rest = 1 / p - whole;
    if constexpr (rest == 0) return power<whole>(total);
    else return power<whole>(total) * exp(log(total) * constant<V>(rest));
  }
  static SEMICONV_FN V scale_of(V extreme) {
    const V smallest = constant<V>(Limits<Scalar<V>>::smallest_normal);
    const V one = constant<V>(1);
    if constexpr (divides) {
      const V finite = where(extreme < infinity<V>(), extreme, one);
      return where(extreme > constant<V>(0), finite, one);
    }
    // Not so large that its inverse is subnormal.
    const V largest = constant<V>(0.125) / smallest;
    return where(extreme < infinity<V>(), minimum(maximum(extreme, smallest), largest), one);
  }
  SEMICONV_FN void start() {
    extreme = upwards ? constant<V>(0) : infinity<V>();
    lowest = infinity<V>();
    scale = divisor = constant<V>(1);
    sum.start();
  }
  SEMICONV_FN void observe(V val) {
    extreme = upwards ? select_greater(extreme, val) : select_less(extreme, val);
    if (upwards) lowest = select_less(lowest, val);
  }
  SEMICONV_FN void settle() {
    const V settled = scale_of(extreme);
    divisor = divisor_of(settled);
    const V total = sum.total;
    // A ratio <= 1 to a positive power, >= 1 to a negative one.
    const V factor = flat ? relative_power<0>(scale, divisor) : power_of<0>(V(scale / settled));
    sum.scale(where(total == constant<V>(0), constant<V>(1), factor));
    scale = settled;
  }
  template <class I> SEMICONV_FN void add(V val, I) { sum.add(relative_power<0>(val, divisor)); }
  SEMICONV_FN void fold() { sum.fold(); }
  SEMICONV_FN V result() const {
    return unless_negative(scale * root_of(sum.result()));
  }
  SEMICONV_FN V unless_negative(V value) const {
    const V zero = constant<V>(0);
    return where((upwards ? lowest : extreme) < zero, V(zero / zero), value);
  }
  // Where a term is infinite (p < 0: 0), so is the total.
  SEMICONV_FN V residual(int i) const { return i == 0 ? scale : unless_negative(sum.result()); }
  // (val / scale)^(p - 1) total^(1/p - 1), and what remains of it at the ends: a window of nothing but
  // the zero has weight 0 (p = 1: 1); an infinite term (p < 0: 0) has 1, and beside it the others have
  // what (val / infinity)^(p - 1) is. The divisor that such windows get makes the power NaN where the
  // factor alone is the weight.
  struct Weight {
    V divisor, factor;  // two words, as schedules keep one of these for each output
    Weight() = default;
    SEMICONV_FN Weight(V scale, V total) {
      const V zero = constant<V>(0), one = constant<V>(1);
      const auto empty = total == zero, infinite = total == infinity<V>();
      const V limit = upwards == divides ? infinity<V>() : zero;
      divisor = where(infinite, limit, where(empty, V(zero / zero), divisor_of(scale)));
      const V at_empty = p == 1 ? one : zero;
      const V power = exp(log(total) * constant<V>(1 / p - 1));
      factor = where(infinite, one, where(empty, at_empty, power));
    }
    SEMICONV_FN V operator()(V val) const {
      const V power = relative_power<1>(val, divisor);
      return where(power == power, V(power * factor), factor);
    }
  };
};

#else

// The slope by a term of what was added up to `acc`; 0 where a window of nothing but the zero has none
// that is finite, such as sqrt at 0, or 0 / 0.
template <class V> SEMICONV_FN V finite_at_zero(V acc, V slope) {
  const V none = constant<V>(0), finite = where(absolute(slope) < infinity<V>(), slope, none);
  return where(acc == semifield_zero<V>(), finite, slope);
}

#if defined(SEMICONV_SUM)

// Ordinary addition, then post_sum.
template <class V> struct Summation {
  static constexpr bool two_pass = false;
#if defined(SEMICONV_POST_SUM)
  static constexpr int residuals = 1;
#else
  static constexpr int residuals = 0;
#endif
  static constexpr bool steep = residuals > 0;
  BlockedSum<V> sum;
  SEMICONV_FN void start() {
    sum.start();
    sum.total = semifield_zero<V>();
  }
  template <class I> SEMICONV_FN void add(V val, I) { sum.add(val); }
  SEMICONV_FN void fold() { sum.fold(); }
  SEMICONV_FN auto finite() const { return absolute(sum.total) < infinity<V>(); }  // once folded
  SEMICONV_FN V result() const { return post_sum(sum.result()); }
  SEMICONV_FN V residual(int) const { return sum.result(); }
  struct Weight {
    V slope;
    SEMICONV_FN Weight() : slope(constant<V>(1)) {}
    SEMICONV_FN Weight(V acc) : slope(finite_at_zero(acc, d_post_d_acc(acc))) {}
    SEMICONV_FN V operator()(V) const { return slope; }
  };
};

#else

// An addition of the user's own, folded from the left as written, then post_sum.
template <class V> struct Folding {
  static constexpr bool two_pass = false;
  static constexpr int residuals = 1;
  static constexpr bool steep = true;
  V acc;
  SEMICONV_FN void start() { acc = semifield_zero<V>(); }
  template <class I> SEMICONV_FN void add(V val, I) { acc = semiconv::add(acc, val); }
  SEMICONV_FN void fold() {}
  SEMICONV_FN V result() const { return post_sum(acc); }
  SEMICONV_FN V residual(int) const { return acc; }
#if defined(SEMICONV_SUBTRACT)
  struct Weight {
    V acc, slope;
    Weight() = default;
    SEMICONV_FN Weight(V acc_) : acc(acc_), slope(d_post_d_acc(acc_)) {}
    SEMICONV_FN V operator()(V val) const {
      return finite_at_zero(acc, V(d_add_d_right(subtract(acc, val), val) * slope));
    }
  };
#endif
};

#endif
#endif

// The accumulator that gives values, and the one whose residuals the derivative needs.
#if defined(SEMICONV_SELECT)
template <class V> using Accumulator = Selection<V>;
template <class V> using Differentiable = SharedSelection<V>;
#elif defined(SEMICONV_LOG)
template <class V> using Accumulator = LogSum<V>;
template <class V> using Differentiable = LogSum<V>;
#elif defined(SEMICONV_ROOT)
template <class V> using Accumulator = PowerSum<V>;
template <class V> using Differentiable = PowerSum<V>;
#elif defined(SEMICONV_SUM)
template <class V> using Accumulator = Summation<V>;
template <class V> using Differentiable = Summation<V>;
#else
template <class V> using Accumulator = Folding<V>;
template <class V> using Differentiable = Folding<V>;
#endif

// The chain rule's last product: grad_out * d out / d term, times a derivative of the term. Where one is
// 0 the other does not matter, infinite as it may be: a term that does not depend on a number, and an
// output that does not depend on a term. NaN in `flow` stays. (docs/numerics.md: "Infinite slopes")
template <class V> SEMICONV_FN V chained(V flow, V slope) {
  const V none = constant<V>(0), product = flow * slope;
#if defined(SEMICONV_CONSTANT_DERIVATIVES)
  return where(slope == none, none, product);
#else
  if constexpr (Differentiable<V>::steep)
    return where((flow == none) | ((slope == none) & (flow == flow)), none, product);
  else
    return where(flow == none, none, product);
#endif
}

}  // namespace semiconv
