// Minima and maxima over a window along one axis: one block per tile of (outputs, columns).
//
// Needs SEMICONV_STORAGE, SEMICONV_KERNEL (the function's name), SEMICONV_MINIMUM (true or false).
// The array is (outer, size, inner), C-contiguous. A tile's positions are copied into shared memory
// by the table of border positions; windows then double, and the last one overlaps. Sizes, window,
// tile and table are arguments: nothing is compiled for another one.
#include "../sums.cuh"

extern "C" __global__ void __launch_bounds__(256)
SEMICONV_KERNEL(const semiconv::Storage* __restrict__ source, semiconv::Storage* __restrict__ out,
                const long long* __restrict__ table, semiconv::Real outside, long long outer,
                long long size, long long inner, long long window, long long tile,
                long long columns) {
  using namespace semiconv;
  extern __shared__ unsigned long long shared_memory[];
  constexpr bool minimum = SEMICONV_MINIMUM;
  const int64 column_tiles = (inner + columns - 1) / columns, tiles = (size + tile - 1) / tile;
  const int64 total = outer * tiles * column_tiles;
  for (int64 n = blockIdx.x; n < total; n += gridDim.x) {
    const int64 column = n % column_tiles * columns, first = n / column_tiles % tiles * tile;
    const int64 begin = n / column_tiles / tiles * size * inner + column;
    const int64 wide = inner - column < columns ? inner - column : columns;
    const int64 outputs = size - first < tile ? size - first : tile;
    const int64 positions = outputs + window - 1;
    Real* from = (Real*)shared_memory;
    Real* to = from + (tile + window - 1) * columns;
    __syncthreads();  // the tile before is done with the memory
    for (int64 e = threadIdx.x; e < positions * wide; e += blockDim.x) {
      const int64 element = table[first + e / wide];
      const Real value = element < 0 ? outside : load(source[begin + element * inner + e % wide]);
      from[e] = better<minimum>(worst<minimum, Real>(), value);
    }
    __syncthreads();
    int64 width = 1;
    for (; 2 * width <= window; width *= 2) {
      for (int64 e = threadIdx.x; e < (positions - 2 * width + 1) * wide; e += blockDim.x)
        to[e] = better<minimum>(from[e], from[e + width * wide]);
      __syncthreads();
      Real* done = from;
      from = to;
      to = done;
    }
    for (int64 e = threadIdx.x; e < outputs * wide; e += blockDim.x)
      out[begin + (first + e / wide) * inner + e % wide] =
          store(better<minimum>(from[e], from[e + (window - width) * wide]));
  }
}
