// Slabs: how many rows of a plane of taps are in shared memory at a time, which patch of the image a tile's
// windows see through them, and into which segments their rows are cut.
//
// Needs what patch.cuh needs, and
//   SEMICONV_SLAB   rows of taps in a slab; a plane of that many rows is one slab
//   SEMICONV_SKEW   see `skew`
//
//     a plane of taps     slabs of 3 rows      the patch of slab 1: of all rows that the windows of the
//     (size_y = 8)        +--------+           tile see, those from `offset` on
//                       0 | slab 0 |
//                       3 | slab 1 |
//                       6 | slab 2 |  (the last one has what is left: 2 rows)
//                         +--------+
#pragma once
#include "patch.cuh"

namespace semiconv {

constexpr int slab_rows = SEMICONV_SLAB;
constexpr int slabs = (size_y() + slab_rows - 1) / slab_rows;  // of a plane
struct Slab {
  int32 first, tap_rows;  // in the kernel's order
  // Rows of the image between the first one that the tile's windows see and the first of the patch.
  SEMICONV_FN int32 offset() const { return (mirrored ? size_y() - first - tap_rows : first) * dilation_y(); }
};
// n counts the slabs of one plane after the other.
SEMICONV_FN Slab slab_of(int32 n) {
  if (slabs == 1) return {0, size_y()};
  const int32 first = n % slabs * slab_rows;
  return {first, size_y() - first < slab_rows ? size_y() - first : slab_rows};
}

constexpr bool once = sides == 1 && slabs == 1;  // whatever a block sees is copied at once
#if defined(SEMICONV_INTEGER)
constexpr bool small_planes = false;
#else
// A tile of each team is about a plane, so that most patches reach over the border. They are filled whole and then
// copied over, which takes a barrier more, and an eighth of the instructions that look for what lies outside.
constexpr bool small_planes = once && teams > 1;
#endif

// Segment: the taps of a row that a thread takes together. All, or of a wide kernel so many that registers hold
// what they see; then whole chunks of them, so that every segment of a row begins at the same place of a chunk.
constexpr bool wide = size_x() * dilation_x() > 33;
constexpr int segment = !wide ? size_x() : dilation_x() > 4 ? columns : 16 / dilation_x() / columns * columns;

constexpr int patch_height = (tile_rows - 1) * stride_y() + (slab_rows - 1) * dilation_y() + 1;
constexpr int patch_chunks =  // of a row
    chunks_for(shift + (tile_columns - 1) * stride_x() + (size_x() - 1) * dilation_x() + 1);
// Chunks left out between what threads above each other begin with, so that the chunks that eight neighbouring
// threads load at once lie in different banks:
//
//     bank, in chunks   0 1 2 3 4 5 6 7        threads of a tile of 4 x 2, without and with a skew of 2
//     threads 0 .. 3    a b c d . . . .        a b c d . . . .
//     threads 4 .. 7    . . e f g h . .        . . . . e f g h
constexpr int thread_height = rows * stride_y();
constexpr int skew = small_planes ? SEMICONV_SKEW : 0;
// Where a row of the patch begins, in chunks; or of a thread's part of it.
constexpr SEMICONV_FN int row_at(int row) { return row * patch_chunks + row / thread_height * skew; }
using Source = PatchSource<patch_height, patch_chunks, thread_height, skew>;
struct Patch {
  Chunk<Storage, columns> of[Source::chunks];
};

}  // namespace semiconv
