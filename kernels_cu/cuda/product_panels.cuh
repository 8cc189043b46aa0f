// Panels: the rows of one operand and the columns of the other in shared memory, one slab of terms of them.
//
// Needs what product_tile.cuh needs. Both panels of a team have the terms outermost, whatever the operands'
// strides are, so that a thread loads its numbers of one term as chunks:
//
//     rows of the image (f, c)         panel [term][row]             registers of a thread
//     +----------------+               +-----------------------+
//     | f0: c0 c1 c2 ..|    copied     | c0: f0 f1 f2 f3 f4 .. |     row[0..3]: one load of a chunk
//     | f1: c0 c1 c2 ..|  ---------->  | c1: f0 f1 f2 f3 f4 .. |
//     +----------------+               +-----------------------+
//
// A copy goes by whole chunks where neighbours in the panel are neighbours in memory, else by elements: then
// the threads of a warp take 8 terms of 4 rows, or a term of 32 rows, whichever are neighbours. The padding
// of a panel's lines puts those 8 terms into different banks.
//
// From the panels, terms are computed without a conversion: a column's numbers lie one beside the other, as
// many in a Value as it has lanes, and a row's number is in all lanes of a Value.
#pragma once
#include "async_copy.cuh"
#include "product_tile.cuh"

namespace semiconv {

// What one lane of a Value is in memory.
template <class V> struct LaneOf { using type = V; };
template <> struct LaneOf<PairOfIntegers> { using type = int16; };
template <class S> struct LaneOf<PairOfHalves<S>> { using type = S; };
using Lane = LaneOf<Value>::type;

// ProductCut's row_copies and column_copies.
enum Copies { by_terms, by_neighbours, by_chunks };

// A team's panel of EXTENT rows or columns.
template <class Element, int EXTENT, int CHUNK> struct Panel {
  static constexpr int pitch = EXTENT + CHUNK;
  alignas(16) Element of[depth * pitch];
};
struct Panels {
  static constexpr int row_pitch = tile_rows + row_chunk, column_pitch = tile_columns + column_chunk;
  Panel<Value, tile_rows, row_chunk> row;
  Panel<Lane, tile_columns, column_chunk> column;
};

SEMICONV_FN Number image_number(Storage stored) { return Packed<Value>::from(stored); }
template <class E> struct Converted {  // a column's number
  static SEMICONV_FN E of(Number number) { return (E)number; }
};
template <> struct Converted<WideInteger> {
  static SEMICONV_FN WideInteger of(int32 number) { return {number}; }
};

// How far the terms of a slab lie from the first one of all, in both operands. Two sides: while the terms of
// one slab are copied, those of the next one are looked for.
struct TermTable {
  Offset img[depth], krn[depth];

  // All threads of a team call it; a barrier must follow.
  SEMICONV_FN void fill(const Product& g, Offset first, int count, int thread) {
    for (int k = thread; k < count; k += threads) {
      img[k] = offset_of(g.contracted, g.contracted_levels, first + k, ImageStride());
      krn[k] = offset_of(g.contracted, g.contracted_levels, first + k, KernelStride());
    }
  }
};

// One operand's copies of a team: IMAGE says of which one, ROWS whether it gives the tile's rows. What they need
// is read again for each slab, so that it occupies no registers while terms are added.
template <bool IMAGE, bool ROWS> struct PanelCopies {
  static constexpr int extent = ROWS ? tile_rows : tile_columns, chunk = ROWS ? row_chunk : column_chunk;
  template <bool R, int UNUSED = 0> struct ElementOf { using type = Lane; };
  template <int UNUSED> struct ElementOf<true, UNUSED> { using type = Value; };
  using Element = typename ElementOf<ROWS>::type;
  using To = Panel<Element, extent, chunk>;
  // Numbers are copied as they are, or pass through registers (`staged`) and are converted.
  static constexpr bool raw_chunks = Same<Storage, Element>::value && sizeof(Storage) * chunk % 4 == 0;
  static constexpr bool raw_elements = raw_chunks && sizeof(Storage) >= 4;
  static constexpr int chunks = extent / chunk;  // of one term
  static constexpr int chunks_of_thread = (chunks * depth + threads - 1) / threads;
  static constexpr int elements_of_thread = (extent * depth + threads - 1) / threads;
  static constexpr int by_chunks = chunks_of_thread * chunk;
  static constexpr int most = by_chunks > elements_of_thread ? by_chunks : elements_of_thread;

  const Tables& tables;
  const ProductCut& cut;
  Storage staged[raw_elements ? 1 : most];

  SEMICONV_FN Copies copies() const { return (Copies)(ROWS ? cut.row_copies : cut.column_copies); }
  static SEMICONV_FN Element converted(Storage stored) {
    Number number;
    if constexpr (IMAGE) number = image_number(stored);
    else number = weight_number(stored);
    if constexpr (ROWS) return in_all_lanes<Value>(number);
    else return Converted<Element>::of(number);
  }
  // Starts to copy the first `count` terms of a slab.
  SEMICONV_FN void start(To& to, const TermTable& terms, int count) {
    if (count == depth) start<true>(to, terms, count);
    else start<false>(to, terms, count);
  }
  // Writes what passed through registers.
  SEMICONV_FN void finish(To& to, int count) const {
    if (copies() == by_chunks) {
      if constexpr (!raw_chunks)
        visit_chunks([&](int stage, int term, int line) {
          if (term >= count) return;
          Chunk<Element, chunk> numbers;
#pragma unroll
          for (int n = 0; n < chunk; ++n) numbers.of[n] = converted(staged[stage + n]);
          *(Chunk<Element, chunk>*)(to.of + term * To::pitch + line) = numbers;
        });
    } else if constexpr (!raw_elements) {
      visit_elements(copies() == by_terms, [&](int stage, int term, int line) {
        if (term < count) to.of[term * To::pitch + line] = converted(staged[stage]);
      });
    }
  }

 private:
  // All offsets are read before the first copy: a copy is a barrier for the compiler.
  template <bool WHOLE> SEMICONV_FN void start(To& to, const TermTable& terms, int count) {
    const Destination destination(to.of);
    const Offset *const places = ROWS ? tables.row_operand : tables.column_operand,
                 *const at = IMAGE ? terms.img : terms.krn;
    const Storage* base = ROWS ? tables.row_base : tables.column_base;
    Offset from[most];
    const auto find = [&](int stage, int term, int line) { from[stage] = places[line] + at[term]; };
    if (copies() == by_chunks) {
      visit_chunks(find);
      visit_chunks([&](int stage, int term, int line) {
        if (!WHOLE && term >= count) return;
        const auto* source = (const Chunk<Storage, chunk>*)(base + from[stage]);
        if constexpr (raw_chunks) {
          destination.copy((term * To::pitch + line) * (int)sizeof(Element), source);
        } else {
          const Chunk<Storage, chunk> found = *source;
#pragma unroll
          for (int n = 0; n < chunk; ++n) staged[stage + n] = found.of[n];
        }
      });
    } else {
      visit_elements(copies() == by_terms, find);
      visit_elements(copies() == by_terms, [&](int stage, int term, int line) {
        if (!WHOLE && term >= count) return;
        const Storage* source = base + from[stage];
        if constexpr (raw_elements) destination.copy((term * To::pitch + line) * (int)sizeof(Element), source);
        else staged[stage] = *source;
      });
    }
  }
  // visit(stage, term, line) for this thread's share.
  template <class F> static SEMICONV_FN void visit_chunks(F&& visit) {
    const int thread = this_thread() % threads;
#pragma unroll
    for (int i = 0; i < chunks_of_thread; ++i) {
      const int n = thread + i * threads;
      if (chunks * depth % threads == 0 || n < chunks * depth) visit(i * chunk, n / chunks, n % chunks * chunk);
    }
  }
  template <class F> static SEMICONV_FN void visit_elements(bool terms_first, F&& visit) {
    constexpr int run = depth < 8 ? depth : 8;
    const int thread = this_thread() % threads;
    if (terms_first) {
#pragma unroll
      for (int i = 0; i < elements_of_thread; ++i) {
        const int n = thread + i * threads;
        if (extent * depth % threads == 0 || n < extent * depth)
          visit(i, n % run + n / (run * extent) * run, n / run % extent);
      }
    } else {
#pragma unroll
      for (int i = 0; i < elements_of_thread; ++i) {
        const int n = thread + i * threads;
        if (extent * depth % threads == 0 || n < extent * depth) visit(i, n / extent, n % extent);
      }
    }
  }
};

}  // namespace semiconv
