// Envelopes of parabolas over lines: a warp for each line, several for a long one.
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
#include "line_search.cuh"

namespace semiconv {

constexpr int columns = SEMICONV_COLUMNS;
// Of a multiprocessor at a time: as many as registers suffice for without spills.
constexpr int resident_warps = !SEMICONV_SHARED || architecture >= 1000 ? 20 : 32;

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
  const double slack = near_ties * range.magnitude;
  const Line<false> line{value, cost, lane, pass.exact ? 0 : slack, nullptr};
  const int blocks = (to - from + block_size - 1) / block_size;
#if SEMICONV_SQUARES
  if (cost.weight > 2 * line.slack) {
    if constexpr (SEMICONV_SHARED) {
      const bool fits = size >= least_thinned && size <= 2 * warp * (blocks + 1) && range.magnitude < most_thinned;
      uint16* place = nullptr;
      const Thinning thinning{value, cost.weight, 2 * slack + thinning_margin * cost.weight, member, (int*)memory};
      const int stay = fits ? thinning.all((uint32*)nodes, place, size) : 0;
      if (stay) {
        const Line<true> thin{value, cost, lane, 0, place};
        Nodes<true, Line<true>>(thin, nodes, blocks, from, own_warp).find_all(size, stay);
        fill_blocks(thin, nodes, nodes, blocks, from, to, member, put);
        return;
      }
    }
    Nodes<true, Line<false>>(line, nodes, blocks, from, own_warp).find_all(size, size);
    fill_blocks(line, nodes, nodes, blocks, from, to, member, put);
    return;
  }
#endif
  Nodes<false, Line<false>>(line, nodes, blocks, from, own_warp).find_all(size, size);
  fill_blocks(line, nodes, nodes + blocks + 1, blocks, from, to, member, put);
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
