// The envelope of parabolas over one line, in a time that depends on its length alone.
//
// The outputs are cut into blocks. Between two blocks a node says which y may win there; nodes are found from
// coarse to fine, each within what its two neighbours leave (see parabolas.cuh):
//
//     y        0 . . . . . . . . . . . . . . . . n
//     node 2         [-------a-------------------]        a wins at x = 2 blocks: scan the whole line
//     node 1   [-----b-a]                                 b between 0 and a
//     node 3                 [a---------c--------]        c between a and n
//     block 1  x = 1 block .. 2 blocks: only b .. a
//
// Each level of nodes scans the line about once, with neighbouring y in a register; so do the blocks, with
// neighbouring x: O(n log n), but a scan takes an eighth of an operation for each element.
// Totally monotone matrices are searched like this: Aggarwal, Klawe, Moran, Shor, Wilber, Algorithmica 2 (1987).
#pragma once
#include "columns.hpp"
#include "memory.hpp"
#include "parabolas.cuh"

namespace semiconv {

constexpr int block_vectors = 2, block_size = block_vectors * double_lanes;
// Elements behind the end of a line, and of the costs, that are read.
constexpr int line_padding = 2 * block_size;

SEMICONV_FN Doubles spread(double value) { return value - Doubles{}; }
SEMICONV_FN Doubles lane_numbers() {
  Doubles numbers{};
#pragma GCC unroll 8
  for (int i = 0; i < double_lanes; ++i) numbers[i] = i;
  return numbers;
}
// The same, turned by `by` lanes.
template <int BY> SEMICONV_FN Doubles turned(Doubles v) {
#if defined(__AVX512F__)
  return __builtin_shufflevector(v, v, BY, (1 + BY) % 8, (2 + BY) % 8, (3 + BY) % 8, (4 + BY) % 8, (5 + BY) % 8,
                                 (6 + BY) % 8, (7 + BY) % 8);
#elif defined(__AVX__)
  return __builtin_shufflevector(v, v, BY % 4, (1 + BY) % 4, (2 + BY) % 4, (3 + BY) % 4);
#else
  return Doubles{v[1], v[0]};
#endif
}
SEMICONV_FN Doubles lesser(Doubles a, Doubles b) { return b < a ? b : a; }
SEMICONV_FN double least_lane(Doubles v) {
  if constexpr (double_lanes > 4) v = lesser(v, turned<4>(v));
  if constexpr (double_lanes > 2) v = lesser(v, turned<2>(v));
  return lesser(v, turned<1>(v))[0];
}

// The costs of the distances -size - padding .. size + padding, infinite beyond the line, of several groups.
class Costs {
  AlignedBuffer<double> memory;
  int64 reach = 0;

 public:
  bool allocate(const double* cost, int64 size, int64 groups = 1) {
    reach = size + line_padding;
    if (!memory.allocate(groups * (2 * reach + 1))) return false;
    for (int64 g = 0; g < groups; ++g, cost += size) {
      double* at = memory.data + g * (2 * reach + 1) + reach;
      for (int64 r = 0; r <= reach; ++r) at[r] = at[-r] = r < size ? cost[r] : Extreme<double>::highest();
    }
    return true;
  }
  const double* centre(int64 group = 0) const { return memory.data + group * (2 * reach + 1) + reach; }
};

// The extremes of a line's values, and the greatest magnitude of those that are finite.
struct Range {
  double least, greatest, magnitude;
};
// Make the values of a line those that are compared, with the padding behind them.
inline Range prepare(double* value, int64 size, bool maximum) {
  const double none = Extreme<double>::highest();
  const Doubles infinite = spread(none), sign = spread(maximum ? -1 : 1);
  Doubles least = infinite, greatest = -infinite, most{};
  const auto look = [&](Doubles v) {
    const Doubles size_of = v < 0 ? -v : v;
    least = lesser(least, v);
    greatest = v > greatest ? v : greatest;
    most = (size_of < infinite) & (size_of > most) ? size_of : most;
  };
  int64 y = 0;
  for (; y + double_lanes <= size; y += double_lanes) {
    const Doubles stored = load_vector<Doubles>(value + y) * sign, v = stored == stored ? stored : infinite;
    store_vector(value + y, v);
    look(v);
  }
  for (; y < size; ++y) {
    value[y] = parabola_value(value[y], maximum);
    look(spread(value[y]));
  }
  for (; y < size + line_padding; ++y) value[y] = none;
  return {least_lane(least), -least_lane(-greatest), -least_lane(-most)};
}

struct Envelope {
  const double* value;  // `size` numbers and the padding, infinite
  int64 size;
  const double* cost;  // of the distance 0
  Range range;
  double slack;        // sums that differ by no more may change places; 0 where they are exact
  int32 *first, *last;  // of each block's first x: room for one more than there are blocks

  // The sums of the candidates y .. y + lanes - 1 at x.
  SEMICONV_FN Doubles candidates(int64 y, int64 x) const {
    return load_vector<Doubles>(value + y) + load_vector<Doubles>(cost + (y - x));
  }
  // Farther from an element of that value, even the least one loses.
  double reach_of(double of) const {
    const double steps = (of - range.least + slack) / cost[1];
    return (cost[2] < 3 * cost[1] ? steps : ::sqrt(steps)) + 1;  // costs may be the distances themselves
  }
  // Which of the candidates from .. to may win at a node.
  template <bool EXACT> void locate(int64 node, int64 from, int64 to) const {
    const int64 x = node * block_size;
    const double reach = reach_of(value[x]);
    if (reach < (double)size) {
      from = larger_of(from, x - (int64)reach);
      to = smaller_of(to, x + (int64)reach);
    }
    const Doubles none = spread(Extreme<double>::highest());
    Doubles best = none, second = none, at = spread((double)from), y_of = lane_numbers() + (double)from;
    for (int64 y = from; y <= to; y += double_lanes) {
      const Doubles sum = candidates(y, x);
      const auto wins = sum < best;
      if constexpr (!EXACT) second = lesser(second, wins ? best : sum);
      at = wins ? y_of : at;
      best = lesser(best, sum);
      y_of += (double)double_lanes;
    }
    const double winning = least_lane(best), limit = winning + slack;
    const double winner = least_lane(best == spread(winning) ? at : none);
    int64 lowest = (int64)winner, highest = lowest;
    if (!EXACT && (least_lane(second) <= limit || near_lanes(best, limit) > 1)) {
      near_candidates(x, from, to, limit, lowest, highest);
      if (highest - lowest > most_near_ties) lowest = highest = (int64)winner;
    }
    first[node] = (int32)lowest;
    last[node] = (int32)highest;
  }
  SEMICONV_FN static int near_lanes(Doubles best, double limit) {
    int count = 0;
#pragma GCC unroll 8
    for (int i = 0; i < double_lanes; ++i) count += best[i] <= limit;
    return count;
  }
  __attribute__((noinline)) void near_candidates(int64 x, int64 from, int64 to, double limit, int64& lowest,
                                                 int64& highest) const {
    lowest = highest = -1;
    for (int64 y = from; y <= to; ++y)
      if (value[y] + cost[y - x] <= limit) {
        if (lowest < 0) lowest = y;
        highest = y;
      }
  }
  // The outputs of a block, from the candidates from .. to.
  template <bool WINNERS> SEMICONV_FN void fill(int64 x, int64 from, int64 to, double* out, double* winner) const {
    Doubles best[block_vectors], at[block_vectors];
#pragma GCC unroll 4
    for (int k = 0; k < block_vectors; ++k) {
      best[k] = spread(Extreme<double>::highest());
      at[k] = spread(-1);
    }
    for (int64 y = from; y <= to; ++y) {
      const Doubles v = spread(value[y]);
      const double* costs = cost + (x - y);
      const Doubles y_of = spread((double)y);
#pragma GCC unroll 4
      for (int k = 0; k < block_vectors; ++k) {
        const Doubles sum = v + load_vector<Doubles>(costs + k * double_lanes);
        const auto wins = sum < best[k];
        if constexpr (WINNERS) at[k] = wins ? y_of : at[k];
        best[k] = lesser(best[k], sum);
      }
    }
#pragma GCC unroll 4
    for (int k = 0; k < block_vectors; ++k) {
      store_vector(out + x + k * double_lanes, best[k]);
      if constexpr (WINNERS) store_vector(winner + x + k * double_lanes, at[k]);
    }
  }
  // `out` and `winner` have room for the last block's registers.
  template <bool EXACT, bool WINNERS> void compute(double* out, double* winner) const {
    const int64 blocks = ceil_div(size, block_size);
    const double farthest = reach_of(range.greatest);
    if (farthest <= block_size) {
      const int64 reach = (int64)farthest;
      for (int64 x = 0; x < size; x += block_size)
        fill<WINNERS>(x, larger_of(0, x - reach), smaller_of(size - 1, x + block_size - 1 + reach), out, winner);
      return;
    }
    first[0] = 0;
    last[blocks] = (int32)(size - 1);
    int64 step = 1;
    while (2 * step < blocks) step *= 2;
    for (; step > 0; step /= 2)
      for (int64 node = step; node < blocks; node += 2 * step)
        locate<EXACT>(node, first[node - step], last[smaller_of(node + step, blocks)]);
    for (int64 b = 0; b < blocks; ++b) fill<WINNERS>(b * block_size, first[b], last[b + 1], out, winner);
  }
};

}  // namespace semiconv
