// The interface between the walk over blocks of outputs and a semifield's loops over terms.
//
// As in convolutions (tile_work.hpp): the walk, over_blocks.cpp, is compiled once for each dtype; a semifield's
// shared object has only what its accumulator computes, and hands it over as BlockLoops. A state is one
// accumulator of a register of outputs; a register block has `rows` x `vectors` of them.
#pragma once
#include "panels.hpp"

namespace semiconv {

// Where a block of outputs lies: the offsets of its rows, and those of its columns, along the lanes.
struct Places {
  const int64 *rows, *columns;
  int count;       // columns that are outputs
  bool adjoining;  // columns lie behind each other
};

// Where a block lies among all: its batch, its first row and column.
struct Corner {
  int64 batch, row, column;
};

// Winners of a block that were counted in narrow lanes, over several blocks of terms.
constexpr bool narrow_winners = sizeof(MaskLane) < 4;

// What the walk needs of a semifield, for one order of the operands.
struct BlockLoops {
  // Terms 0 .. count - 1 of `rows` rows, from the panels of u and v; `first` is the first one's number. `starts`:
  // from the zero, otherwise from the states in `block`, where the new ones are stored. `corner` is the block's.
  void (*accumulate)(int rows, const Real* u, const Real* v, int64 first, int64 count, bool starts, void* block,
                     const Product& result, const Corner& corner);
  // The winners of `count` states among the terms from `term` on: as numbers of all terms. Null: they count those.
  void (*number_winners)(void* block, int count, int64 term, uint32* numbers);
  // Take a block whose terms are all added up. Winners of narrow lanes come apart.
  void (*take)(const void* sink, const void* block, const uint32* winners, int rows, const Places&, const Corner&);
  const void* sink;
  int rows, vectors;
  int64 state_bytes;
  int64 most_terms;  // that accumulate() can count; 0: any number
  bool krn_is_vector;
};

// Rows of the next smaller register block, where not `rows` are left.
constexpr int fewer_rows(int rows) { return rows > 8 ? 8 : rows > 4 ? 4 : rows > 2 ? 2 : 1; }

// What one call computes, seen from its two operands: u is broadcast, v runs along the lanes. Of the
// result's levels, `shared`, `along_rows` and `along_columns` have the strides.
template <class T> struct Roles {
  Operand<T> u, v;
  const Level *shared, *along_rows, *along_columns;
  int64 shared_levels, row_levels, column_levels;
  int64 batches, rows, columns, terms;
};

// `result` has the strides of the result; the operands may lie elsewhere than it says.
template <class T>
Roles<T> roles_of(const Product& result, const Operand<T>& image, const Operand<T>& kernel,
                  bool krn_is_vector) {
  const Product& p = result;
  const int64 free = size_of(p.free, p.free_levels), produced = size_of(p.produced, p.produced_levels);
  const int64 batches = size_of(p.shared, p.shared_levels);
  const int64 terms = size_of(p.contracted, p.contracted_levels);
  if (krn_is_vector)
    return {image, kernel, p.shared, p.free, p.produced, p.shared_levels, p.free_levels, p.produced_levels,
            batches, free, produced, terms};
  return {kernel, image, p.shared, p.produced, p.free, p.shared_levels, p.produced_levels, p.free_levels,
          batches, produced, free, terms};
}

// The walk of over_blocks.cpp, over two Operand<Storage> or, `converted`, two Operand<Real>; returns a Status.
// `result` has the strides of the result; the operands may lie elsewhere than it says.
using OverBlocks = int (*)(const Product& result, const void* image, const void* kernel, bool converted,
                           const BlockLoops& loops, int threads);
static OverBlocks over_blocks = nullptr;

}  // namespace semiconv
