// Envelopes of parabolas in float32 where it holds all sums, such as integers: lines along any axis.
//
// A block takes a few lines that lie side by side, so that whole sectors of memory are read and written; in shared
// memory each of its warps has a line. Nodes and blocks of outputs are those of parabolas.cu. With
//
//     v[y] + w (x - y)^2  =  w x^2 + (u[y] - 2 w x y),    u[y] = v[y] + w y^2
//
// a candidate costs one multiplication with addition, and no cost is looked up. Needs SEMICONV_STORAGE=float32,
// SEMICONV_KERNEL (the function's name), SEMICONV_OUT (the results' type), SEMICONV_COLUMNS (lines of a block),
// SEMICONV_WINNERS (true or false: whether they are stored), SEMICONV_FINISH (the number of a Finish).
#include "../parabolas.cuh"

namespace semiconv {

constexpr int warp = 32, columns = SEMICONV_COLUMNS;
constexpr uint32 all_lanes = 0xffffffffu;

// Twin of semiconv_cupy/ndimage/structs.py. `followers`: winners along so many other axes move with these.
struct SinglePass {
  int64 lines, size, inner, followers;
  float32 weight;
};

SEMICONV_FN float least_of_warp(float value) {
#pragma unroll
  for (int apart = warp / 2; apart > 0; apart /= 2) {
    const float other = __shfl_xor_sync(all_lanes, value, apart);
    value = other < value ? other : value;
  }
  return value;
}
struct alignas(16) Four {
  float of[4];
};

// One warp's line: u of its elements, and infinity behind its end.
struct Line {
  const float* u;
  float weight;
  int lane;

  // The first of the best candidates from .. to at x.
  SEMICONV_FN int locate(int x, int from, int to) const {
    if (from == to) return from;
    const float none = Extreme<float>::highest(), slope = -2 * weight * (float)x;
    float best = none;
    int at = to;
    for (int y = from + lane; y <= to; y += warp) {
      const float sum = u[y] + slope * (float)y;
      if (sum < best) {
        best = sum;
        at = y;
      }
    }
    const float winning = least_of_warp(best);
    const uint32 winners = __ballot_sync(all_lanes, best == winning);
    if (__popc(winners) == 1) return __shfl_sync(all_lanes, at, __ffs((int)winners) - 1);
    return (int)least_of_warp(best == winning ? (float)at : none);
  }
  // The best candidate from .. to at x, of which up to three more on each side are compared.
  SEMICONV_FN float fill(int x, int from, int to, int& winner) const {
    const float none = Extreme<float>::highest(), slope = -2 * weight * (float)x;
    float best[4] = {none, none, none, none};
    int at[4] = {-1, -1, -1, -1};
    for (int y = from & ~3; y <= to; y += 4) {
      const Four four = *(const Four*)(u + y);
      const float first = (float)y;
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const float sum = four.of[k] + slope * (first + (float)k);
        if (SEMICONV_WINNERS) at[k] = sum < best[k] ? y + k : at[k];
        best[k] = sum < best[k] ? sum : best[k];
      }
    }
    float least = best[0];
    winner = at[0];
#pragma unroll
    for (int k = 1; k < 4; ++k) {
      if (SEMICONV_WINNERS && (best[k] < least || (best[k] == least && at[k] < winner))) winner = at[k];
      least = best[k] < least ? best[k] : least;
    }
    return least + weight * (float)x * (float)x;
  }
};

}  // namespace semiconv

// `out` may be the source: a block reads all its lines first. winners and followers may be null.
extern "C" __global__ void __launch_bounds__(32 * SEMICONV_COLUMNS)
SEMICONV_KERNEL(const semiconv::SinglePass pass, const float* source, semiconv::SEMICONV_OUT* out,
                int* __restrict__ winners, int* followers) {
  using namespace semiconv;
  using Out = SEMICONV_OUT;
  extern __shared__ float shared[];
  const float none = Extreme<float>::highest();
  const int size = (int)pass.size, blocks = (size + warp - 1) / warp, pitch = blocks * warp + 4;
  const int lane = threadIdx.x % warp, own = threadIdx.x / warp;
  // Which element of which line a thread copies: neighbours in memory by neighbouring threads.
  const bool rows = pass.inner == 1;
  const int column = rows ? own : (int)threadIdx.x % columns, row = rows ? lane : (int)threadIdx.x / columns;
  const int64 number = (int64)blockIdx.x * columns + column;
  const int64 begin = number / pass.inner * size * pass.inner + number % pass.inner;
  const bool inside = number < pass.lines;
  float* const values = shared;
  float* const results = values + columns * pitch;
  int* const chosen = (int*)(results + columns * pitch);
  int* const nodes = chosen + (SEMICONV_WINNERS ? columns * pitch : 0);

  for (int y = row; y < pitch; y += warp) {
    const float v = inside && y < size ? source[begin + (int64)y * pass.inner] : none;
    values[column * pitch + y] = v == v ? v + pass.weight * (float)y * (float)y : none;
  }
  __syncthreads();
  const Line line{values + own * pitch, pass.weight, lane};
  float* const result = results + own * pitch;
  int* const first = nodes + own * (blocks + 1);
  float least = none;
  for (int y = lane; y < size; y += warp) least = line.u[y] < least ? line.u[y] : least;
  least = least_of_warp(least);
  if (lane == 0) {
    first[0] = 0;
    first[blocks] = size - 1;
  }
  __syncwarp();
  int step = 1;
  while (2 * step < blocks) step *= 2;
  for (; least < none && step > 0; step /= 2) {
    for (int node = step; node < blocks; node += 2 * step) {  // between nodes of earlier levels alone
      const int right = node + step < blocks ? node + step : blocks;
      const int found = line.locate(node * warp, first[node - step], first[right]);
      if (lane == 0) first[node] = found;
    }
    __syncwarp();
  }
  for (int b = 0; b < blocks; ++b) {
    int winner = -1;
    result[b * warp + lane] = least < none ? line.fill(b * warp + lane, first[b], first[b + 1], winner) : none;
    if (SEMICONV_WINNERS) chosen[own * pitch + b * warp + lane] = winner;
  }
  __syncthreads();
  for (int y = row; inside && y < size; y += warp) {
    const int64 at = begin + (int64)y * pass.inner;
    out[at] = finished<Out>(results[column * pitch + y], false, SEMICONV_FINISH);
    if (SEMICONV_WINNERS) winners[at] = chosen[column * pitch + y];
  }
  if (!SEMICONV_WINNERS) return;
  int* const moved = (int*)values;
  for (int64 f = 0; f < pass.followers; ++f) {
    int* const plane = followers + f * pass.lines * pass.size;
    __syncthreads();
    for (int y = row; inside && y < size; y += warp)
      moved[column * pitch + y] = plane[begin + (int64)y * pass.inner];
    __syncthreads();
    for (int y = row; inside && y < size; y += warp) {
      const int winner = chosen[column * pitch + y];
      plane[begin + (int64)y * pass.inner] = winner < 0 ? -1 : moved[column * pitch + winner];
    }
  }
}
