// Copies an array that lies in another order into C order, through tiles in shared memory.
//
// Needs SEMICONV_BYTES, the bytes of an element (1, 2, 4 or 8), and SEMICONV_KERNEL.
//
// A warp reads neighbours along the axis that is nearest in the array, and writes neighbours along the last one,
// so that both fill whole sectors of memory. Tiles that are neighbours in the copy are computed one after the
// other: where the last axis is short, they fill a sector together.
//
//                near ->                            last ->
//     last   0 1 2 3 .. 31  read by warp 0      near   0 32 64 ..   written by warp 0
//            32 ..          by warp 1                  1 33 65 ..   by warp 1
//
// A row has one element more than a tile, so that both directions meet 32 banks.
#include "../integers.cuh"

namespace semiconv {

// Neighbours along `near` are closest in the array, neighbours along `last` in the copy. The other axes come
// from the innermost on. Strides are in elements.
struct InOrder {
  int64 near, near_stride, near_step;    // elements, between neighbours in the array, and in the copy
  int64 last, last_stride;
  int64 others, size[max_rank + 2], stride[max_rank + 2], step[max_rank + 2];
  int64 blocks;                          // tiles
};

constexpr int side = 32, rows_at_once = 8;

template <int BYTES> struct Unsigned;
template <> struct Unsigned<1> { using Type = uint8; };
template <> struct Unsigned<2> { using Type = uint16; };
template <> struct Unsigned<4> { using Type = uint32; };
template <> struct Unsigned<8> { using Type = uint64; };
using Element = Unsigned<SEMICONV_BYTES>::Type;

}  // namespace semiconv

extern "C" __global__ void __launch_bounds__(semiconv::side * semiconv::rows_at_once)
SEMICONV_KERNEL(const __grid_constant__ semiconv::InOrder g, const semiconv::Element* __restrict__ array,
                semiconv::Element* __restrict__ copy) {
  using namespace semiconv;
  __shared__ Element tile[side][side + 1];
  const int x = (int)(threadIdx.x % side), y = (int)(threadIdx.x / side);
  const int64 tiles_along_last = (g.last + side - 1) / side;
  for (int64 block = blockIdx.x; block < g.blocks; block += gridDim.x) {
    const int64 first_last = block % tiles_along_last * side;
    int64 rest = block / tiles_along_last, from = first_last * g.last_stride, to = first_last;
    for (int a = 0; a < (int)g.others; ++a) {
      from += rest % g.size[a] * g.stride[a];
      to += rest % g.size[a] * g.step[a];
      rest /= g.size[a];
    }
    const int64 first_near = rest * side;
    from += first_near * g.near_stride;
    to += first_near * g.near_step;
    for (int i = y; i < side; i += rows_at_once)
      if (first_near + x < g.near && first_last + i < g.last)
        tile[i][x] = array[from + x * g.near_stride + i * g.last_stride];
    __syncthreads();
    for (int i = y; i < side; i += rows_at_once)
      if (first_near + i < g.near && first_last + x < g.last) copy[to + i * g.near_step + x] = tile[x][i];
    __syncthreads();
  }
}
