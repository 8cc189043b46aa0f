// Patches of the image in shared memory: where they lie in the image, and how a team copies them.
//
// Needs what place.cuh needs, and
//   SEMICONV_DEPTH   planes of taps between two barriers
//   SEMICONV_SIDES   places for their patches: 2 if one is filled while the other is read
//   SEMICONV_SHIFT   columns between the first one of a patch and the first that the tile's windows see: a
//                    patch begins at a multiple of `columns`, so that its chunks are those of the image
// Positions, and offsets within a patch, fit into 31 bits; other offsets may not.
//
//                      edge of the image
//     +------------------|         rows from_y .. to_y and columns from_x .. to_x of the patch lie in the image,
//     | image  +---------|--+      and are copied for each plane; the others are the same for each plane, and
//     |        | copied  |f |      are filled (f) once
//     |        +---------|--+
#pragma once
#include "async_copy.cuh"
#include "place.cuh"

namespace semiconv {

constexpr int depth = SEMICONV_DEPTH, sides = SEMICONV_SIDES;
constexpr int shift = SEMICONV_SHIFT;

constexpr SEMICONV_FN int chunks_for(int elements) { return (elements + columns - 1) / columns; }

constexpr int32 nowhere = (int32)0x80000000;  // in place of an offset

// A patch of HEIGHT rows of CHUNKS chunks: where it lies, and how the threads of a team copy it. After each STEP rows
// SKEW chunks are left out, which only fill_all() and copy_pieces() know.
template <int HEIGHT, int CHUNKS, int STEP = 1, int SKEW = 0> struct PatchSource {
  static constexpr int chunks = HEIGHT * CHUNKS + (HEIGHT - 1) / STEP * SKEW, width = CHUNKS * columns;
  static constexpr int of_thread = (chunks + threads - 1) / threads;
  int64 first;                     // elements from the plane's first to the patch's
  int from_y, to_y, from_x, to_x;  // rows and columns of the patch that lie in the image
  bool whole;                      // whether all of them do

  PatchSource() = default;
  // offset: rows between the first one that the tile's windows see and the patch's first one.
  SEMICONV_FN PatchSource(const Geometry& g, const TeamTile& tile, int32 offset) {
    const int32 y = tile.y * stride_y() - (int32)along_y(g.pad_begin, 0) + offset;
    const int32 x = tile.x * stride_x() - (int32)along_x(g.pad_begin) - shift;
    first = y * along_y(g.img_strides + 2, 0) + x * along_x(g.img_strides + 2);
    const int32 below = (int32)along_y(g.image_size, 1) - y, behind = (int32)along_x(g.image_size) - x;
    from_y = clipped(-y, HEIGHT);
    to_y = clipped(below, HEIGHT);
    from_x = clipped(-x, width);
    to_x = clipped(behind, width);
    // Not derived from the clipped numbers: ptxas 13.0 mixes up the two sides of a minimum there.
    whole = y >= 0 && x >= 0 && below >= HEIGHT && behind >= width;
  }
  static SEMICONV_FN int clipped(int32 n, int most) { return n < 0 ? 0 : n < most ? n : most; }

  SEMICONV_FN bool contains(int row, int column) const {
    return row >= from_y && row < to_y && column >= from_x && column < to_x;
  }

  // Fills the whole patch; copies must wait for all threads.
  SEMICONV_FN void fill_all(Chunk<Storage, columns>* patch, Storage outside) const {
    Chunk<Storage, columns> empty;
#pragma unroll
    for (int x = 0; x < columns; ++x) empty.of[x] = outside;
    visit_chunks<64>([&](int, int n, int, int) { patch[n] = empty; });
  }
  // BY_CHUNKS is quicker, and takes more registers.
  template <bool BY_CHUNKS> SEMICONV_FN void fill_outside(Chunk<Storage, columns>* patch, Storage outside) const {
    if (whole) return;
    Chunk<Storage, columns> empty;
#pragma unroll
    for (int x = 0; x < columns; ++x) empty.of[x] = outside;
    visit_chunks<1>([&](int, int n, int row, int column) {
      const bool none = row < from_y || row >= to_y || column + columns <= from_x || column >= to_x;
      if (BY_CHUNKS && none) {
        patch[n] = empty;
      } else if (!BY_CHUNKS || column < from_x || column + columns > to_x) {
#pragma unroll
        for (int x = 0; x < columns; ++x)
          if (!contains(row, column + x)) patch[n].of[x] = outside;
      }
    });
  }
  // Where this thread's chunks lie, in elements from the patch's first one: the same in every plane.
  struct Route {
    int32 at[of_thread];
  };
  SEMICONV_FN Route route(const Geometry& g) const {
    Route found;
    for (int k = 0; k < of_thread; ++k) found.at[k] = nowhere;
    visit_chunks<of_thread>([&](int k, int, int row, int column) {
      if (contains(row, column)) found.at[k] = row * (int32)along_y(g.img_strides + 2, 0) + column;
    });
    return found;
  }
  // Copies the patches of `count` planes, neighbouring channels of which the first patch begins at `corner`:
  // by whole chunks, if none crosses the image's edge, or by those elements that lie in the image.
  template <class P>
  static SEMICONV_FN void copy_chunks(const Geometry& g, const Storage* corner, int count, const Route& route,
                                      P* patches) {
    const Destination to(patches);
#pragma unroll
    for (int k = 0; k < of_thread; ++k) {
      if (route.at[k] == nowhere) continue;
      const int n = threadIdx.x % threads + k * threads;
      const Storage* from = corner + route.at[k];
#pragma unroll
      for (int d = 0; d < depth; ++d)
        if (d < count)
          to.copy(d * sizeof(P) + n * sizeof(Chunk<Storage, columns>),
                  (const Chunk<Storage, columns>*)(from + d * g.img_strides[1]));
    }
  }
  // The same for one plane, without a route that is kept.
  template <class P> SEMICONV_FN void copy_chunks_once(const Geometry& g, const Storage* corner, P* patch) const {
    const int32 pitch_y = (int32)along_y(g.img_strides + 2, 0);
    const Destination to(patch);
    visit_chunks<4>([&](int, int n, int row, int column) {
      if (contains(row, column))
        to.copy(n * sizeof(Chunk<Storage, columns>), (const Chunk<Storage, columns>*)(corner + row * pitch_y + column));
    });
  }
  // The same, a chunk's elements by its thread.
  template <class P>
  SEMICONV_FN void copy_elements(const Geometry& g, const Storage* corner, int count, P* patches) const {
    const int32 pitch_y = (int32)along_y(g.img_strides + 2, 0), pitch_x = (int32)along_x(g.img_strides + 2);
    const Destination to(patches);
    visit_chunks<1>([&](int, int n, int row, int column) {
#pragma unroll
      for (int x = 0; x < columns; ++x) {
        if (!contains(row, column + x)) continue;
        const Storage* from = corner + (row * pitch_y + (column + x) * pitch_x);
        for (int d = 0; d < count; ++d)
          to.copy(d * sizeof(P) + (n * columns + x) * sizeof(Storage), from + d * g.img_strides[1]);
      }
    });
  }
  // The same by pieces of PIECE elements: a power of two of neighbouring threads, of one warp, copies neighbouring
  // pieces, and goes down the patch by as many rows as there are such threads, between two skews without a rest.
  // Nothing is divided.
  template <int PIECE, class P>
  SEMICONV_FN void copy_pieces(const Geometry& g, const Storage* corner, int count, P* patches) const {
    const int32 pitch_y = (int32)along_y(g.img_strides + 2, 0), pitch_x = (int32)along_x(g.img_strides + 2);
    constexpr int abreast = power_of_two((tile_columns * stride_x() + PIECE - 1) / PIECE);
    constexpr int rows_on = divisor_of(SKEW ? STEP : threads / abreast, threads / abreast);
    constexpr int turn = SKEW ? STEP / rows_on : 4, rows_of_turn = turn * rows_on;
    const int thread = threadIdx.x % threads, first_row = thread / abreast;
    if (first_row >= rows_on) return;
    const int64 step = rows_on * pitch_y;
    for (int column = from_x + thread % abreast * PIECE; column < to_x; column += abreast * PIECE) {
      const Storage* from = corner + (first_row * pitch_y + column * pitch_x);
      Destination to(patches);
      to.move((first_row * width + column) * (int)sizeof(Storage));
#pragma unroll 1
      for (int begin = from_y - first_row, end = to_y - first_row; end > 0;
           begin -= rows_of_turn, end -= rows_of_turn) {
#pragma unroll
        for (int k = 0; k < turn; ++k) {
#pragma unroll
          for (int d = 0; d < depth; ++d)
            if (d < count && k * rows_on >= begin && k * rows_on < end)
              to.copy(d * sizeof(P) + k * rows_on * width * sizeof(Storage),
                      (const Chunk<Storage, PIECE>*)(from + d * g.img_strides[1]));
          from += step;
        }
        to.move((rows_of_turn * width + SKEW * columns) * (int)sizeof(Storage));
      }
    }
  }

  // visit(element) for this thread's share of a patch that was copied from the image: of all elements where the whole
  // patch lies inside, which takes a quarter of the instructions.
  template <class F> SEMICONV_FN void visit_inside(const Chunk<Storage, columns>* patch, F&& visit) const {
    const auto visit_all = [&](int n, auto&& exists) {
      const Chunk<Storage, columns> chunk = patch[n];
#pragma unroll
      for (int x = 0; x < columns; ++x)
        if (exists(x)) visit(chunk.of[x]);
    };
    if (whole)
      visit_chunks<4>([&](int, int n, int, int) { visit_all(n, [](int) { return true; }); });
    else
      visit_chunks<1>([&](int, int n, int row, int column) {
        visit_all(n, [&](int x) { return contains(row, column + x); });
      });
  }

 private:
  // The least power of two of threads for so many pieces, at most a warp's and the team's.
  static constexpr SEMICONV_FN int power_of_two(int pieces) {
    int abreast = 1;
    while (abreast < pieces && 2 * abreast <= threads && abreast < 32) abreast *= 2;
    return abreast;
  }
  // The largest number up to `most` that divides n.
  static constexpr SEMICONV_FN int divisor_of(int n, int most) {
    while (n % most) --most;
    return most;
  }
  // visit(k, n, row, column) for this thread's share of the chunks, the kth of which is the nth of all.
  template <int UNROLL, class F> static SEMICONV_FN void visit_chunks(F&& visit) {
    const int thread = threadIdx.x % threads;
#pragma unroll UNROLL
    for (int k = 0; k < of_thread; ++k) {
      const int n = thread + k * threads;
      if (k * threads + threads <= chunks || n < chunks) visit(k, n, n / CHUNKS, n % CHUNKS * columns);
    }
  }
};

}  // namespace semiconv
