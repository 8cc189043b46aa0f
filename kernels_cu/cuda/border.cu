// An array with what its border shows, so that windows lie inside: a copy, row by row.
//
// Needs SEMICONV_STORAGE, SEMICONV_KERNEL (the function's name), SEMICONV_RANK (number of axes). The
// tables say which element each position beyond the border shows; -1: `outside`. A block copies a part
// of a few rows, of which its threads along x share each one.
#include "../filters.cuh"

namespace semiconv {

constexpr int rank = SEMICONV_RANK;

// Twin of semiconv_cupy/ndimage/structs.py. In elements; `pitch` is from one row of the copy to the next.
// A window counts positions, of which neighbours in a row are `unit` elements apart.
struct Bordered {
  int64 size[max_rank], stride[max_rank];  // of the source
  int64 window[max_rank], before[max_rank];
  int64 unit;
  int64 pitch;
  int64 table[max_rank];                    // where the axis' entries start in the tables
  int64 rows, parts;                         // rows of the copy, parts of each
};

}  // namespace semiconv

extern "C" __global__ void __launch_bounds__(256)
SEMICONV_KERNEL(const semiconv::Bordered b, const semiconv::Storage* __restrict__ source,
                semiconv::Storage* __restrict__ copy, const long long* __restrict__ tables,
                semiconv::Real outside, int threads_x) {
  using namespace semiconv;
  constexpr int of_thread = 8;  // elements of a row
  const int rows = blockDim.x / threads_x, lane = threadIdx.x % threads_x;
  const int64 row = blockIdx.x / b.parts * rows + threadIdx.x / threads_x;
  if (row >= b.rows) return;
  bool inside = true;
  int64 rest = row;
#pragma unroll
  for (int a = rank - 2; a >= 0; --a) {
    const int64 extent = b.size[a] + b.window[a] - 1;
    const int64 element =
        element_at(b.size[a], b.before[a], tables + b.table[a], rest % extent - b.before[a]);
    rest /= extent;
    inside = inside && element >= 0;
    source += element * b.stride[a];
  }
  const int64 size = b.size[rank - 1], before = b.before[rank - 1], step = b.stride[rank - 1];
  const int64 width = size + (b.window[rank - 1] - 1) * b.unit;
  const long long* table = tables + b.table[rank - 1];
  copy += row * b.pitch;
  const int64 begin = blockIdx.x % b.parts * of_thread * threads_x + lane;
#pragma unroll
  for (int n = 0; n < of_thread; ++n) {
    const int64 x = begin + n * threads_x;
    if (x >= width) return;
    const int64 element = element_in_row(size, before, table, (int32)b.unit, x - before * b.unit);
    copy[x] = inside && element >= 0 ? source[element * step] : store(outside);
  }
}
