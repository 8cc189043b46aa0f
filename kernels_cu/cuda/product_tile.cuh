// Tiles of a matrix product's outputs: which outputs and which terms a thread computes.
//
// Needs
//   SEMICONV_OFFSET              int32 where every offset of a matrix fits into 31 bits, else int64
//   SEMICONV_IMAGE_IN_COLUMNS    1 if the index f counts columns of a tile and p its rows, 0 for the reverse
//   SEMICONV_ROWS, _COLUMNS      outputs of one thread
//   SEMICONV_THREADS_Y, _X       threads of a tile
//   SEMICONV_TEAMS               teams of so many threads in a block: each adds a part of the terms
//   SEMICONV_DEPTH               terms of a team between two barriers: a slab
//   SEMICONV_BLOCKS              blocks that a multiprocessor holds at a time: registers are limited to that
//
//     columns: the index along which neighbouring results are neighbours in memory, if there is one
//
//             <- 32 columns ->                     a warp of 4 x 8 threads; each has 4 neighbouring
//             0    4    8  ..  28                  columns at a time, which one load brings, and again
//     0 - 3   t0   t1   t2 ..  t7                  4 of the next warp's width; so with rows
//     4 - 7   t8   t9   t10 .. t15
//     ..      ..
#pragma once
#include "../product.cuh"
#include "numbers.cuh"
#include "this_thread.cuh"

namespace semiconv {

using Offset = SEMICONV_OFFSET;
constexpr bool image_in_columns = SEMICONV_IMAGE_IN_COLUMNS;
constexpr int rows = SEMICONV_ROWS, columns = SEMICONV_COLUMNS;
constexpr int threads_y = SEMICONV_THREADS_Y, threads_x = SEMICONV_THREADS_X;
constexpr int threads = threads_y * threads_x, teams = SEMICONV_TEAMS, depth = SEMICONV_DEPTH;
constexpr int tile_rows = rows * threads_y, tile_columns = columns * threads_x;
#if defined(SEMICONV_JOIN)
constexpr int block_threads = threads;  // one team joins the parts
#else
constexpr int block_threads = teams * threads;
#endif
constexpr int values = columns / lanes;  // registers of a row of a thread's outputs
// Where the compiler needs more registers than that many blocks leave, it takes them: before sm_80, copies
// pass through registers, and for sm_120 a loop keeps more numbers at a time.
constexpr int resident_blocks = architecture >= 800 && architecture < 1000 ? SEMICONV_BLOCKS : 1;

// How the launcher cuts the outputs into tiles, and the terms into parts.
struct ProductCut {
  int64 rows, columns, terms;         // of the matrices
  int64 tiles_y, tiles_x;             // tiles of outputs
  int64 parts;                        // blocks that share the terms of a tile
  int64 team_terms;                   // terms of a team, a multiple of `depth`
  int64 row_copies, column_copies;    // how operands are copied: see product_panels.cuh
  int64 whole_chunks;                 // whether chunks of neighbouring columns are so in the results
};

// Numbers that one thread loads from shared memory at once.
constexpr int row_chunk = rows % 4 ? rows : 4;
constexpr int value_chunk = values % 4 ? values : 4, column_chunk = value_chunk * lanes;

// The tile and the part of the terms of a block.
struct ProductBlock {
  uint32 row, column;  // the tile's first output
  uint32 tile, part;   // tile: counted over all matrices
  int64 matrix;        // s

  SEMICONV_FN ProductBlock(const ProductCut& cut, uint32 n) {
    part = n % (uint32)cut.parts;
    tile = n / (uint32)cut.parts;
    column = tile % (uint32)cut.tiles_x * tile_columns;
    const uint32 rest = tile / (uint32)cut.tiles_x;
    row = rest % (uint32)cut.tiles_y * tile_rows;
    matrix = rest / (uint32)cut.tiles_y;
  }
};

// The place of a thread in its team.
constexpr int lanes_y = threads_y < 4 ? threads_y : 4, lanes_x = 32 / lanes_y;  // of a warp
struct ThreadPlace {
  int y, x;
  SEMICONV_FN explicit ThreadPlace(int thread) {
    const int lane = thread % 32, warp = thread / 32;
    constexpr int warps_x = threads_x / lanes_x;
    y = warp / warps_x * lanes_y + lane / lanes_x;
    x = warp % warps_x * lanes_x + lane % lanes_x;
  }
  // The tile's row of the thread's i-th one, and its column of the thread's j-th one.
  SEMICONV_FN int row(int i) const { return (i / row_chunk * threads_y + y) * row_chunk + i % row_chunk; }
  SEMICONV_FN int column(int j) const {
    return (j / column_chunk * threads_x + x) * column_chunk + j % column_chunk;
  }
};

// ---- levels --------------------------------------------------------------------------------------

// How far the index-th position of an index lies from the first one, by the strides `stride_of` names.
template <class I, class F>
SEMICONV_FN I offset_of(const Level* levels, int64 count, I index, F&& stride_of) {
  I at = 0;
  for (int l = (int)count - 1; l > 0; --l) {
    const I size = (I)levels[l].size;
    at += index % size * (I)stride_of(levels[l]);
    index /= size;
  }
  return at + index * (I)stride_of(levels[0]);
}
struct ImageStride {
  SEMICONV_FN int64 operator()(const Level& level) const { return level.img; }
};
struct KernelStride {
  SEMICONV_FN int64 operator()(const Level& level) const { return level.krn; }
};
struct OutputStride {
  SEMICONV_FN int64 operator()(const Level& level) const { return level.out; }
};
template <bool IMAGE> struct OperandStride { using type = KernelStride; };
template <> struct OperandStride<true> { using type = ImageStride; };

// Where the rows and columns of a tile lie: in their operands and in the results, behind those of row 0 and
// column 0. Rows beyond the last one take the place of an earlier one.
struct Tables {
  const Storage *row_base, *column_base;  // row 0 and column 0 of the matrix, in their operands
  Offset row_operand[tile_rows], row_result[tile_rows];
  Offset column_operand[tile_columns], column_result[tile_columns];

  // All threads of the block call it; a barrier must follow.
  SEMICONV_FN void fill(const Product& g, const ProductCut& cut, const ProductBlock& block, const Storage* img,
                        const Storage* krn) {
    constexpr bool image_in_rows = !image_in_columns;
    if (threadIdx.x == 0) {
      img += offset_of(g.shared, g.shared_levels, block.matrix, ImageStride());
      krn += offset_of(g.shared, g.shared_levels, block.matrix, KernelStride());
      row_base = image_in_rows ? img : krn;
      column_base = image_in_rows ? krn : img;
    }
    if constexpr (image_in_rows) {
      fill<true, row_chunk>(g.free, g.free_levels, cut.rows, block.row, row_operand, row_result, tile_rows);
      fill<false, column_chunk>(g.produced, g.produced_levels, cut.columns, block.column, column_operand, column_result,
                  tile_columns);
    } else {
      fill<false, row_chunk>(g.produced, g.produced_levels, cut.rows, block.row, row_operand, row_result, tile_rows);
      fill<true, column_chunk>(g.free, g.free_levels, cut.columns, block.column, column_operand, column_result,
                 tile_columns);
    }
  }

 private:
  template <bool IMAGE, int CHUNK>
  static SEMICONV_FN void fill(const Level* levels, int64 level_count, int64 count, uint32 first, Offset* operand,
                               Offset* result, int extent) {
    for (int n = threadIdx.x; n < extent; n += block_threads) {
      Offset index = (Offset)first + n;
      // The same place of the last chunk, so that chunks stay chunks.
      if (index >= (Offset)count) index = count < CHUNK ? (Offset)count - 1 : (Offset)count - CHUNK + n % CHUNK;
      operand[n] = offset_of(levels, level_count, index, typename OperandStride<IMAGE>::type());
      result[n] = offset_of(levels, level_count, index, OutputStride());
    }
  }
};

}  // namespace semiconv
