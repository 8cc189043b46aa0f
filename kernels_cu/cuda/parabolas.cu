// Envelopes of parabolas over lines: a warp for each line, several for a long one.
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
// A line lies in shared memory where there is room, else in `scratch`. Lines along the last axis, whose numbers lie
// together in memory, are read and written by their warps. Those along another axis lie side by side: the block
// copies them together (SEMICONV_SIDE_BY_SIDE), so that neighbouring threads move neighbouring numbers.
//
//     memory           y = 0   line 0 1 2 3 ...      shared memory   line 0   y = 0 1 2 ...   results   winners
//                      y = 1   line 0 1 2 3 ...  -->                 line 1   y = 0 1 2 ...
//
// Needs SEMICONV_STORAGE, SEMICONV_OUT (the results' storage type), SEMICONV_KERNEL (the function's name),
// SEMICONV_COLUMNS (lines of a block), SEMICONV_WARPS (of a line; one where a block has several lines),
// SEMICONV_SIDE_BY_SIDE (true or false), SEMICONV_WINNERS (true or false: whether
// they are stored), SEMICONV_SHARED (true or false: where lines lie), SEMICONV_MAXIMUM (true or false),
// SEMICONV_SQUARES (true: costs are squares of distances times a weight; false: given for each distance),
// SEMICONV_FINISH (the number of a Finish).
#include "../parabolas.cuh"

namespace semiconv {

using Out = SEMICONV_OUT;
constexpr int warp = 32, columns = SEMICONV_COLUMNS;
constexpr int team = SEMICONV_WARPS, threads = team * warp;  // of a line
constexpr int block_size = 8;
constexpr uint32 all_lanes = 0xffffffffu;
// Of a multiprocessor at a time: as many as registers suffice for without spills.
constexpr int resident_warps = !SEMICONV_SHARED || architecture >= 1000 ? 20 : SEMICONV_SIDE_BY_SIDE ? 24 : 28;

// Twin of semiconv_cupy/ndimage/structs.py. `exact`: sums are. `repeat` lines in a row have the costs of one group,
// the next ones of the next. The outputs begin .. end - 1 of each line are computed. From a number of a line to the
// next one are the `inner` numbers of later axes. Of results, `row` of them lie together, and rows `row_step` apart,
// where they are a part of a larger array. `pitch`: from a line to the next one where lines lie meanwhile, an even
// number above `size`; `results_pitch`: the same of results. `followers`: the winners along
// so many other axes move with these, of lines side by side.
struct LinePass {
  int64 lines, size, exact, groups, repeat, begin, end, inner, row, row_step, pitch, results_pitch, followers;

  SEMICONV_FN int64 place(int64 line) const { return line / inner * size * inner + line % inner; }
  SEMICONV_FN int64 result_step() const { return inner / row * row_step; }
  SEMICONV_FN int64 result_place(int64 line) const {
    const int64 of_inner = line % inner;
    return line / inner * (end - begin) * result_step() + of_inner / row * row_step + of_inner % row;
  }
  SEMICONV_FN int64 group(int64 line) const { return line / repeat % groups; }
};

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
// more may take part on each side.
struct Line {
  const double* value;
  Costs cost;
  int lane;
  double slack;

  SEMICONV_FN Two sums(int y, int x) const {
    const Two v = *(const Two*)(value + y);
    return {{v.of[0] + cost(x, y), v.of[1] + cost(x, y + 1)}};
  }
#if SEMICONV_SQUARES
  // A best candidate from .. to at x - 1/2, by LANES neighbouring lanes, of which the first gets it.
  template <int LANES> SEMICONV_FN int locate_before(int x, int from, int to) const {
    double best = Extreme<double>::highest();
    int at = from;
    for (int y = (from & ~1) + 2 * (lane % LANES); y <= to; y += 2 * LANES) {
      const Two v = *(const Two*)(value + y);
      const double one = v.of[0] + cost.before(x, y), other = v.of[1] + cost.before(x, y + 1);
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
    return best;
  }
};

// What a line has: some number below infinity, which the greatest finite magnitude may be, and the first place of
// -infinity, -1 if it is nowhere.
struct Range {
  bool some;
  double magnitude;
  int lowest;
};

// Make a line's numbers those that are compared, with infinity behind its end. `memory` has room for a team.
template <class Read>
SEMICONV_FN Range prepare(double* value, Range* memory, int size, int pitch, int member, Read&& read) {
  const double none = Extreme<double>::highest();
  const uint32 infinite = 0x7ff00000;
  uint32 most = 0;  // the first half of its bits
  bool some = false;
  int lowest = size;
#pragma unroll 4
  for (int y = member; y < size; y += threads) {
    const double v = parabola_value(read(y), SEMICONV_MAXIMUM);
    value[y] = v;
    some = some || v < none;
    if (v == -none) lowest = smaller_of(lowest, y);
    const uint32 half = (uint32)(bit_cast<uint64>(v) >> 32) & 0x7fffffffu;
    if (half < infinite) most = larger_of(most, half);
  }
  if (size + member < pitch) value[size + member] = none;
  some = __any_sync(all_lanes, some);
  for (int apart = warp / 2; apart > 0; apart /= 2) {
    lowest = smaller_of(lowest, __shfl_xor_sync(all_lanes, lowest, apart));
    most = larger_of(most, __shfl_xor_sync(all_lanes, most, apart));
  }
  Range range{some, bit_cast<double>((uint64)most << 32 | 0xffffffffu), lowest};
  if constexpr (team > 1) {
    if (member % warp == 0) memory[member / warp] = range;
    __syncthreads();
    for (int other = 0; other < team; ++other) {
      range.some = range.some || memory[other].some;
      range.magnitude = larger_of(range.magnitude, memory[other].magnitude);
      range.lowest = smaller_of(range.lowest, memory[other].lowest);
    }
  }
  if (range.lowest == size) range.lowest = -1;
  wait_for_line();
  return range;
}

// The candidates that may win where each block begins.
//
// Where sums are not nearly equal, or the weight is greater than all rounding (SETTLED), one candidate is enough: the
// best one half a step before the block. From there on each candidate on its left is worse than it by the weight or
// more, and farther left each one on its right. Then `first` and `last` are the same.
template <bool SETTLED, class OfLine = Line> struct Nodes {
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
  SEMICONV_FN void find_all(int size) const {
    const bool begins_late = from > 0, ends_early = from + blocks * block_size < size, at_end = line.lane >= warp / 2;
    int low = 0, high = size - 1;
    if (begins_late || ends_early) locate<warp / 2>(at_end && ends_early ? blocks : 0, 0, size - 1, low, high);
    if (own_warp == 0 && line.lane == 0) first[0] = begins_late ? low : 0;
    if (own_warp == 0 && line.lane == warp / 2) last[blocks] = ends_early ? high : size - 1;
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

// The envelope of one line. read(y): a number of it, which may be value[y]; put(x, result, winner): stores them.
// nodes: two numbers for each block of the line and one more.
template <class Read, class Put>
SEMICONV_FN void envelope(const LinePass& pass, const Costs& cost, double* value, int* nodes, Range* memory,
                          Read&& read, Put&& put) {
  const int member = threadIdx.x % threads, lane = member % warp, own_warp = member / warp;
  const int size = (int)pass.size, from = (int)pass.begin, to = (int)pass.end;
  if (cost.nothing_moves()) {  // NaN stays, too
    for (int x = from + member; x < to; x += threads) {
      const double v = read(x);
      put(x, finished<Out>(SEMICONV_MAXIMUM ? -v : v, SEMICONV_MAXIMUM, SEMICONV_FINISH), x);
    }
    return;
  }
  const Range range = prepare(value, memory, size, (int)pass.pitch, member, read);
  if (!range.some || range.lowest >= 0) {  // nothing, or one that wins everywhere
    const double none = Extreme<double>::highest();
    for (int x = from + member; x < to; x += threads)
      put(x, finished<Out>(range.some ? -none : none, SEMICONV_MAXIMUM, SEMICONV_FINISH), range.lowest);
    return;
  }
  const Line line{value, cost, lane, pass.exact ? 0 : near_ties * range.magnitude};
  const int blocks = (to - from + block_size - 1) / block_size;
  const int* last = nodes + blocks + 1;
#if SEMICONV_SQUARES
  if (cost.weight > 2 * line.slack) {
    Nodes<true>(line, nodes, blocks, from, own_warp).find_all(size);
    last = nodes;
  } else
#endif
    Nodes<false>(line, nodes, blocks, from, own_warp).find_all(size);
  for (int b = member / block_size; b < blocks; b += threads / block_size) {
    const int x = from + b * block_size + lane % block_size;
    int winner;
    const double least = line.fill(x, nodes[b], last[b + 1], winner);
    if (x < to) put(x, finished<Out>(least, SEMICONV_MAXIMUM, SEMICONV_FINISH), winner);
  }
}

}  // namespace semiconv

// nodes: two numbers for each block of a line and one more, where they do not lie in shared memory. `out` may be the
// source: lines are read as a whole first. `cost`: of each group its weight, or the costs of all distances.
extern "C" __global__ void __launch_bounds__(32 * SEMICONV_COLUMNS * SEMICONV_WARPS,
                                             semiconv::resident_warps / (SEMICONV_COLUMNS * SEMICONV_WARPS))
SEMICONV_KERNEL(const semiconv::LinePass pass, const double* __restrict__ cost,
                const semiconv::Storage* source, semiconv::SEMICONV_OUT* out, int* __restrict__ winners,
                double* scratch, int* nodes, int* followers) {
  using namespace semiconv;
  const int own = threadIdx.x / threads;
  const int64 number = (int64)blockIdx.x * columns + own, from = pass.begin, width = pass.end - from;
  const int64 nodes_of_line = 2 * (ceil_div(width, (int64)block_size) + 1);
  const bool has_line = number < pass.lines;
  __shared__ Range of_warps[team];
  const Costs costs(cost, pass.group(has_line ? number : 0), pass.size);
#if SEMICONV_SHARED
  extern __shared__ double shared[];
  double* const value = shared + own * pass.pitch;
  int* const own_nodes = (int*)(shared + columns * pass.pitch) + own * nodes_of_line;
#else
  double* const value = scratch + number * pass.pitch;
  int* const own_nodes = nodes + number * nodes_of_line;
#endif
#if SEMICONV_SIDE_BY_SIDE
  const int64 size = pass.size, pitch = pass.pitch, results_pitch = pass.results_pitch;
  int* const chosen = (int*)(shared + columns * pitch) + columns * nodes_of_line;
  Out* const results = (Out*)(chosen + (SEMICONV_WINNERS ? columns * results_pitch : 0));
  const int column = threadIdx.x % columns, row = threadIdx.x / columns;
  const int64 other = (int64)blockIdx.x * columns + column;
  const bool copies = other < pass.lines;
  const Storage* const given = source + pass.place(other);
#pragma unroll 4
  for (int y = row; y < size; y += warp)
    if (copies) shared[column * pitch + y] = (double)load(given[y * pass.inner]);
  __syncthreads();
  if (has_line)
    envelope(pass, costs, value, own_nodes, of_warps, [&](int y) { return value[y]; },
             [&](int x, Out result, int winner) {
               results[own * results_pitch + x - from] = result;
               if (SEMICONV_WINNERS) chosen[own * results_pitch + x - from] = winner;
             });
  __syncthreads();
  const int64 begin = pass.result_place(other), step = pass.result_step();
  for (int x = row; copies && x < width; x += warp) {
    out[begin + x * step] = results[column * results_pitch + x];
    if (SEMICONV_WINNERS) winners[begin + x * step] = chosen[column * results_pitch + x];
  }
  if (!SEMICONV_WINNERS) return;
  int* const moved = (int*)shared + column * 2 * pitch;
  for (int64 f = 0; f < pass.followers; ++f) {
    int* const plane = followers + f * pass.lines * size + pass.place(other);
    __syncthreads();  // the numbers are no longer needed, nor what moved before
    for (int y = row; copies && y < size; y += warp) moved[y] = plane[y * pass.inner];
    __syncthreads();
    for (int y = row; copies && y < size; y += warp) {
      const int winner = chosen[column * results_pitch + y];
      plane[y * pass.inner] = winner < 0 ? -1 : moved[winner];
    }
  }
#else
  if (!has_line) return;
  const Storage* const given = source + number * pass.size;
  const int64 begin = number * width - from;
  envelope(pass, costs, value, own_nodes, of_warps, [&](int y) { return (double)load(given[y]); },
           [&](int x, Out result, int winner) {
             out[begin + x] = result;
             if (SEMICONV_WINNERS) winners[begin + x] = winner;
           });
#endif
}
