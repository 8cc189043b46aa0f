// Envelopes of parabolas over lines: a warp for each line.
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
// A line lies in shared memory where there is room, else in `scratch`. Lines along the last axis, whose numbers lie
// together in memory, are read and written by their warps. Those along another axis lie side by side: the block
// copies them together (SEMICONV_SIDE_BY_SIDE), so that neighbouring threads move neighbouring numbers.
//
//     memory           y = 0   line 0 1 2 3 ...      shared memory   line 0   y = 0 1 2 ...   results   winners
//                      y = 1   line 0 1 2 3 ...  -->                 line 1   y = 0 1 2 ...
//
// Needs SEMICONV_STORAGE, SEMICONV_OUT (the results' storage type), SEMICONV_KERNEL (the function's name),
// SEMICONV_COLUMNS (lines of a block), SEMICONV_SIDE_BY_SIDE (true or false), SEMICONV_WINNERS (true or false: whether
// they are stored), SEMICONV_SHARED (true or false: where lines lie), SEMICONV_MAXIMUM (true or false),
// SEMICONV_FINISH (the number of a Finish).
#include "../parabolas.cuh"

namespace semiconv {

using Out = SEMICONV_OUT;
constexpr int warp = 32, columns = SEMICONV_COLUMNS;
constexpr uint32 all_lanes = 0xffffffffu;
// Of a multiprocessor at a time: as many as registers suffice for without spills.
constexpr int resident_warps = !SEMICONV_SIDE_BY_SIDE ? 28 : architecture >= 1000 ? 20 : 24;

// Twin of semiconv_cupy/ndimage/structs.py. `exact`: sums are. `repeat` lines in a row have the costs of one group,
// the next ones of the next. The outputs begin .. end - 1 of each line are computed. From a number of a line to the
// next one are the `inner` numbers of later axes. Of results, `row` of them lie together, and rows `row_step` apart,
// where they are a part of a larger array.
struct LinePass {
  int64 lines, size, exact, groups, repeat, begin, end, inner, row, row_step;

  SEMICONV_FN int64 place(int64 line) const { return line / inner * size * inner + line % inner; }
  SEMICONV_FN int64 result_step() const { return inner / row * row_step; }
  SEMICONV_FN int64 result_place(int64 line) const {
    const int64 of_inner = line % inner;
    return line / inner * (end - begin) * result_step() + of_inner / row * row_step + of_inner % row;
  }
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

// The envelope of one line. read(y): a number of it, which may be value[y]; put(x, result, winner): stores them.
// first, last: a number for each block of the line and one more.
template <class Read, class Put>
SEMICONV_FN void envelope(const LinePass& pass, const double* cost, double* value, int* first, int* last,
                          Read&& read, Put&& put) {
  const int lane = threadIdx.x % warp;
  const int64 size = pass.size, from = pass.begin, to = pass.end;
  if (cost[0] > 0) {  // nothing moves: NaN stays, too
    for (int64 x = from + lane; x < to; x += warp) {
      const double v = read(x);
      put(x, finished<Out>(SEMICONV_MAXIMUM ? -v : v, SEMICONV_MAXIMUM, SEMICONV_FINISH), (int)x);
    }
    return;
  }
  const double none = Extreme<double>::highest();
  double least = none, magnitude = 0;
  for (int64 y = lane; y < size; y += warp) {
    const double v = parabola_value(read(y), SEMICONV_MAXIMUM);
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
    for (int64 x = from + lane; x < to; x += warp)
      put(x, finished<Out>(least, SEMICONV_MAXIMUM, SEMICONV_FINISH), found == none ? -1 : (int)found);
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
    put(x, finished<Out>(best, SEMICONV_MAXIMUM, SEMICONV_FINISH), (int)at);
  }
}

}  // namespace semiconv

// nodes: two numbers for each block of a line and one more. `out` may be the source: lines are read as a whole first.
extern "C" __global__ void __launch_bounds__(32 * SEMICONV_COLUMNS, semiconv::resident_warps / SEMICONV_COLUMNS)
SEMICONV_KERNEL(const semiconv::LinePass pass, const double* __restrict__ cost,
                const semiconv::Storage* source, semiconv::SEMICONV_OUT* out, int* __restrict__ winners,
                double* scratch, int* nodes) {
  using namespace semiconv;
  const int own = threadIdx.x / warp;
  const int64 number = (int64)blockIdx.x * columns + own, size = pass.size, from = pass.begin, to = pass.end;
  const int64 blocks = ceil_div(size, (int64)warp);
  const bool has_line = number < pass.lines;
  int* const first = nodes + number * 2 * (blocks + 1);
  int* const last = first + blocks + 1;
  const double* const costs = cost + number / pass.repeat % pass.groups * size;
#if SEMICONV_SHARED
  extern __shared__ double shared[];
#endif
#if SEMICONV_SIDE_BY_SIDE
  // An odd pitch: the numbers of neighbouring lines lie in different banks.
  const int pitch = (int)size | 1, results_pitch = (int)(to - from) | 1;
  int* const chosen = (int*)(shared + columns * pitch);
  Out* const results = (Out*)(chosen + (SEMICONV_WINNERS ? columns * results_pitch : 0));
  const int column = threadIdx.x % columns, row = threadIdx.x / columns;
  const int64 other = (int64)blockIdx.x * columns + column;
  const int64 begin = pass.place(other), results_begin = pass.result_place(other), step = pass.result_step();
  const bool copies = other < pass.lines;
  for (int64 y = row; copies && y < size; y += warp)
    shared[column * pitch + y] = (double)load(source[begin + y * pass.inner]);
  __syncthreads();
  double* const value = shared + own * pitch;
  if (has_line)
    envelope(pass, costs, value, first, last, [&](int64 y) { return value[y]; },
             [&](int64 x, Out result, int winner) {
               results[own * results_pitch + x - from] = result;
               if (SEMICONV_WINNERS) chosen[own * results_pitch + x - from] = winner;
             });
  __syncthreads();
  for (int64 x = row; copies && x < to - from; x += warp) {
    out[results_begin + x * step] = results[column * results_pitch + x];
    if (SEMICONV_WINNERS) winners[results_begin + x * step] = chosen[column * results_pitch + x];
  }
#else
  if (!has_line) return;
  const int64 begin = number * size, results = number * (to - from) - from;
#if SEMICONV_SHARED
  double* const value = shared + own * size;
#else
  double* const value = scratch + begin;
#endif
  envelope(pass, costs, value, first, last, [&](int64 y) { return (double)load(source[begin + y]); },
           [&](int64 x, Out result, int winner) {
             out[results + x] = result;
             if (SEMICONV_WINNERS) winners[results + x] = winner;
           });
#endif
}
