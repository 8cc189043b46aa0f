// Minima and maxima over a footprint along up to three axes, by its runs along the last one.
//
// Needs SEMICONV_STORAGE, SEMICONV_KERNEL (the function's name), SEMICONV_MINIMUM (true or false), and
//   SEMICONV_TOGETHER   words of outputs that a thread finds
//   SEMICONV_BLOCKS     blocks that a multiprocessor holds at a time, if registers suffice
// Sizes, windows, tiles, what lies beyond the border and the runs are arguments: other ones compile nothing.
//
// A run of a footprint is covered by two windows of a power of two that overlap:
//
//     footprint   . X X X X X .     a run of 5 taps: the windows of 4 at taps 1 and 2
//                 X X X X X X X     a run of 7 taps: the windows of 4 at taps 0 and 3
//
// Colours lie between each other in a row, `unit` elements from a pixel to the next: windows along a row then
// take every `unit`-th word.
//
// A tile and what its windows see is copied into shared memory once. Each place of a line first holds its
// element; level after level it becomes the best of a window twice as wide, in place (double_all). At each
// level, every output looks up the runs of that width (`lookups`: offsets of all levels, one after the other;
// level n has those from first[n] on). A word holds an element of each of `per_word` parts of the tile, one
// below the other, which all look up the same places.
#include "packed_words.cuh"

namespace semiconv {

constexpr int most_levels = 16;

// Twin of semiconv_cupy/ndimage/structs.py. A window counts positions, all else elements.
struct Footprint {
  int64 batch, size[3];
  int32 window[3], before[3];
  int32 unit;  // elements from one position of a row to the next
  // Words of outputs along the axes: powers of two. A line has at most as many as a block has threads; if the
  // tile has depth, so has a plane.
  int32 tile[3];
  int32 pitch;  // words from a line to the next
  int32 aligned;  // whether rows begin where four elements may be moved at once
  int32 levels, first[most_levels + 1];  // where the lookups of each level begin
};

constexpr int together = SEMICONV_TOGETHER, threads = 256;
// So few that registers suffice without spills.
constexpr int least_blocks = together * sizeof(Unpacked) < 64 ? SEMICONV_BLOCKS : 2;

SEMICONV_FN int64 element_at(const Footprint& f, const int64* beyond, int axis, int64 place) {
  for (int a = 0; a < axis; ++a) beyond += f.window[a] - 1;
  return element_in_row(f.size[axis], f.before[axis], beyond, axis == 2 ? f.unit : 1, place);
}

struct Block {
  const Footprint& f;
  Word* const words;
  const int64 *beyond, *const origin;
  SEMICONV_FN int32 high() const { return f.tile[1] + f.window[1] - 1; }
  SEMICONV_FN int32 broad() const { return f.tile[2] + (f.window[2] - 1) * f.unit; }
  SEMICONV_FN int32 lines() const { return (f.tile[0] + f.window[0] - 1) * high(); }

  // The element at a place of the tile, -1 for the constant. Places that no output sees repeat the last seen.
  SEMICONV_FN int64 element(int axis, int32 within) const {
    const int32 unit = axis == 2 ? f.unit : 1;
    const int64 place = origin[axis] + within - f.before[axis] * unit;
    if (place >= 0 && place < f.size[axis]) return place;
    const int64 last = f.size[axis] + (f.window[axis] - 1 - f.before[axis]) * unit - 1;
    return element_at(f, beyond, axis, place < last ? place : last);
  }

  // Copies the tile, four words of a line at a time; they are loaded at once if the row has all four elements.
  SEMICONV_FN void load_all(const Storage* source, Storage outside) const {
    const int64 left = origin[2] - f.before[2] * f.unit;
    const int32 shift = f.aligned ? (int32)(left & 3) : 0;
    Elements constant;
    for (int i = 0; i < per_word; ++i) constant.of[i] = outside;
    for (Walk n(ceil_div<int32>(shift + broad(), 4)); n.outer < lines(); n.next()) {
      const int32 x = n.inner * 4 - shift, z = quotient_of_few(n.outer, high()), y = n.outer - z * high();
      const int64 plane = element(0, z);
      const Storage* there = source + plane * f.size[1] * f.size[2];
      const bool direct = f.aligned && left + x >= 0 && left + x + 4 <= f.size[2];
      int64 column[4] = {left + x};
      if (!direct) {
#pragma unroll
        for (int i = 0; i < 4; ++i) column[i] = element(2, x + i < 0 ? 0 : x + i);
      }
      Square square;
#pragma unroll
      for (int k = 0; k < per_word; ++k) {
        const int64 y_there = plane < 0 ? -1 : element(1, y + k * f.tile[1]);
        const Storage* row = there + y_there * f.size[2];
        RowPart part;
#pragma unroll
        for (int w = 0; w < row_words; ++w) part.of[w] = bit_cast<Word>(constant);
        if (y_there >= 0 && direct) part = *(const RowPart*)(row + column[0]);
#pragma unroll
        for (int w = 0; w < row_words; ++w) {
          Elements elements = bit_cast<Elements>(part.of[w]);
          if (y_there >= 0 && !direct) {
#pragma unroll
            for (int i = 0; i < per_word; ++i)
              if (column[w * per_word + i] >= 0) elements.of[i] = row[column[w * per_word + i]];
          }
          square.word[k * row_words + w] = Packing::to_keys(bit_cast<Word>(elements));
        }
      }
      const Square columns = columns_of<per_word>(square);
      Word* to = words + n.outer * f.pitch + x;
#pragma unroll
      for (int i = 0; i < 4; ++i)
        if (x + i >= 0 && x + i < broad()) to[i] = columns.word[i];
    }
  }

  // Replaces windows of `width` words by windows twice as wide, in place. Windows that would reach past the
  // line's end stay as they are: they are never looked up. The first parts of all lines are done first: a part
  // is written when no part before it needs its old words any more.
  SEMICONV_FN void double_all(int32 width) const {
    constexpr int32 part = 8;
    const int32 count = broad() - width;
    Walk n(lines());
    for (int32 begin = 0; begin < ceil_div<int32>(count, part) * lines(); begin += threads) {
      Word* line = words + n.inner * f.pitch + n.outer * part;
      const int32 rest = count - n.outer * part;
      Word both[part];
#pragma unroll
      for (int i = 0; i < part; ++i)
        if (i < rest)
          both[i] = Packing::pack(Packing::best(Packing::unpack(line[i]), Packing::unpack(line[i + width])));
      __syncthreads();
#pragma unroll
      for (int i = 0; i < part; ++i)
        if (i < rest) line[i] = both[i];
      n.next();
    }
  }

  // Finds a thread's outputs: they lie one below the other, or one behind the other if the tile has depth.
  SEMICONV_FN void find_all(const int32* lookups, Storage* out) const {
    const int32 x = threadIdx.x % f.tile[2], line = threadIdx.x / f.tile[2];
    const int32 y = line % f.tile[1], z = line / f.tile[1], lines = threads / f.tile[2];
    const bool deep = f.tile[0] > 1;
    const int32 step_z = deep ? lines / f.tile[1] : 0, step_y = deep ? 0 : lines;
    const int32 apart = (step_z * high() + step_y) * f.pitch;
    const Word* first = words + (z * high() + y) * f.pitch + x;
    Unpacked found[together];
#pragma unroll
    for (int n = 0; n < together; ++n) found[n] = Packing::unpack(first[lookups[0] + n * apart]);
    for (int32 level = 0;;) {
#pragma unroll 2
      for (int32 i = f.first[level]; i < f.first[level + 1]; ++i) {
        const Word* at = first + lookups[i];
#pragma unroll
        for (int n = 0; n < together; ++n, at += apart)
          found[n] = Packing::best(found[n], Packing::unpack(*at));
      }
      if (++level == f.levels) break;
      __syncthreads();
      double_all(f.unit << (level - 1));
      __syncthreads();
    }
    if (origin[2] + x >= f.size[2]) return;
#pragma unroll
    for (int n = 0; n < together; ++n)
      store_word(out + origin[2] + x, origin[0] + z + n * step_z, origin[1] + y + n * step_y,
                 bit_cast<Elements>(Packing::from_keys(Packing::pack(found[n]))));
  }
  SEMICONV_FN void store_word(Storage* column, int64 z, int64 y, Elements elements) const {
    if (z >= f.size[0]) return;
#pragma unroll
    for (int k = 0; k < per_word; ++k, y += f.tile[1])
      if (y < f.size[1]) column[(z * f.size[1] + y) * f.size[2]] = elements.of[k];
  }
};

}  // namespace semiconv

extern "C" __global__ void __launch_bounds__(semiconv::threads, semiconv::least_blocks)
SEMICONV_KERNEL(const semiconv::Footprint f, const semiconv::Storage* __restrict__ source,
                semiconv::Storage* __restrict__ out, const long long* __restrict__ beyond,
                const int* __restrict__ lookups, semiconv::Real outside) {
  using namespace semiconv;
  extern __shared__ unsigned long long shared_memory[];
  const int64 depths = (f.size[0] + f.tile[0] - 1) / f.tile[0];
  const int64 rows = per_word * f.tile[1], volume = f.size[0] * f.size[1] * f.size[2];
  for (int64 n = blockIdx.z; n < f.batch * depths; n += gridDim.z)
    for (int64 y = blockIdx.y * rows; y < f.size[1]; y += gridDim.y * rows)
      for (int64 x = (int64)blockIdx.x * f.tile[2]; x < f.size[2];
           x += (int64)gridDim.x * f.tile[2]) {
        const int64 origin[] = {n % depths * f.tile[0], y, x};
        const Block block{f, (Word*)shared_memory, beyond, origin};
        block.load_all(source + n / depths * volume, store(outside));
        __syncthreads();
        block.find_all(lookups, out + n / depths * volume);
        __syncthreads();  // the next tile needs the memory
      }
}
