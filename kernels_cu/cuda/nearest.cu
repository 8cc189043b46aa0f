// How far the nearest element that is not set lies along rows: a warp for each row.
//
//     set        1 1 0 1 1 1 0 1
//     before     . . 2 2 2 2 6 6     forwards, 32 elements at a time; kept in the results
//     after      2 2 2 6 6 6 6 .     backwards
//
// Equally near: the element of less index. Needs SEMICONV_STORAGE (the results' type, float64 or float32, which holds
// positions meanwhile), SEMICONV_KERNEL (the function's name), SEMICONV_WINNERS (true or false: whether they are
// stored).
#include "../parabolas.cuh"

namespace semiconv {

constexpr int warp = 32, rows_of_block = 4;
constexpr uint32 all_lanes = 0xffffffffu;

}  // namespace semiconv

extern "C" __global__ void __launch_bounds__(128)
SEMICONV_KERNEL(long long rows, long long size, const double* __restrict__ cost,
                const unsigned char* __restrict__ set, semiconv::Storage* __restrict__ squares, int* __restrict__ winners,
                int finish) {
  using namespace semiconv;
  const int lane = threadIdx.x % warp;
  const int64 row = (int64)blockIdx.x * rows_of_block + threadIdx.x / warp, begin = row * size;
  if (row >= rows) return;
  const int64 chunks = ceil_div(size, (int64)warp);
  int64 carried = -1;
  for (int64 c = 0; c < chunks; ++c) {
    const int64 x = c * warp + lane;
    const uint32 zeros = __ballot_sync(all_lanes, x < size && !set[begin + x]);
    const uint32 until = zeros & (all_lanes >> (warp - 1 - lane));
    if (x < size) squares[begin + x] = (Storage)(until ? c * warp + (warp - 1 - __clz((int)until)) : carried);
    if (zeros) carried = c * warp + (warp - 1 - __clz((int)zeros));
  }
  carried = -1;
  for (int64 c = chunks - 1; c >= 0; --c) {
    const int64 x = c * warp + lane;
    const uint32 zeros = __ballot_sync(all_lanes, x < size && !set[begin + x]);
    const uint32 from = zeros & (all_lanes << lane);
    const int64 after = from ? c * warp + __ffs((int)from) - 1 : carried;
    if (x < size) {
      const int64 before = (int64)squares[begin + x];
      const bool left = before >= 0 && (after < 0 || x - before <= after - x);
      const int64 winner = left ? before : after;
      const double square = winner < 0 ? Extreme<double>::highest() : cost[left ? x - winner : winner - x];
      squares[begin + x] = finished<Storage>(square, false, finish);
      if (SEMICONV_WINNERS) winners[begin + x] = (int)winner;
    }
    if (zeros) carried = c * warp + __ffs((int)zeros) - 1;
  }
}
