// A thread's outputs of a matrix product: accumulators in registers, winners, joined parts, results.
//
// Needs what product_tile.cuh needs; SEMICONV_RESIDUAL as in forward.cu.
#pragma once
#include "../chunk.cuh"
#include "product_tile.cuh"

namespace semiconv {

// For max and min with a provenance, a thread folds the terms of a slab by plain extrema and compares once;
// Provenance then counts slabs. When all terms are done, the first term of the winning slab that equals the
// output's value is the winner (winners.cuh has the same idea, by runs of taps).
#if defined(SEMICONV_SELECT)
constexpr bool by_slabs = provenance && plain_extremum;
#else
constexpr bool by_slabs = false;
#endif

struct Accumulators {
  Chosen of[rows][values];
  template <class F> SEMICONV_FN void visit(F&& visit_one) {
#pragma unroll
    for (int i = 0; i < rows; ++i)
#pragma unroll
      for (int j = 0; j < values; ++j) visit_one(of[i][j], i, j);
  }
};

// The settings of a thread's outputs. Kernels that have settings of their own are rows or columns.
struct Settings {
#if defined(SEMICONV_BY_CHANNEL)
  static constexpr int count = image_in_columns ? rows : columns;
#else
  static constexpr int count = 1;
#endif
  Setting settings[count];
  bool alike;
  SEMICONV_FN Settings(const Product& g, const ProductCut& cut, const ProductBlock& block, const ThreadPlace& place)
      : alike(true) {
#pragma unroll
    for (int n = 0; n < count; ++n) {
      settings[n] = of_kernel(g, cut, block, place, n);
      alike = alike && settings[n].alike(settings[0]);
    }
  }
  // The n-th one, from memory: loops that are not unrolled find none in registers.
  static SEMICONV_FN Setting of_kernel(const Product& g, const ProductCut& cut, const ProductBlock& block,
                                       const ThreadPlace& place, int n) {
    const int64 kernel = image_in_columns ? smaller_of<int64>((int64)block.row + place.row(n), cut.rows - 1)
                                          : smaller_of<int64>((int64)block.column + place.column(n), cut.columns - 1);
    return Setting(g.parameters, block.matrix * g.matrix_step + (count > 1 ? kernel : 0));
  }
  SEMICONV_FN const Setting& of(int i, int j) const { return settings[count == 1 ? 0 : image_in_columns ? i : j]; }
};

// ---- parts of the terms --------------------------------------------------------------------------

// Joins the teams' parts of each output, in the order of the terms; team 0 then has all:
//
//     team 0 <- 1   2 <- 3        `exchange`: shared memory of `bytes`, that nobody else uses
//          0 <----- 2
template <int BYTES>
SEMICONV_FN void join_teams(Accumulators& acc, const Settings& settings, void* exchange, int team, int thread) {
  constexpr int of_row = values * threads * (int)sizeof(Chosen) * (teams / 2);
  constexpr int most = teams > 1 ? BYTES / of_row : 1;
  static_assert(most > 0, "a row of all threads fits into shared memory");
  constexpr int at_once = most < rows ? most : rows;
  Chosen* numbers = (Chosen*)exchange;
#pragma unroll
  for (int apart = 1; apart < teams; apart *= 2) {
    const int pair = team / (2 * apart);
    const bool gives = team % (2 * apart) == apart, takes = team % (2 * apart) == 0;
#pragma unroll
    for (int first = 0; first < rows; first += at_once) {
      __syncthreads();
      acc.visit([&](Chosen& one, int i, int j) {
        if (gives && i >= first && i < first + at_once)
          numbers[((pair * at_once + i - first) * values + j) * threads + thread] = one;
      });
      __syncthreads();
      acc.visit([&](Chosen& one, int i, int j) {
        if (takes && i >= first && i < first + at_once)
          one.join(numbers[((pair * at_once + i - first) * values + j) * threads + thread], settings.of(i, j));
      });
    }
  }
}

// Where a block leaves its part of a tile's outputs: the numbers of all threads are neighbours.
struct Partial {
  Chosen* numbers;
  int64 tiles;
  int thread;
  SEMICONV_FN Chosen* at(uint32 part, uint32 tile) const {
    return numbers + ((int64)part * tiles + tile) * (rows * values * threads) + thread;
  }
  SEMICONV_FN void store(Accumulators& acc, uint32 part, uint32 tile) const {
    Chosen* to = at(part, tile);
    acc.visit([&](Chosen& one, int i, int j) { to[(i * values + j) * threads] = one; });
  }
  SEMICONV_FN void load(Accumulators& acc, const Settings& settings, uint32 tile, uint32 parts) const {
    const Chosen* from = at(0, tile);
    acc.visit([&](Chosen& one, int i, int j) { one = from[(i * values + j) * threads]; });
    for (uint32 part = 1; part < parts; ++part) {
      from = at(part, tile);
      acc.visit([&](Chosen& one, int i, int j) { one.join(from[(i * values + j) * threads], settings.of(i, j)); });
    }
  }
};

// ---- results -------------------------------------------------------------------------------------

// The arrays of one matrix: `img` and `krn` at row or column 0, results and residuals at output (0, 0).
struct MatrixArrays {
  const Storage *img, *krn;
  Storage* out;
  void* residual;

  SEMICONV_FN MatrixArrays(const Product& g, int64 matrix, const Storage* img, const Storage* krn, Storage* out,
                           void* residual)
      : img(img + offset_of(g.shared, g.shared_levels, matrix, ImageStride())),
        krn(krn + offset_of(g.shared, g.shared_levels, matrix, KernelStride())),
        out(out),
        residual(residual) {
    const int64 at = offset_of(g.shared, g.shared_levels, matrix, OutputStride());
    this->out += at;
#if defined(SEMICONV_RESIDUAL)
    this->residual = (SEMICONV_RESIDUAL*)residual + at;
#endif
  }
};

// What a thread looks for in a slab that won, and where winners are found, one row of outputs at a time: in
// shared memory, so that a loop over them is no longer than one of them.
struct Slots {
  struct Slot {
    Number best;
    int32 winner;
  } of[by_slabs ? columns : 1][by_slabs ? threads : 1];
};

// The first term of slab `slab` whose value is `best`; -1 where no slab won.
template <class N>
SEMICONV_FN int32 winner_of_slab(const Product& g, int64 terms, const Storage* image, const Storage* kernel, N best,
                                 int32 slab, const Setting& setting) {
  if (slab < 0) return -1;
  const Offset first = (Offset)slab * depth;
  const int count = terms - first < depth ? (int)(terms - first) : depth;
  const auto equal = [&](Storage a, Storage b) {
    return times((Real)load(a), (Real)load(b), setting) == (Real)best;
  };
  if (g.contracted_levels == 1 && count == depth) {
    // All loads before the first comparison: global memory takes long to answer.
    Storage numbers[depth], weights[depth];
#pragma unroll
    for (int n = 0; n < depth; ++n) {
      numbers[n] = image[(first + n) * (Offset)g.contracted[0].img];
      weights[n] = kernel[(first + n) * (Offset)g.contracted[0].krn];
    }
    int32 found = 0;
#pragma unroll
    for (int n = depth - 1; n >= 0; --n)
      if (equal(numbers[n], weights[n])) found = n;
    return (int32)first + found;
  }
#pragma unroll 1
  for (int n = 0; n + 1 < count; ++n)
    if (equal(image[offset_of(g.contracted, g.contracted_levels, first + n, ImageStride())],
              kernel[offset_of(g.contracted, g.contracted_levels, first + n, KernelStride())]))
      return (int32)first + n;
  return (int32)first + count - 1;
}

// How a thread's outputs reach memory.
struct Stores {
  const Product& g;
  const ProductCut& cut;
  const ProductBlock& block;
  const Tables& tables;
  const ThreadPlace place;
  const MatrixArrays& arrays;
  int64 residual_plane;  // elements from one of the residual's arrays to the next
  Slots& slots;

  // Writes a row of outputs, number_of(j) being the j-th one's: in whole chunks, or one by one.
  template <class T, class F> SEMICONV_FN void row(T* to, F&& number_of) const {
    const int64 columns_left = cut.columns - block.column;
#pragma unroll
    for (int j = 0; j < columns; j += column_chunk) {
      const int column = place.column(j);
      Chunk<T, column_chunk> chunk;
#pragma unroll
      for (int n = 0; n < column_chunk; ++n) chunk.of[n] = number_of(j + n);
      if (cut.whole_chunks) {
        if (column < columns_left) *(Chunk<T, column_chunk>*)(to + tables.column_result[column]) = chunk;
      } else {
#pragma unroll
        for (int n = 0; n < column_chunk; ++n)
          if (column + n < columns_left) to[tables.column_result[column + n]] = chunk.of[n];
      }
    }
  }
  // Finds the winners of the thread's row i, that of the tile's `row`, from the slabs that won.
  template <class A> SEMICONV_FN void find_winners(const A& line, int i, int row) const {
    const int thread = this_thread();
#pragma unroll
    for (int j = 0; j < columns; ++j)
      slots.of[j][thread] = {Packed<Value>::number(line[j / lanes].best, 0), line[j / lanes].winner};
    const Offset of_row = tables.row_operand[row];
#pragma unroll 1
    for (int j = 0; j < columns; ++j) {
      auto& slot = slots.of[j][thread];
      const Offset of_column = tables.column_operand[place.column(j)];
      slot.winner = winner_of_slab(g, cut.terms, arrays.img + (image_in_columns ? of_column : of_row),
                                   arrays.krn + (image_in_columns ? of_row : of_column), slot.best, slot.winner,
                                   Settings::of_kernel(g, cut, block, place, image_in_columns ? i : j));
    }
  }
};

template <class A> SEMICONV_FN void store_outputs(A& acc, const Settings& settings, const Stores& stores) {
  const int64 rows_left = stores.cut.rows - stores.block.row;
#pragma unroll
  for (int i = 0; i < rows; ++i) {
    const int row = stores.place.row(i);
    if (row >= rows_left) continue;
    const Offset at = stores.tables.row_result[row];
    const auto& line = acc.of[i];
    stores.row(stores.arrays.out + at, [&](int j) {
      return result_of(Packed<Value>::number(line[j / lanes].result(settings.of(i, j / lanes)), j % lanes));
    });
#if defined(SEMICONV_RESIDUAL)
    auto* kept = (SEMICONV_RESIDUAL*)stores.arrays.residual + at;
#if defined(SEMICONV_PROVENANCE)
    if constexpr (by_slabs) stores.find_winners(line, i, row);
    stores.row(kept, [&](int j) {
      return (SEMICONV_RESIDUAL)(by_slabs ? stores.slots.of[j][this_thread()].winner : line[j].winner);
    });
#else
#pragma unroll
    for (int k = 0; k < Chosen::residuals; ++k)
      stores.row(kept + k * stores.residual_plane, [&](int j) { return line[j].residual(k, settings.of(i, j)); });
#endif
#endif
  }
}

}  // namespace semiconv
