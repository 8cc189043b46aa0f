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

// Registers of a block of outputs: more compare more candidates for each output, fewer need more nodes.
template <class T> constexpr int block_vectors = sizeof(T) == 8 ? 4 : 2;
template <class T> constexpr int block_size = block_vectors<T> * lanes_of<T>;
// Elements behind the end of a line, and of the costs, that are read.
template <class T> constexpr int line_padding = 2 * block_size<T>;

template <class T> SEMICONV_FN VectorOf<T> spread(T value) { return value - VectorOf<T>{}; }
template <class V> SEMICONV_FN V lesser(V a, V b) { return b < a ? b : a; }
// The lanes, turned by BY of them.
template <int BY, class V> SEMICONV_FN V turned(V v) {
  constexpr int n = sizeof(V) / sizeof(v[0]), m = n - 1;
  if constexpr (n == 16)
    return __builtin_shufflevector(v, v, BY & m, (1 + BY) & m, (2 + BY) & m, (3 + BY) & m, (4 + BY) & m, (5 + BY) & m,
                                   (6 + BY) & m, (7 + BY) & m, (8 + BY) & m, (9 + BY) & m, (10 + BY) & m,
                                   (11 + BY) & m, (12 + BY) & m, (13 + BY) & m, (14 + BY) & m, (15 + BY) & m);
  else if constexpr (n == 8)
    return __builtin_shufflevector(v, v, BY & m, (1 + BY) & m, (2 + BY) & m, (3 + BY) & m, (4 + BY) & m, (5 + BY) & m,
                                   (6 + BY) & m, (7 + BY) & m);
  else if constexpr (n == 4)
    return __builtin_shufflevector(v, v, BY & m, (1 + BY) & m, (2 + BY) & m, (3 + BY) & m);
  else return V{v[1], v[0]};
}
template <class V> SEMICONV_FN auto least_lane(V v) {
  constexpr int n = sizeof(V) / sizeof(v[0]);
  if constexpr (n > 8) v = lesser(v, turned<8>(v));
  if constexpr (n > 4) v = lesser(v, turned<4>(v));
  if constexpr (n > 2) v = lesser(v, turned<2>(v));
  v = lesser(v, turned<1>(v));
  return v[0];
}
// A bit for each lane: whether it is at most `limit`.
template <class T> SEMICONV_FN uint32 lanes_at_most(VectorOf<T> v, T limit) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) return __builtin_ia32_cmpps512_mask(v, spread(limit), 2, (unsigned short)-1, 4);
  else return __builtin_ia32_cmppd512_mask(v, spread(limit), 2, (unsigned char)-1, 4);  // less or equal
#elif defined(__AVX__)
  if constexpr (sizeof(T) == 4) return (uint32)__builtin_ia32_movmskps256((VectorOf<T>)(v <= spread(limit)));
  else return (uint32)__builtin_ia32_movmskpd256((VectorOf<T>)(v <= spread(limit)));
#else
  uint32 bits = 0;
  for (int i = 0; i < lanes_of<T>; ++i) bits |= (uint32)(v[i] <= limit) << i;
  return bits;
#endif
}

// The costs of the distances -size - padding .. size + padding, infinite beyond the line, of several groups.
template <class T> class Costs {
  AlignedBuffer<T> memory;
  int64 reach = 0;

 public:
  bool allocate(const double* cost, int64 size, int64 groups = 1) {
    reach = size + line_padding<T>;
    if (!memory.allocate(groups * (2 * reach + 1))) return false;
    for (int64 g = 0; g < groups; ++g, cost += size) {
      T* at = memory.data + g * (2 * reach + 1) + reach;
      for (int64 r = 0; r <= reach; ++r) at[r] = at[-r] = r < size ? (T)cost[r] : Extreme<T>::highest();
    }
    return true;
  }
  const T* centre(int64 group = 0) const { return memory.data + group * (2 * reach + 1) + reach; }
};

// The extremes of a line's values, and the greatest magnitude of those that are finite.
template <class T> struct Range {
  T least, greatest, magnitude;
};
// Make the values of a line those that are compared, with the padding behind them.
template <class T> Range<T> prepare(T* value, int64 size, bool maximum) {
  using V = VectorOf<T>;
  const T none = Extreme<T>::highest();
  const V infinite = spread(none), sign = spread((T)(maximum ? -1 : 1));
  V least = infinite, greatest = -infinite, most{};
  const auto look = [&](V v) {
    const V size_of = v < 0 ? -v : v;
    least = lesser(least, v);
    greatest = v > greatest ? v : greatest;
    most = (size_of < infinite) & (size_of > most) ? size_of : most;
  };
  int64 y = 0;
  for (; y + lanes_of<T> <= size; y += lanes_of<T>) {
    const V stored = load_vector<V>(value + y) * sign, v = stored == stored ? stored : infinite;
    store_vector(value + y, v);
    look(v);
  }
  for (; y < size; ++y) {
    value[y] = (T)parabola_value(value[y], maximum);
    look(spread(value[y]));
  }
  for (; y < size + line_padding<T>; ++y) value[y] = none;
  return {least_lane(least), -least_lane(-greatest), -least_lane(-most)};
}

template <class T> struct Envelope {
  using V = VectorOf<T>;
  static constexpr int lanes = lanes_of<T>, vectors = block_vectors<T>, block = block_size<T>;

  const T* value;  // `size` numbers and the padding, infinite
  int64 size;
  const T* cost;  // of the distance 0
  Range<T> range;
  double slack;         // sums that differ by no more may change places; 0 where they are exact
  int32 *first, *last;  // of each block's first x: room for one more than there are blocks

  // The sums of the candidates y .. y + lanes - 1 at x.
  SEMICONV_FN V candidates(int64 y, int64 x) const {
    return load_vector<V>(value + y) + load_vector<V>(cost + (y - x));
  }
  // Farther from an element of that value, even the least one loses.
  double reach_of(double of) const {
    const double steps = (of - range.least + slack) / cost[1];
    return (cost[2] < 3 * cost[1] ? steps : ::sqrt(steps)) + 1;  // costs may be the distances themselves
  }
  // Which of the candidates from .. to may win at a node, which lies at x: those within `slack` of the least sum; if
  // sums are exact, the first of the least ones.
  template <bool EXACT> void locate(int64 node, int64 x, int64 from, int64 to) const {
    const double reach = reach_of(value[x]);
    if (reach < (double)size) {
      from = larger_of(from, x - (int64)reach);
      to = smaller_of(to, x + (int64)reach);
    }
    int64 lowest = from, highest = to;
    if (from < to) {
      const T winning = least_sum(x, from, to), limit = EXACT ? winning : (T)(winning + slack);
      lowest = first_within(x, from, limit);
      highest = EXACT ? lowest : last_within(x, lowest, to, limit);
      if (highest - lowest > most_near_ties) lowest = highest = first_within(x, from, winning);
    }
    first[node] = (int32)lowest;
    last[node] = (int32)highest;
  }
  T least_sum(int64 x, int64 from, int64 to) const {
    V best = candidates(from, x), other = spread(Extreme<T>::highest());
    int64 y = from + lanes;
    for (; y + lanes <= to; y += 2 * lanes) {
      best = lesser(best, candidates(y, x));
      other = lesser(other, candidates(y + lanes, x));
    }
    if (y <= to) best = lesser(best, candidates(y, x));
    return least_lane(lesser(best, other));
  }
  // A sum within the limit exists from `from` on.
  int64 first_within(int64 x, int64 from, T limit) const {
    uint32 lanes_within;
    for (int64 y = from;; y += lanes)
      if ((lanes_within = lanes_at_most(candidates(y, x), limit))) return y + __builtin_ctz(lanes_within);
  }
  int64 last_within(int64 x, int64 from, int64 to, T limit) const {
    int64 found = from;
    for (int64 y = from; y <= to; y += lanes)
      if (const uint32 lanes_within = lanes_at_most(candidates(y, x), limit))
        found = y + 31 - __builtin_clz(lanes_within);
    return smaller_of(found, to);
  }
  // The outputs of a block, from the candidates from .. to: two at a time, so that one waits for no other.
  template <bool WINNERS> SEMICONV_FN void fill(int64 x, int64 from, int64 to, T* out, T* winner) const {
    V best[2][vectors], at[2][vectors];
#pragma GCC unroll 2
    for (int p = 0; p < 2; ++p)
#pragma GCC unroll 4
      for (int k = 0; k < vectors; ++k) {
        best[p][k] = spread(Extreme<T>::highest());
        at[p][k] = spread((T)-1);
      }
    for (int64 y = from; y <= to; y += 2) {
#pragma GCC unroll 2
      for (int p = 0; p < 2; ++p) {
        const V v = spread(value[y + p]), y_of = spread((T)(y + p));
        const T* costs = cost + (x - y - p);
#pragma GCC unroll 4
        for (int k = 0; k < vectors; ++k) {
          const V sum = v + load_vector<V>(costs + k * lanes);
          if constexpr (WINNERS) at[p][k] = sum < best[p][k] ? y_of : at[p][k];
          best[p][k] = lesser(best[p][k], sum);
        }
      }
    }
#pragma GCC unroll 4
    for (int k = 0; k < vectors; ++k) {
      if constexpr (WINNERS) {
        const auto second = (best[1][k] < best[0][k]) | ((best[1][k] == best[0][k]) & (at[1][k] < at[0][k]));
        store_vector(winner + x + k * lanes, second ? at[1][k] : at[0][k]);
      }
      store_vector(out + x + k * lanes, lesser(best[0][k], best[1][k]));
    }
  }
  // The outputs begin .. end - 1. `out` and `winner` have room for the last block's registers.
  template <bool EXACT, bool WINNERS> void compute(int64 begin, int64 end, T* out, T* winner) const {
    const int64 blocks = ceil_div(end - begin, (int64)block);
    const double farthest = reach_of(range.greatest);
    out -= begin;
    if (farthest <= block) {
      const int64 reach = (int64)farthest;
      for (int64 x = begin; x < end; x += block)
        fill<WINNERS>(x, larger_of(0, x - reach), smaller_of(size - 1, x + block - 1 + reach), out, winner);
      return;
    }
    if (begin == 0) first[0] = 0;
    else locate<EXACT>(0, begin, 0, size - 1);
    const int64 after = begin + blocks * block;
    if (after >= size) last[blocks] = (int32)(size - 1);
    else locate<EXACT>(blocks, after, first[0], size - 1);
    int64 step = 1;
    while (2 * step < blocks) step *= 2;
    for (; step > 0; step /= 2)
      for (int64 node = step; node < blocks; node += 2 * step)
        locate<EXACT>(node, begin + node * block, first[node - step], last[smaller_of(node + step, blocks)]);
    for (int64 b = 0; b < blocks; ++b) fill<WINNERS>(begin + b * block, first[b], last[b + 1], out, winner);
  }
};

}  // namespace semiconv
