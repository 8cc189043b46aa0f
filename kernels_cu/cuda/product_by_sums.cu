// Matrix products in log and root on the GPU by ordinary sums: what comes before and after the product.
//
// Needs the semifield's macros (SEMICONV_LOG or SEMICONV_ROOT), SEMICONV_STORAGE, and the names of three functions:
//   SEMICONV_KERNEL_EXTREMES    the extreme numbers of every part of a row of terms
//   SEMICONV_KERNEL_TRANSFORM   E of every number, and the ranges of the rows
//   SEMICONV_KERNEL             an output's value from its sum, or a flag
//
// by_sums.cuh has the mathematics. A row of terms is what one index of an operand meets: it has one shift.
//
//     img --> E(img) \                               S holds     --> restore(S)
//                     ordinary product (product.cu) <
//     krn --> E(krn) /                               S does not  --> a flag for the output's tile
//
// Then product.cu in the semifield itself is launched for all tiles: a block whose tile has no flag returns at
// once. The host decides nothing and so waits for nothing.
//
// An operand is seen by blocks of 32 rows and a part of the terms. E lies with neighbouring rows side by side,
// as the product copies it in chunks (product_panels.cuh); a block reads the operand along its shorter stride
// and turns squares of 32 x 32 numbers in shared memory.
//
//     img, rows by terms      t0 t1 t2 ..          E(img)      r0 r1 r2 .. | 0 up to a multiple of 8
//                         r0  .  .  .       -->            t0  .  .  .
//                         r1  .  .  .                      t1  .  .  .
#include "../product.cuh"
#include "extremes.cuh"

namespace semiconv {

constexpr int side = 32, lines = 8;  // threads of a block: 8 lines of 32

// One operand, and how its blocks are cut.
struct TransformedOperand {
  int64 of_kernel;          // whether it is krn
  int64 by_terms;           // whether neighbouring terms lie closer in memory than neighbouring rows
  int64 rows, pitch;        // of a matrix; pitch: from a term of E to the next, rows filled up
  int64 terms;
  int64 parts, part_terms;  // blocks that share the terms of a row, and how many each takes
};

// The offset of an index in an operand, or in the result.
enum Array : int { image_array, kernel_array, result_array };
SEMICONV_FN int64 stride_of(const Level& level, int array) {
  return array == image_array ? level.img : array == kernel_array ? level.krn : level.out;
}
SEMICONV_FN int64 offset_of(const Level* levels, int64 count, int64 index, int array) {
  int64 at = 0;
  for (int l = (int)count - 1; l > 0; --l) {
    at += index % levels[l].size * stride_of(levels[l], array);
    index /= levels[l].size;
  }
  return at + index * stride_of(levels[0], array);
}

// The place of a block: 32 rows of a matrix, and the terms [first, last).
struct OperandBlock {
  int64 matrix, row, part, first, last;
  SEMICONV_FN OperandBlock(const TransformedOperand& x, int64 n) {
    const int64 blocks = ceil_div<int64>(x.pitch, side);
    row = n % blocks * side;
    part = n / blocks % x.parts;
    matrix = n / blocks / x.parts;
    first = part * x.part_terms;
    last = smaller_of<int64>(x.terms, first + x.part_terms);
  }
};

// visit(number, term) of the block's numbers: threads of one threadIdx.x share a row. All threads call it.
template <class F>
SEMICONV_FN void visit_numbers(const Product& g, const TransformedOperand& x, const OperandBlock& block,
                               const Storage* __restrict__ numbers, F&& visit) {
  __shared__ Real square[side][side + 1];  // by row
  const int array = x.of_kernel ? kernel_array : image_array;
  const Level* own = x.of_kernel ? g.produced : g.free;
  const int64 own_levels = x.of_kernel ? g.produced_levels : g.free_levels;
  const int fast = (int)threadIdx.x % side, slow = (int)threadIdx.x / side;
  numbers += offset_of(g.shared, g.shared_levels, block.matrix, array);
  for (int64 first = block.first; first < block.last; first += side) {
    __syncthreads();
#pragma unroll
    for (int i = slow; i < side; i += lines) {
      const int row = x.by_terms ? i : fast, term = x.by_terms ? fast : i;
      if (block.row + row < x.rows && first + term < block.last)
        square[row][term] = (Real)load(numbers[offset_of(own, own_levels, block.row + row, array) +
                                               offset_of(g.contracted, g.contracted_levels, first + term, array)]);
    }
    __syncthreads();
#pragma unroll
    for (int i = slow; i < side; i += lines)
      if (block.row + fast < x.rows && first + i < block.last) visit(square[fast][i], first + i);
  }
}

// The extremes that all threads of a row have seen; those of line 0 have them then.
SEMICONV_FN void merge_lines(Extremes& seen) {
  __shared__ Real first[lines][side], last[lines][side];
  const int x = (int)threadIdx.x % side, y = (int)threadIdx.x / side;
  first[y][x] = seen.first;
  last[y][x] = seen.last;
  __syncthreads();
  if (y > 0) return;
  for (int line = 1; line < lines; ++line) seen.see(first[line][x], last[line][x]);
}

}  // namespace semiconv

// extremes: two numbers for each (matrix, part, row). Clears the flags, besides.
extern "C" __global__ void __launch_bounds__(256)
SEMICONV_KERNEL_EXTREMES(const __grid_constant__ semiconv::Product g, const semiconv::Storage* __restrict__ numbers,
                         const __grid_constant__ semiconv::TransformedOperand x,
                         semiconv::Real* __restrict__ extremes, int* __restrict__ unproven,
                         long long unproven_count) {
  using namespace semiconv;
  for (int64 n = (int64)blockIdx.x * blockDim.x + threadIdx.x; n < unproven_count;
       n += (int64)gridDim.x * blockDim.x)
    unproven[n] = 0;
  const OperandBlock block(x, blockIdx.x);
  const Setting setting(g.parameters, 0);
  const BySums<Real> e(setting);
  Extremes seen(e);
  visit_numbers(g, x, block, numbers, [&](Real number, int64) {
    if (e.counts(number)) seen.see(number, number);
  });
  merge_lines(seen);
  const int64 row = block.row + threadIdx.x;
  if (threadIdx.x >= side || row >= x.rows) return;
  const int64 at = ((block.matrix * x.parts + block.part) * x.rows + row) * 2;
  extremes[at] = seen.first;
  extremes[at + 1] = seen.last;
}

// transformed: (matrix, term, row); ranges: two numbers for each (matrix, row).
extern "C" __global__ void __launch_bounds__(256)
SEMICONV_KERNEL_TRANSFORM(const __grid_constant__ semiconv::Product g, const semiconv::Storage* __restrict__ numbers,
                          const __grid_constant__ semiconv::TransformedOperand x,
                          const semiconv::Real* __restrict__ extremes, semiconv::Real* __restrict__ transformed,
                          semiconv::Real* __restrict__ ranges) {
  using namespace semiconv;
  __shared__ Real shifts[side];
  const OperandBlock block(x, blockIdx.x);
  const int fast = (int)threadIdx.x % side, slow = (int)threadIdx.x / side;
  const int64 row = block.row + fast;
  const Setting setting(g.parameters, 0);
  const BySums<Real> e(setting);
  Extremes seen(e);
  if (row < x.rows)
    for (int64 part = slow; part < x.parts; part += lines) {
      const int64 at = ((block.matrix * x.parts + part) * x.rows + row) * 2;
      seen.see(extremes[at], extremes[at + 1]);
    }
  merge_lines(seen);
  if (slow == 0) {
    const Range<Real> range = seen.range();
    shifts[fast] = range.shift;
    if (block.part == 0 && row < x.rows) {
      ranges[(block.matrix * x.rows + row) * 2] = range.shift;
      ranges[(block.matrix * x.rows + row) * 2 + 1] = range.smallest;
    }
  }
  __syncthreads();
  const Real shift = shifts[fast];
  Real* const to = transformed + block.matrix * x.terms * x.pitch + row;
  visit_numbers(g, x, block, numbers, [&](Real number, int64 term) {
    to[term * x.pitch] = e.transform(number, shift);
  });
  if (row >= x.rows && row < x.pitch)
    for (int64 term = block.first + slow; term < block.last; term += lines) to[term * x.pitch] = 0;
}

// sums: (matrix, row, column) of the transformed operands' product, rows and columns filled up. Columns are
// those of `columns_of`, the operand along which results are neighbours. A block has 8 x 32 outputs. unproven: a
// flag for each of tiles_y x tiles_x tiles of tile_rows x tile_columns outputs; some threads write the same one.
extern "C" __global__ void __launch_bounds__(256)
SEMICONV_KERNEL(const __grid_constant__ semiconv::Product g,
                const __grid_constant__ semiconv::TransformedOperand rows_of,
                const __grid_constant__ semiconv::TransformedOperand columns_of,
                const semiconv::Real* __restrict__ sums, const semiconv::Real* __restrict__ row_ranges,
                const semiconv::Real* __restrict__ column_ranges, semiconv::Storage* __restrict__ out,
                int* __restrict__ unproven, long long tile_rows, long long tile_columns, long long tiles_y,
                long long tiles_x) {
  using namespace semiconv;
  const int64 blocks_x = ceil_div<int64>(columns_of.rows, side), blocks_y = ceil_div<int64>(rows_of.rows, lines);
  const int64 rest = blockIdx.x / blocks_x, matrix = rest / blocks_y;
  const int64 row = rest % blocks_y * lines + threadIdx.x / side;
  const int64 column = blockIdx.x % blocks_x * side + threadIdx.x % side;
  if (row >= rows_of.rows || column >= columns_of.rows) return;
  const bool image_in_columns = rows_of.of_kernel;
  const Range<Real> of_row = range_of(row_ranges, matrix * rows_of.rows + row);
  const Range<Real> of_column = range_of(column_ranges, matrix * columns_of.rows + column);
  const Range<Real>&image = image_in_columns ? of_column : of_row, &kernel = image_in_columns ? of_row : of_column;
  const Real sum = sums[(matrix * rows_of.pitch + row) * columns_of.pitch + column];
  const Setting setting(g.parameters, 0);
  const BySums<Real> e(setting);
  if (!Proof<Real>(e, image, kernel, rows_of.terms).holds(sum)) {
    unproven[(matrix * tiles_y + row / tile_rows) * tiles_x + column / tile_columns] = 1;
    return;
  }
  out[offset_of(g.shared, g.shared_levels, matrix, result_array) +
      offset_of(g.free, g.free_levels, image_in_columns ? column : row, result_array) +
      offset_of(g.produced, g.produced_levels, image_in_columns ? row : column, result_array)] =
      store(e.restore(sum, image.shift, kernel.shift));
}
