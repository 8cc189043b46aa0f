// How the warps of a line find its envelope: what a distance costs, candidates, and nodes between blocks of outputs.
//
// As host/envelope.hpp: between blocks of 8 outputs a node says which candidates may win there; nodes are found
// from coarse to fine, each within what its two neighbours leave, with candidates in lanes; then each block compares
// the candidates between its two nodes, with an output in each lane. Nodes of a level do not wait for each other:
// the warp finds up to four at a time, and fills four blocks at a time.
//
//     level 1          node 4             32 lanes: candidates of the whole line
//     level 2     node 2    node 6        16 lanes each: candidates between two nodes of level 1
//     level 3    1    3    5    7         8 lanes each
//     outputs  0 . . . . . . . . .        8 lanes each: outputs, all candidates between two nodes
//
// The candidates of neighbouring nodes have one in common, more where sums are nearly equal. So a level of n
// candidates and k nodes takes (n + k) / 8 steps at most, and a quarter of that where winners are evenly spread.
//
// Before that the line's threads drop candidates that win nowhere, which are most of them where neighbours differ much.
//
// Needs what parabolas.cu does.
#pragma once
#include "../parabolas.cuh"

namespace semiconv {

using Out = SEMICONV_OUT;
constexpr int warp = 32;
constexpr int team = SEMICONV_WARPS, threads = team * warp;  // of a line
constexpr int block_size = 8;
constexpr uint32 all_lanes = 0xffffffffu;

// All threads of a line wait for each other.
SEMICONV_FN void wait_for_line() {
  if constexpr (team == 1) __syncwarp();
  else __syncthreads();
}

// What is added for a distance.
#if SEMICONV_SQUARES
struct Costs {
  // The last bits of such a double are an integer, so that one operation computes weight r^2, rounded once.
  static constexpr uint64 whole_bits = 0x4330000000000000;
  static constexpr double whole = 4503599627370496.0;
  double weight, offset;

  SEMICONV_FN Costs(const double* of_groups, int64 group, int64) : weight(of_groups[group]), offset(-weight * whole) {}
  SEMICONV_FN bool nothing_moves() const { return weight == Extreme<double>::highest(); }
  SEMICONV_FN double times_weight(uint32 integer) const {
    return __fma_rn(weight, bit_cast<double>(whole_bits | integer), offset);
  }
  SEMICONV_FN double operator()(int x, int y) const {
    const uint32 apart = (uint32)x - (uint32)y;
    return times_weight(apart * apart);
  }
  // Of the distance from x - 1/2, less the quarter of the weight that all candidates have.
  SEMICONV_FN double before(int x, int y) const {
    const uint32 apart = (uint32)x - (uint32)y;
    return times_weight(apart * apart - apart);
  }
};
#else
struct Costs {
  const double* table;
  int last;

  SEMICONV_FN Costs(const double* of_groups, int64 group, int64 size)
      : table(of_groups + group * size), last((int)size - 1) {}
  SEMICONV_FN bool nothing_moves() const { return table[0] > 0; }
  SEMICONV_FN double operator()(int x, int y) const {
    const int apart = x < y ? y - x : x - y;
    return table[apart < last ? apart : last];  // what lies behind the line's end never wins
  }
};
#endif

struct alignas(16) Two {
  double of[2];
};

// One warp's line, with infinity behind its end. Candidates are compared in pairs, the first of which is even: one
// more may take part on each side. Of a THINNED line candidate k lies at place[k]; else at k.
template <bool THINNED> struct Line {
  const double* value;
  Costs cost;
  int lane;
  double slack;
  const uint16* place;

  SEMICONV_FN int place_of(int k) const { return THINNED && k >= 0 ? place[k] : k; }
  SEMICONV_FN void places(int k, int& one, int& other) const {
    if constexpr (THINNED) {
      const uint32 both = *(const uint32*)(place + k);
      one = (int)(both & 0xffff);
      other = (int)(both >> 16);
    } else {
      one = k;
      other = k + 1;
    }
  }
  SEMICONV_FN Two sums(int k, int x) const {
    const Two v = *(const Two*)(value + k);
    int one, other;
    places(k, one, other);
    return {{v.of[0] + cost(x, one), v.of[1] + cost(x, other)}};
  }
#if SEMICONV_SQUARES
  // A best candidate from .. to at x - 1/2, by LANES neighbouring lanes, of which the first gets it.
  template <int LANES> SEMICONV_FN int locate_before(int x, int from, int to) const {
    double best = Extreme<double>::highest();
    int at = from;
    if (THINNED && __all_sync(all_lanes, from >= to)) return at;
    for (int y = (from & ~1) + 2 * (lane % LANES); y <= to; y += 2 * LANES) {
      const Two v = *(const Two*)(value + y);
      int left, right;
      places(y, left, right);
      const double one = v.of[0] + cost.before(x, left), other = v.of[1] + cost.before(x, right);
      const bool second = other < one;
      const double lesser = second ? other : one;
      if (lesser < best) at = second ? y + 1 : y;
      best = lesser < best ? lesser : best;
    }
#pragma unroll
    for (int apart = LANES / 2; apart > 0; apart /= 2) {
      const double other = __shfl_xor_sync(all_lanes, best, apart);
      const int its = __shfl_xor_sync(all_lanes, at, apart);
      if (other < best) at = its;
      best = other < best ? other : best;
    }
    return at;
  }
#endif
  // Which of the candidates from .. to may win at x, by neighbouring `lanes`; others may have no candidates.
  SEMICONV_FN void locate(int x, int from, int to, int lanes, int& first, int& last) const {
    const int begin = (from & ~1) + 2 * (lane & (lanes - 1));
    double best = Extreme<double>::highest();
    for (int y = begin; y <= to; y += 2 * lanes) {
      const Two sum = sums(y, x);
      const double lesser = sum.of[1] < sum.of[0] ? sum.of[1] : sum.of[0];
      best = lesser < best ? lesser : best;
    }
    for (int apart = lanes / 2; apart > 0; apart /= 2) {
      const double other = __shfl_xor_sync(all_lanes, best, apart);
      best = other < best ? other : best;
    }
    within(best + slack, x, begin, to, lanes, first, last);
    const bool many = last - first > most_near_ties;
    if (__any_sync(all_lanes, many)) {
      int winner, same;
      within(best, x, begin, to, lanes, winner, same);
      if (many) first = last = winner;
    }
    first = larger_of(first, from);
    last = smaller_of(last, to);
  }
  // The first and the last candidate whose sums are within a limit.
  SEMICONV_FN void within(double limit, int x, int begin, int to, int lanes, int& first, int& last) const {
    first = to;
    last = 0;
    for (int y = begin; y <= to; y += 2 * lanes) {
      const Two sum = sums(y, x);
      const bool one = sum.of[0] <= limit, other = sum.of[1] <= limit;
      if (one || other) {
        first = smaller_of(first, one ? y : y + 1);
        last = other ? y + 1 : y;
      }
    }
    for (int apart = lanes / 2; apart > 0; apart /= 2) {
      first = smaller_of(first, __shfl_xor_sync(all_lanes, first, apart));
      last = larger_of(last, __shfl_xor_sync(all_lanes, last, apart));
    }
  }
  // The least sum of the candidates from .. to at x, and the first that has it.
  SEMICONV_FN double fill(int x, int from, int to, int& winner) const {
    double best = Extreme<double>::highest();
    winner = -1;
#pragma unroll 2
    for (int y = from & ~1; y <= to; y += 2) {
      const Two sum = sums(y, x);
      const bool second = sum.of[1] < sum.of[0];
      const double lesser = second ? sum.of[1] : sum.of[0];
      if (SEMICONV_WINNERS && lesser < best) winner = second ? y + 1 : y;
      best = lesser < best ? lesser : best;
    }
    if (SEMICONV_WINNERS) winner = place_of(winner);
    return best;
  }
};

#if SEMICONV_SQUARES
// Lines are thinned where that drops a quarter of the candidates or more.
constexpr int least_thinned = 32, most_rounds = 3;
// Squares have 32 bits, so that two sums are off by less than this part of the weight, besides the slack.
constexpr double thinning_margin = 1.52587890625e-5, most_thinned = 1e300;

// Drops candidates of a line, by all its threads. Those that stay move together: all read theirs before one writes, for
// which one barrier is enough, since nobody writes farther than where all have read. (Shuffles and votes wait for each
// other's lanes, but order no memory.) `counts`: memory of two numbers for each warp, where several have a line.
struct Thinning {
  double* value;
  double weight, margin;  // greater than the rounding of what is compared, and of all sums
  int member;
  int* counts;

  SEMICONV_FN int lane() const { return member % warp; }
  SEMICONV_FN int own_warp() const { return member / warp; }
  SEMICONV_FN uint32 lanes_before() const { return (1u << lane()) - 1; }

  // All threads meet: how many all warps have, of which each says its own, and how many those before this one. The next
  // time it is another `turn`, or a barrier is between.
  SEMICONV_FN int counted(int own, int turn, int& before) const {
    before = 0;
    if constexpr (team == 1) {
      wait_for_line();
      return own;
    } else {
      int* const of_turn = counts + turn * team;
      if (lane() == 0) of_turn[own_warp()] = own;
      wait_for_line();
      int all = 0;
      for (int other = 0; other < team; ++other) {
        before += other < own_warp() ? of_turn[other] : 0;
        all += of_turn[other];
      }
      return all;
    }
  }

  // Drops candidates that win nowhere: those that two others surpass everywhere. Let l and r be how far these lie on
  // the left and on the right of a candidate y. At any x the mean of their sums, with the weights r and l, is
  //
  //     (r v[left] + l v[right]) / (l + r) + w l r + w (x - y)^2
  //
  // so that v[y] alone tells. The candidates lie together, and so do those that stay; returns how many. The one before
  // those that are read is where it was: it was not moved to its own place.
  SEMICONV_FN int once(uint16* place, int count) const {
    const double none = Extreme<double>::highest();
    int stay = 0, turn = 0;
    for (int begin = 0; begin < count; begin += threads, turn ^= 1) {
      const int k = begin + member;
      const bool inside = k < count, ends = k + 1 >= count, begins = k == 0 || !inside;
      const double v = inside ? value[k] : none;
      const double left = begins ? none : value[k - 1], right = ends ? none : value[k + 1];
      const int y = inside ? place[k] : 0, left_place = begins ? -1 : place[k - 1];
      const int right_place = ends ? y + 1 : place[k + 1];
      const double l = (double)(y - left_place), r = (double)(right_place - y), both = l + r;
      const bool stays = inside && !(both * v - (r * left + l * right) > both * (weight * l * r + margin));
      const uint32 mask = __ballot_sync(all_lanes, stays);
      int before;
      const int all = counted(__popc(mask), turn, before), to = stay + before + __popc(mask & lanes_before());
      if (stays && to < k) {
        value[to] = v;
        place[to] = (uint16)y;
      }
      stay += all;
    }
    wait_for_line();
    return stay;
  }

  // Of all numbers of a line that stay: write(to, read(y)), where they lie together.
  template <class Read, class Write>
  SEMICONV_FN void compact(const uint32* masks, int size, Read&& read, Write&& write) const {
    int done = 0, turn = 0;
    for (int begin = 0; begin < size; begin += threads, turn ^= 1) {
      const int first = begin + own_warp() * warp;
      const uint32 mask = first < size ? masks[first / warp] : 0;
      const bool stays = mask >> lane() & 1;
      decltype(read(0)) kept{};
      if (stays) kept = read(begin + member);
      int before;
      const int all = counted(__popc(mask), turn, before);
      if (stays) write(done + before + __popc(mask & lanes_before()), kept);
      done += all;
    }
    wait_for_line();
  }

  // The same of a line as it is given, in several rounds: what stays lies together in `value`, infinity behind it,
  // and its places behind that. `masks`: an integer for 32 numbers. Returns how many stay, 0 if the line is as before.
  SEMICONV_FN int all(uint32* masks, uint16*& place, int size) const {
    const double none = Extreme<double>::highest(), limit = weight + margin;
    int count = 0;
    for (int begin = own_warp() * warp; begin < size; begin += threads) {
      const int y = begin + lane();
      bool stays = false;
      if (y < size) {
        const double v = value[y], left = y > 0 ? value[y - 1] : none;
        stays = v < none && !(v - (0.5 * left + 0.5 * value[y + 1]) > limit);
      }
      const uint32 mask = __ballot_sync(all_lanes, stays);
      if (lane() == 0) masks[begin / warp] = mask;
      count += __popc(mask);
    }
    int before_own;
    count = counted(count, 1, before_own);  // and meet: nodes will lie where the masks do
    if (4 * count > 3 * size) return 0;
    compact(masks, size, [&](int y) { return value[y]; }, [&](int to, double v) { value[to] = v; });
    uint16* const places = place = (uint16*)(value + size - count / 4);
    compact(masks, size, [](int y) { return (uint16)y; }, [&](int to, uint16 y) { places[to] = y; });
    for (int round = 0, before = size; round < most_rounds && count > warp && 8 * (before - count) >= before; ++round) {
      before = count;
      count = once(places, count);
    }
    if (member == 0) value[count] = none;
    wait_for_line();
    return count;
  }
};
#endif

// The candidates that may win where each block begins.
//
// Where sums are not nearly equal, or the weight is greater than all rounding (SETTLED), one candidate is enough: the
// best one half a step before the block. From there on each candidate on its left is worse than it by the weight or
// more, and farther left each one on its right. Then `first` and `last` are the same.
template <bool SETTLED, class OfLine> struct Nodes {
  const OfLine& line;
  int *first, *last;
  int blocks, from, own_warp;

  SEMICONV_FN Nodes(const OfLine& line_, int* memory, int blocks_, int from_, int own_warp_)
      : line(line_), first(memory), last(SETTLED ? memory : memory + blocks_ + 1), blocks(blocks_), from(from_),
        own_warp(own_warp_) {}

  template <int LANES> SEMICONV_FN void locate(int node, int lowest, int highest, int& low, int& high) const {
    const int x = from + node * block_size;
    if constexpr (SETTLED) low = high = line.template locate_before<LANES>(x, lowest, highest);
    else line.locate(x, lowest, highest, LANES, low, high);
  }
  // Find each second one of the nodes that are `step` blocks apart, of which there are `count`.
  template <int LANES> SEMICONV_FN void level(int step, int count) const {
    for (int done = own_warp * (warp / LANES); done < count; done += threads / LANES) {
      const int number = done + line.lane / LANES, node = step + 2 * step * number;
      const bool exists = number < count;
      int low, high;
      locate<LANES>(node, exists ? first[node - step] : 1, exists ? last[smaller_of(node + step, blocks)] : 0, low,
                    high);
      if (exists && line.lane % LANES == 0) {
        first[node] = low;
        last[node] = high;
      }
    }
    wait_for_line();
  }
  // Of so many candidates of a line of `size`.
  SEMICONV_FN void find_all(int size, int candidates) const {
    const bool begins_late = from > 0, ends_early = from + blocks * block_size < size, at_end = line.lane >= warp / 2;
    int low = 0, high = candidates - 1;
    if (begins_late || ends_early) locate<warp / 2>(at_end && ends_early ? blocks : 0, 0, candidates - 1, low, high);
    if (own_warp == 0 && line.lane == 0) first[0] = begins_late ? low : 0;
    if (own_warp == 0 && line.lane == warp / 2) last[blocks] = ends_early ? high : candidates - 1;
    wait_for_line();
    int step = 1;
    while (2 * step < blocks) step *= 2;
    for (; step > 0; step /= 2) {
      const int count = (blocks - 1 + step) / (2 * step);
      if (count > 2) level<warp / 4>(step, count);
      else if (count > 1) level<warp / 2>(step, count);
      else level<warp>(step, count);
    }
  }
};

// The outputs from .. to - 1, of blocks between two nodes each.
template <class OfLine, class Put>
SEMICONV_FN void fill_blocks(const OfLine& line, const int* first, const int* last, int blocks, int from, int to,
                             int member, Put&& put) {
  for (int b = member / block_size; b < blocks; b += threads / block_size) {
    const int x = from + b * block_size + line.lane % block_size;
    int winner;
    const double least = line.fill(x, first[b], last[b + 1], winner);
    if (x < to) put(x, finished<Out>(least, SEMICONV_MAXIMUM, SEMICONV_FINISH), winner);
  }
}

}  // namespace semiconv
