// What a block of grad_weights.cu has in shared memory, and how it gets there: tiles of grad_out and of
// the image, two stages of them, so that one is copied while the other is read.
//
// Needs what patch.cuh needs, and the macros of grad_weights.cu.
//
//   Stage    grads[output channel][tile row][tile column]    grad_pitch numbers from channel to channel
//            image[input channel][row][column]               image_pitch likewise
//   sums     (in the same memory, at the end) of each thread, to be added over the teams
#pragma once
#include "patch.cuh"

namespace semiconv {

constexpr int lanes_out = SEMICONV_LANES_OUT, lanes_in = SEMICONV_LANES_IN, team_size = lanes_out * lanes_in;
constexpr int inputs = SEMICONV_INPUTS;
constexpr int out_channels = channels * lanes_out, in_channels = inputs * lanes_in;  // of a block
constexpr int block_threads = team_size * threads;
constexpr int slab = SEMICONV_SLAB, slabs = (size_y() + slab - 1) / slab;
constexpr bool flat = rank == 1;
static_assert(outer == 0, "signals and planes");

// ---- what lies in shared memory ------------------------------------------------------------------

constexpr int patch_height = (tile_rows - 1) * stride_y() + (slab - 1) * dilation_y() + 1;
constexpr int patch_chunks =
    chunks_for(shift + (tile_columns - 1) * stride_x() + (size_x() - 1) * dilation_x() + 1);
// Elements of a channel, so that chunks of neighbouring channels lie in different banks.
constexpr SEMICONV_FN int spread(int elements) { return (elements / columns | 1) * columns; }
constexpr int grad_pitch = spread(tile_rows * tile_columns);
constexpr int image_pitch = spread(patch_height * patch_chunks * columns);

struct alignas(16) Stage {
  Real grads[out_channels * grad_pitch];
  Real image[in_channels * image_pitch];
};
constexpr int sums_of_channel = inputs * slab * size_x();
union Shared {
  Stage stages[2];
  Real sums[sums_of_channel * block_threads];
};

// Marks a position outside the image, where terms are tested: a NaN that no arithmetic makes. (If an image
// holds these very bits, that element is taken to be outside. A number would not do as a mark: 0 and -0 are
// common, and 0 times an infinite gradient is NaN.)
SEMICONV_FN Real outside() {
  if constexpr (sizeof(Real) == 4)
    return bit_cast<Real>((uint32)0x7fd5c3a9u);
  else
    return bit_cast<Real>((uint64)0x7ffd5c3a96e1b487ull);
}
SEMICONV_FN bool is_outside(Real number) {
  if constexpr (sizeof(Real) == 4)
    return bit_cast<uint32>(number) == 0x7fd5c3a9u;
  else
    return bit_cast<uint64>(number) == 0x7ffd5c3a96e1b487ull;
}

// A rectangle of each of `count` planes of an array; offsets within it fit into 31 bits.
struct Rectangle {
  const Storage* corner;  // of the first plane; may lie outside the array
  int64 plane;
  int32 pitch_y, pitch_x;
  int32 y, x;            // the corner's position
  int32 height, width;   // of a plane
  int32 count;           // planes that exist
  bool vectors;          // whether chunks are copied whole: none crosses the edge, all are aligned

  // Copies it into shared memory: HEIGHT rows of CHUNKS chunks, of PLANES planes that lie PITCH numbers
  // apart. Positions outside the array become 0, or outside() if MARKS. A signal is folded: each row begins
  // ADVANCE columns behind the beginning of the row above.
  //
  // `abreast` threads copy neighbouring chunks of one plane, the others the same of the next planes.
  template <int PLANES, int HEIGHT, int CHUNKS, int PITCH, int ADVANCE, bool MARKS>
  SEMICONV_FN void copy(Real* patches) const {
    constexpr int places = HEIGHT * CHUNKS;
    constexpr int abreast = power_of_two(places), at_once = block_threads / abreast;
    const Destination to(patches);
    const int thread = this_thread(), first_plane = thread / abreast;
    const int64 step = at_once * plane;
    constexpr int loads = sizeof(Storage) == sizeof(Real) ? 64 : 1;  // shorter numbers pass through registers
#pragma unroll loads
    for (int begin = 0; begin < places; begin += abreast) {
      const int place = begin + thread % abreast;
      if (place >= places) break;
      const int row = place / CHUNKS, column = place % CHUNKS * columns + (flat ? row * ADVANCE : 0);
      const bool line = flat || (uint32)(y + row) < (uint32)height;
      const Storage* from = corner + first_plane * plane + ((flat ? 0 : row * pitch_y) + column * pitch_x);
      const int target = first_plane * PITCH + place * columns;
      if (vectors) {
        const bool inside = line && (uint32)(x + column) < (uint32)width;
#pragma unroll loads
        for (int n = 0; n < PLANES; n += at_once, from += step)
          if (PLANES % at_once == 0 || first_plane + n < PLANES)
            copy_chunk<MARKS>(to, patches, target + n * PITCH, from, inside && first_plane + n < count);
      } else {
#pragma unroll 1
        for (int n = 0; first_plane + n < PLANES; n += at_once, from += step) {
          const bool there = line && first_plane + n < count;
#pragma unroll 1
          for (int c = 0; c < columns; ++c)
            patches[target + n * PITCH + c] =
                there && (uint32)(x + column + c) < (uint32)width ? load(from[c * pitch_x]) : nothing<MARKS>();
        }
      }
    }
  }

 private:
  static constexpr SEMICONV_FN int power_of_two(int least) {
    int power = 1;
    while (power < least && power < block_threads) power *= 2;
    return power;
  }
  template <bool MARKS> static SEMICONV_FN Real nothing() {
    if constexpr (MARKS)
      return outside();
    else
      return 0;
  }
  template <bool MARKS>
  static SEMICONV_FN void copy_chunk(const Destination& to, Real* patches, int at, const Storage* from, bool exists) {
    if (MARKS && !exists) {
#pragma unroll
      for (int c = 0; c < columns; ++c) patches[at + c] = nothing<MARKS>();
    } else if constexpr (sizeof(Storage) == sizeof(Real)) {
      to.copy_or_zero(at * (int)sizeof(Real), (const Chunk<Storage, columns>*)from, exists);
    } else {
      Chunk<Real, columns> numbers{};
      if (exists) {
        const Chunk<Storage, columns> stored = *(const Chunk<Storage, columns>*)from;
#pragma unroll
        for (int c = 0; c < columns; ++c) numbers.of[c] = load(stored.of[c]);
      }
      *(Chunk<Real, columns>*)(patches + at) = numbers;
    }
  }
};

}  // namespace semiconv
