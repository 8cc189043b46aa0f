// Envelopes of parabolas over lines that lie together in memory: a warp for each line.
//
// As host/envelope.hpp: between blocks of 32 outputs a node says which candidates may win there; nodes are found
// from coarse to fine, each within what its two neighbours leave, with a candidate in each lane; then each block
// compares the candidates between its two nodes, with an output in each lane.
//
//     level 1          node 4             lanes: candidates of the whole line
//     level 2     node 2    node 6        lanes: candidates between two nodes of level 1
//     level 3    1    3    5    7
//     outputs  0 . . . . . . . . .        lanes: outputs, all candidates between two nodes one by one
//
// A line lies in shared memory where there is room, else in `scratch`. Needs SEMICONV_STORAGE, SEMICONV_OUT (the
// results' storage type), SEMICONV_KERNEL (the function's name), SEMICONV_WINNERS (true or false: whether they are
// stored), SEMICONV_SHARED (true or false: where lines lie), SEMICONV_MAXIMUM (true or false), SEMICONV_FINISH (the
// number of a Finish).
#include "../parabolas.cuh"

namespace semiconv {

constexpr int warp = 32, lines_of_block = 4;
constexpr uint32 all_lanes = 0xffffffffu;

// Twin of semiconv_cupy/ndimage/structs.py. `exact`: sums are. `repeat` lines in a row have the costs of one group,
// the next ones of the next. The outputs begin .. end - 1 of each line are computed.
struct LinePass {
  int64 lines, size, exact, groups, repeat, begin, end;
};

SEMICONV_FN double least_of_warp(double value) {
#pragma unroll
  for (int apart = warp / 2; apart > 0; apart /= 2) {
    const double other = __shfl_xor_sync(all_lanes, value, apart);
    if (other < value) value = other;
  }
  return value;
}

// One warp's line.
struct Line {
  const double* value;
  const double* cost;
  int lane;
  double slack;

  SEMICONV_FN double sum(int64 y, int64 x) const { return value[y] + cost[x < y ? y - x : x - y]; }
  // Which of the candidates from .. to may win at x.
  SEMICONV_FN void locate(int64 x, int64 from, int64 to, int64& first, int64& last) const {
    const double none = Extreme<double>::highest();
    double best = none, second = none;
    int64 at = from;
    for (int64 y = from + lane; y <= to; y += warp) {
      const double candidate = sum(y, x);
      if (candidate < best) {
        second = best;
        best = candidate;
        at = y;
      } else if (candidate < second) {
        second = candidate;
      }
    }
    const double winning = least_of_warp(best), limit = winning + slack;
    first = last = (int64)least_of_warp(best == winning ? (double)at : none);
    const bool near = second <= limit || (best <= limit && at != first);
    if (slack > 0 && __any_sync(all_lanes, near)) {
      double low = none, high = none;
      for (int64 y = from + lane; y <= to; y += warp)
        if (sum(y, x) <= limit) {
          if (low == none) low = (double)y;
          high = -(double)y;
        }
      const int64 lowest = (int64)least_of_warp(low), highest = (int64)-least_of_warp(high);
      if (highest - lowest <= most_near_ties) {
        first = lowest;
        last = highest;
      }
    }
  }
};

}  // namespace semiconv

// nodes: two numbers for each block of a line and one more. `out` may be the source: a line is read as a whole first.
extern "C" __global__ void __launch_bounds__(128, 7)
SEMICONV_KERNEL(const semiconv::LinePass pass, const double* __restrict__ cost,
                const semiconv::Storage* source, semiconv::SEMICONV_OUT* out, int* __restrict__ winners,
                double* scratch, int* nodes) {
  using namespace semiconv;
  using Out = SEMICONV_OUT;
  const int lane = threadIdx.x % warp, of_block = threadIdx.x / warp;
  const int64 number = (int64)blockIdx.x * lines_of_block + of_block, size = pass.size;
  if (number >= pass.lines) return;
  const int64 blocks = ceil_div(size, (int64)warp), begin = number * size;
  const int64 from = pass.begin, to = pass.end, results = number * (to - from) - from;
  cost += number / pass.repeat % pass.groups * size;
  if (cost[0] > 0) {  // nothing moves: NaN stays, too
    for (int64 x = from + lane; x < to; x += warp) {
      const double v = (double)load(source[begin + x]);
      out[results + x] = finished<Out>(SEMICONV_MAXIMUM ? -v : v, SEMICONV_MAXIMUM, SEMICONV_FINISH);
      if (SEMICONV_WINNERS) winners[results + x] = (int)x;
    }
    return;
  }
#if SEMICONV_SHARED
  extern __shared__ double shared[];
  double* const value = shared + of_block * size;
#else
  double* const value = scratch + begin;
#endif
  int* const first = nodes + number * 2 * (blocks + 1);
  int* const last = first + blocks + 1;
  const double none = Extreme<double>::highest();
  double least = none, magnitude = 0;
  for (int64 y = lane; y < size; y += warp) {
    const double v = parabola_value((double)load(source[begin + y]), SEMICONV_MAXIMUM);
    value[y] = v;
    if (v < least) least = v;
    const double size_of = v < 0 ? -v : v;
    if (size_of < none && size_of > magnitude) magnitude = size_of;
  }
  least = least_of_warp(least);
  magnitude = -least_of_warp(-magnitude);
  __syncwarp();
  if (least == none || least == -none) {  // nothing, or one that wins everywhere
    double found = none;
    for (int64 y = lane; least != none && y < size; y += warp)
      if (found == none && value[y] == least) found = (double)y;
    found = least_of_warp(found);
    for (int64 x = from + lane; x < to; x += warp) {
      out[results + x] = finished<Out>(least, SEMICONV_MAXIMUM, SEMICONV_FINISH);
      if (SEMICONV_WINNERS) winners[results + x] = found == none ? -1 : (int)found;
    }
    return;
  }
  const Line line{value, cost, lane, pass.exact ? 0 : near_ties * magnitude};
  const int64 of_part = ceil_div(to - from, (int64)warp), after = from + of_part * warp;
  const auto place = [&](int64 node, int64 lowest, int64 highest) {
    int64 low, high;
    line.locate(from + node * warp, lowest, highest, low, high);
    __syncwarp();
    if (lane == 0) {
      first[node] = (int)low;
      last[node] = (int)high;
    }
    __syncwarp();
  };
  if (lane == 0) {
    first[0] = 0;
    last[of_part] = (int)(size - 1);
  }
  __syncwarp();
  if (from > 0) place(0, 0, size - 1);
  if (after < size) place(of_part, first[0], size - 1);
  int64 step = 1;
  while (2 * step < of_part) step *= 2;
  for (; step > 0; step /= 2)
    for (int64 node = step; node < of_part; node += 2 * step)
      place(node, first[node - step], last[smaller_of(node + step, of_part)]);
  for (int64 b = 0; b < of_part; ++b) {
    const int64 x = from + b * warp + lane, until = last[b + 1];
    if (x >= to) continue;
    double best = none;
    int64 at = -1;
    for (int64 y = first[b]; y <= until; ++y) {
      const double candidate = line.sum(y, x);
      if (candidate < best) {
        best = candidate;
        if (SEMICONV_WINNERS) at = y;
      }
    }
    out[results + x] = finished<Out>(best, SEMICONV_MAXIMUM, SEMICONV_FINISH);
    if (SEMICONV_WINNERS) winners[results + x] = (int)at;
  }
}
