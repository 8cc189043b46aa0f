// Minima and maxima over a footprint along up to three axes, by its runs along the last one.
//
// Needs SEMICONV_STORAGE, SEMICONV_KERNEL (the function's name), SEMICONV_MINIMUM (true or false),
// and SEMICONV_TOGETHER: how many words of outputs a thread finds. Sizes, windows, tiles, what lies
// beyond the border and the runs are arguments: nothing is compiled for another one.
//
// A tile and what its windows see comes into shared memory once. Along its lines windows of 1, 2, 4,
// 8, ... words take turns there; a run is one of them, or two that overlap. A word holds an element
// of each of `lanes` parts of the tile, one below the other: all of them look at one place.
#include "lanes.cuh"

namespace semiconv {

constexpr int most_levels = 16;

// Twin of semiconv_cupy/ndimage/cuda.py.
struct Footprint {
  int64 batch, size[3];
  int32 window[3], before[3];
  // Words of outputs: powers of two; no line, and with depth no plane, has more than a block threads.
  int32 tile[3];
  int32 pitch;  // words from a line to the next
  int32 levels, first[most_levels + 1];  // where the look-ups of each level begin
};

constexpr int together = SEMICONV_TOGETHER, threads = 256;

// The element that a place of an axis shows, -1 for the constant.
SEMICONV_FN int64 element_at(const Footprint& f, const int64* beyond, int axis, int64 place) {
  if (place >= 0 && place < f.size[axis]) return place;
  if (place >= f.size[axis]) place -= f.size[axis];
  int32 begin = f.before[axis];
  for (int a = 0; a < axis; ++a) begin += f.window[a] - 1;
  return beyond[begin + place];
}

struct Block {
  const Footprint& f;
  Word* const words;
  const int64 *beyond, *const origin;
  // A warp takes one line after another: it needs no other warp while they grow.
  template <class Line> SEMICONV_FN void each_line(const Line& line) const {
    const int32 high = f.tile[1] + f.window[1] - 1;
    const int32 lines = (f.tile[0] + f.window[0] - 1) * high;
    for (int32 n = threadIdx.x / 32; n < lines; n += threads / 32)
      line(words + n * f.pitch, n / high, n % high);
  }
  SEMICONV_FN int32 broad() const { return f.tile[2] + f.window[2] - 1; }

  // Places that no output sees repeat the last that one sees.
  SEMICONV_FN int64 place(int axis, int32 within) const {
    const int64 place = origin[axis] + within - f.before[axis];
    const int64 last = f.size[axis] + f.window[axis] - 2 - f.before[axis];
    return element_at(f, beyond, axis, place < last ? place : last);
  }

  SEMICONV_FN bool inside(int axis, int32 parts) const {
    const int64 begin = origin[axis] - f.before[axis];
    return begin >= 0 && begin + parts * f.tile[axis] + f.window[axis] - 1 <= f.size[axis];
  }
  SEMICONV_FN void load_all(const Storage* source, Storage outside) const {
    if (inside(0, 1) && inside(1, lanes) && inside(2, 1)) {
      const Storage* corner = source + origin[2] - f.before[2];
      each_line([&](Word* line, int32 z, int32 y) {
        const Storage* row = corner + ((origin[0] - f.before[0] + z) * f.size[1] + origin[1] -
                                       f.before[1] + y) * f.size[2];
        const int64 part = f.tile[1] * f.size[2];
        each_word(line, [&](int32 x, int k) { return row[x + k * part]; });
      });
      return;
    }
    each_line([&](Word* line, int32 z, int32 y) {
      const int64 plane = place(0, z);
      int64 row[lanes];
#pragma unroll
      for (int k = 0; k < lanes; ++k) row[k] = plane < 0 ? -1 : place(1, y + k * f.tile[1]);
      each_word(line, [&](int32 x, int k) {
        const int64 column = place(2, x);
        return row[k] < 0 || column < 0 ? outside
                                        : source[(plane * f.size[1] + row[k]) * f.size[2] + column];
      });
    });
  }
  template <class Element> SEMICONV_FN void each_word(Word* line, const Element& element) const {
#pragma unroll 1
    for (int32 x = threadIdx.x % 32; x < broad(); x += 32) {
      Side side;
#pragma unroll
      for (int k = 0; k < lanes; ++k) side.of[k] = element(x, k);
      line[x] = Lanes::cleaned(bit_cast<Word>(side));
    }
  }

  // From windows of `width` words to windows twice as wide. What reaches past a line's end stays
  // narrow: it is never looked up.
  SEMICONV_FN void double_all(int32 width) const {
    const int32 last = broad() - width - 1;
    each_line([&](Word* line, int32, int32) {
#pragma unroll 1
      for (int32 begin = 0; begin <= last; begin += 32) {
        const int32 mine = begin + threadIdx.x % 32, x = mine < last ? mine : last;
        const Held both = Lanes::best(Lanes::held(line[x]), Lanes::held(line[x + width]));
        __syncwarp();  // others still need the old words
        line[x] = Lanes::packed(both);
      }
    });
  }

  // A thread's outputs are one below the other, or one behind the other where the tile has depth.
  SEMICONV_FN void find_all(const int32* lookups, Storage* out) const {
    const int32 high = f.tile[1] + f.window[1] - 1;
    const int32 x = threadIdx.x % f.tile[2], line = threadIdx.x / f.tile[2];
    const int32 y = line % f.tile[1], z = line / f.tile[1], lines = threads / f.tile[2];
    const bool deep = f.tile[0] > 1;
    const int32 step_z = deep ? lines / f.tile[1] : 0, step_y = deep ? 0 : lines;
    const int32 apart = (step_z * high + step_y) * f.pitch;
    const Word* first = words + (z * high + y) * f.pitch + x;
    Held found[together];
#pragma unroll
    for (int n = 0; n < together; ++n) found[n] = Lanes::held(first[lookups[0] + n * apart]);
    for (int32 level = 0;;) {
#pragma unroll 1
      for (int32 i = f.first[level]; i < f.first[level + 1]; ++i) {
        const Word* at = first + lookups[i];
#pragma unroll
        for (int n = 0; n < together; ++n, at += apart)
          found[n] = Lanes::best(found[n], Lanes::held(*at));
      }
      if (++level == f.levels) break;
      __syncthreads();
      double_all(1 << (level - 1));
      __syncthreads();
    }
    if (origin[2] + x >= f.size[2]) return;
#pragma unroll
    for (int n = 0; n < together; ++n)
      store_word(out + origin[2] + x, origin[0] + z + n * step_z, origin[1] + y + n * step_y,
                 bit_cast<Side>(Lanes::restored(Lanes::packed(found[n]))));
  }
  SEMICONV_FN void store_word(Storage* column, int64 z, int64 y, Side side) const {
    if (z >= f.size[0]) return;
#pragma unroll
    for (int k = 0; k < lanes; ++k, y += f.tile[1])
      if (y < f.size[1]) column[(z * f.size[1] + y) * f.size[2]] = side.of[k];
  }
};

}  // namespace semiconv

extern "C" __global__ void __launch_bounds__(256, 2)
SEMICONV_KERNEL(const semiconv::Footprint f, const semiconv::Storage* __restrict__ source,
                semiconv::Storage* __restrict__ out, const long long* __restrict__ beyond,
                const int* __restrict__ lookups, semiconv::Real outside) {
  using namespace semiconv;
  extern __shared__ unsigned long long shared_memory[];
  const int64 depths = (f.size[0] + f.tile[0] - 1) / f.tile[0];
  const int64 rows = lanes * f.tile[1], volume = f.size[0] * f.size[1] * f.size[2];
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
