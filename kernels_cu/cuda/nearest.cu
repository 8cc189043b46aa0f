// How far the nearest element that is not set lies along rows: a warp for each row.
//
//     set        1 1 0 1 1 1 0 1
//     before     . . 2 2 2 2 6 6
//     after      2 2 2 6 6 6 6 .
//
// Of a row of at most 1024 elements each lane keeps 32 bits, so that it is read and written once. Longer ones are
// walked forwards for `before`, which the results hold meanwhile, and backwards for `after`.
//
// Of two elements that are equally near, the one of the lower index counts. Needs SEMICONV_STORAGE (the results'
// type, float64 or float32, which holds positions meanwhile), SEMICONV_KERNEL (the function's name), SEMICONV_WINNERS
// (true or false: whether they are stored).
#include "../parabolas.cuh"

namespace semiconv {

constexpr int warp = 32, rows_of_block = 4;
constexpr uint32 all_lanes = 0xffffffffu;

// One warp's row.
struct Row {
  const double* __restrict__ cost;
  const unsigned char* __restrict__ set;
  Storage* __restrict__ squares;
  int* __restrict__ winners;
  int64 size;
  int lane, finish;

  // Which of 32 elements are not set.
  SEMICONV_FN uint32 zeros(int64 chunk) const {
    const int64 x = chunk * warp + lane;
    return __ballot_sync(all_lanes, x < size && !set[x]);
  }
  // The last zero at this lane or before it, and the first one from it on; else what other chunks have.
  SEMICONV_FN int64 before(int64 chunk, uint32 zeros, int64 carried) const {
    const uint32 until = zeros & (all_lanes >> (warp - 1 - lane));
    return until ? chunk * warp + (warp - 1 - __clz((int)until)) : carried;
  }
  SEMICONV_FN int64 after(int64 chunk, uint32 zeros, int64 carried) const {
    const uint32 from = zeros & (all_lanes << lane);
    return from ? chunk * warp + __ffs((int)from) - 1 : carried;
  }
  SEMICONV_FN void put(int64 x, int64 before, int64 after) const {
    if (x >= size) return;
    const bool left = before >= 0 && (after < 0 || x - before <= after - x);
    const int64 winner = left ? before : after;
    const double square = winner < 0 ? Extreme<double>::highest() : cost[left ? x - winner : winner - x];
    squares[x] = finished<Storage>(square, false, finish);
    if (SEMICONV_WINNERS) winners[x] = (int)winner;
  }

  SEMICONV_FN void at_once(int chunks) const {
    uint32 own = 0;  // of the chunk with this lane's number
#pragma unroll 8
    for (int c = 0; c < chunks; ++c) {
      const uint32 seen = zeros(c);
      if (lane == c) own = seen;
    }
    const uint32 some = __ballot_sync(all_lanes, own != 0);
    const int first = lane * warp + __ffs((int)own) - 1, last = lane * warp + (warp - 1 - __clz((int)own));
#pragma unroll 2
    for (int c = 0; c < chunks; ++c) {
      const uint32 earlier = some & ((1u << c) - 1), later = some & ~((2u << c) - 1);
      const int last_before = __shfl_sync(all_lanes, last, earlier ? warp - 1 - __clz((int)earlier) : 0);
      const int first_after = __shfl_sync(all_lanes, first, later ? __ffs((int)later) - 1 : 0);
      const uint32 seen = __shfl_sync(all_lanes, own, c);
      put(c * warp + lane, before(c, seen, earlier ? last_before : -1), after(c, seen, later ? first_after : -1));
    }
  }
  SEMICONV_FN void there_and_back(int64 chunks) const {
    int64 carried = -1;
    for (int64 c = 0; c < chunks; ++c) {
      const int64 x = c * warp + lane;
      const uint32 seen = zeros(c);
      if (x < size) squares[x] = (Storage)before(c, seen, carried);
      if (seen) carried = c * warp + (warp - 1 - __clz((int)seen));
    }
    carried = -1;
    for (int64 c = chunks - 1; c >= 0; --c) {
      const int64 x = c * warp + lane;
      const uint32 seen = zeros(c);
      put(x, x < size ? (int64)squares[x] : -1, after(c, seen, carried));
      if (seen) carried = c * warp + __ffs((int)seen) - 1;
    }
  }
};

}  // namespace semiconv

extern "C" __global__ void __launch_bounds__(128)
SEMICONV_KERNEL(long long rows, long long size, const double* __restrict__ cost,
                const unsigned char* __restrict__ set, semiconv::Storage* __restrict__ squares,
                int* __restrict__ winners, int finish) {
  using namespace semiconv;
  const int lane = threadIdx.x % warp;
  const int64 number = (int64)blockIdx.x * rows_of_block + threadIdx.x / warp, begin = number * size;
  if (number >= rows) return;
  const int64 chunks = ceil_div(size, (int64)warp);
  const Row row{cost, set + begin, squares + begin, SEMICONV_WINNERS ? winners + begin : nullptr, size, lane, finish};
  if (chunks <= warp) row.at_once((int)chunks);
  else row.there_and_back(chunks);
}
