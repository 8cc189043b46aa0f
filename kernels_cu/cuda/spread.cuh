// What kernels that walk over the tiles of a reconstruction share: sizes, steps, and where a step leads.
//
// Needs SEMICONV_RANK (number of axes, two or more). A tile covers `side` rows and columns of the last two axes.
#pragma once
#include "../integers.cuh"

namespace semiconv {

constexpr int side = 32;
constexpr int rank = SEMICONV_RANK;

// Twin of semiconv_cupy/ndimage/structs.py. Arrays are C-contiguous; steps[n] says what an output sees.
struct Spread {
  int64 size[max_rank];
  int64 planar, across;  // steps within a plane come first
  int64 tiles_y, tiles_x;
};

// Where the plane that a step sees begins; -1: outside.
SEMICONV_FN int64 plane_seen(const Spread& s, uint32 outer, const long long* step) {
  int64 offset = 0, pitch = s.size[rank - 2] * s.size[rank - 1];
#pragma unroll
  for (int a = rank - 3; a >= 0; --a) {
    const uint32 size = (uint32)s.size[a];
    const int64 position = outer % size + step[a];
    if (position < 0 || position >= size) return -1;
    outer /= size;
    offset += position * pitch;
    pitch *= size;
  }
  return offset;
}

}  // namespace semiconv
