// An array with what its border shows, so that windows lie inside: a copy, row by row.
//
// Needs SEMICONV_STORAGE, SEMICONV_KERNEL (the function's name), SEMICONV_RANK (number of axes). The
// tables of border positions say which element each position shows; -1: `outside`. A block copies a
// part of a few rows, of which its threads along x share each one.
#include "../portable.cuh"

namespace semiconv {

constexpr int most_axes = 8, rank = SEMICONV_RANK;

// Twin of semiconv_cupy/ndimage/cuda.py. In elements; `pitch` is from one row of the copy to the next.
struct Bordered {
  int64 size[most_axes], stride[most_axes];  // of the copy; of the source
  int64 pitch;
  int64 table[most_axes];                    // where the axis' positions start in the tables
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
    const int64 element = tables[b.table[a] + rest % b.size[a]];
    rest /= b.size[a];
    inside = inside && element >= 0;
    source += element * b.stride[a];
  }
  const int64 width = b.size[rank - 1], step = b.stride[rank - 1];
  const long long* table = tables + b.table[rank - 1];
  copy += row * b.pitch;
  const int64 begin = blockIdx.x % b.parts * of_thread * threads_x + lane;
#pragma unroll
  for (int n = 0; n < of_thread; ++n) {
    const int64 x = begin + n * threads_x;
    if (x >= width) return;
    const int64 element = table[x];
    copy[x] = inside && element >= 0 ? source[element * step] : store(outside);
  }
}
