// The matrix product: a block computes a tile of outputs from panels in shared memory.
//
// Needs what product_tile.cuh needs, SEMICONV_KERNEL, SEMICONV_RESIDUAL as in forward.cu, and
//   SEMICONV_JOIN   defined in the kernel that joins the parts of the terms; absent in the one that adds them
//   SEMICONV_UNPROVEN   defined where only tiles are computed that ordinary sums leave unproven: `unproven` is a
//                       flag for each (product_by_sums.cu), and null otherwise
// Same accumulators, ties and winners as the convolutions'. This file decides the order of work.
//
// Idea. Each number of an operand meets all rows (columns) of the other one. A block copies a slab of `depth`
// terms of tile_rows rows and tile_columns columns into shared memory (product_panels.cuh). A thread keeps
// rows x columns outputs in registers over all terms; of each term it loads rows + columns numbers, which
// makes rows x columns terms: 8 + 8 numbers, 64 terms. (Volkov and Demmel, Benchmarking GPUs to tune dense
// linear algebra, 2008; cutlass has the same structure.)
//
//     side 0   copy 0 | slab 0 | copy 2 | slab 2 | ...      | is a barrier: one a slab. The next slab is
//     side 1          | copy 1 | slab 1 | copy 3 | ...      copied while the terms of this one are added.
//
// Where outputs are few, the terms are shared. Teams of a block take neighbouring parts of the block's terms,
// each with panels of its own, and are joined in shared memory. Where that is not enough, blocks take parts
// of them: each leaves its accumulators in `partial`, and the same kernel with SEMICONV_JOIN joins them and
// writes the results. Parts are joined in the order of the terms, so that ties go to the first one, and two
// runs give the same bits.
//
//     terms         0 ......................... 1023         parts = 2, teams = 2
//     block, team   (0, 0)  (0, 1) | (1, 0)  (1, 1)
#include "product_outputs.cuh"
#include "product_panels.cuh"

namespace semiconv {

#if !defined(SEMICONV_JOIN)
// What a thread has of the panels: where its first row and column lie, and the numbers of one term.
struct View {
  const Value* row;
  const Lane* column;
  SEMICONV_FN View(const Panels& panels, const ThreadPlace& place)
      : row(panels.row.of + place.row(0)), column(panels.column.of + place.column(0)) {}
};
struct TermNumbers {
  Value row[rows], column[values];

  SEMICONV_FN void load(const View& view, int k) {
#pragma unroll
    for (int i = 0; i < rows; i += row_chunk) {
      const auto chunk = *(const Chunk<Value, row_chunk>*)(view.row + k * Panels::row_pitch + i * threads_y);
#pragma unroll
      for (int n = 0; n < row_chunk; ++n) row[i + n] = chunk.of[n];
    }
#pragma unroll
    for (int j = 0; j < values; j += value_chunk) {
      const auto chunk =
          *(const Chunk<Value, value_chunk>*)(view.column + k * Panels::column_pitch + j * lanes * threads_x);
#pragma unroll
      for (int n = 0; n < value_chunk; ++n) column[j + n] = chunk.of[n];
    }
  }
};

// visit(one, i, j, k, term) of all outputs (i, j) and terms k of a slab, k in order. The numbers of the next term
// are loaded while those of one are used.
template <bool PLAIN, class F>
SEMICONV_FN void visit_term(Accumulators& acc, const Settings& settings, const TermNumbers& numbers, int k, F&& visit) {
  acc.visit([&](auto& one, int i, int j) {
    const Setting& setting = settings.of(i, j);
    const Value term = image_in_columns ? term_of<PLAIN>(numbers.column[j], numbers.row[i], setting)
                                        : term_of<PLAIN>(numbers.row[i], numbers.column[j], setting);
    visit(one, i, j, k, term);
  });
}
template <bool PLAIN, class F>
SEMICONV_FN void visit_terms(Accumulators& acc, const Settings& settings, const View& view, int count, F&& visit) {
  // A short loop serves where it runs rarely, and where doubles have few units: for sm_120 the long one needs
  // more registers than there are.
  constexpr bool rare = (may_overflow<Real>() && !PLAIN) || (sizeof(Real) == 8 && architecture >= 1000);
  TermNumbers numbers[2];
  if (!rare && count == depth) {
    numbers[0].load(view, 0);
#pragma unroll
    for (int k = 0; k < depth; ++k) {
      if (k + 1 < depth) numbers[(k + 1) % 2].load(view, k + 1);
      visit_term<PLAIN>(acc, settings, numbers[k % 2], k, visit);
    }
  } else {
#pragma unroll 1
    for (int k = 0; k < count; ++k) {
      numbers[0].load(view, k);
      visit_term<PLAIN>(acc, settings, numbers[0], k, visit);
    }
  }
}

// One slab of a team: `count` terms, the first of which is `first`.
template <bool PLAIN>
SEMICONV_FN void add_slab(Accumulators& acc, const Settings& settings, const View& view, Offset first, int count) {
  if constexpr (by_slabs) {
    if (count == 0) return;
    Value best[rows][values] = {};  // the first term takes the place of these
    visit_terms<PLAIN>(acc, settings, view, count, [&](auto&, int i, int j, int k, Value term) {
      best[i][j] = k ? extremum(best[i][j], term, settings.of(i, j)) : term;
    });
    acc.visit([&](auto& one, int i, int j) {
      one.add(saturated_value(best[i][j]), (int32)(first / depth), settings.of(i, j));
    });
  } else {
    if constexpr (Chosen::two_pass) {
      const auto observe = [&](const auto& directed) {
        using S = typename semiconv::Plain<decltype(directed)>::type;
        visit_terms<PLAIN>(acc, settings, view, count, [&](auto& one, int i, int j, int, Value term) {
          one.observe(term, S(settings.of(i, j)));
        });
      };
      if constexpr (Settings::count > 1) observe(settings.of(0, 0));  // not all need be alike
      else by_direction(settings.of(0, 0), observe);
      acc.visit([&](auto& one, int i, int j) { one.settle(settings.of(i, j)); });
    }
    const auto add = [&](const auto& of_kind) {
      using S = typename semiconv::Plain<decltype(of_kind)>::type;
      visit_terms<PLAIN>(acc, settings, view, count, [&](auto& one, int i, int j, int k, Value term) {
        if constexpr (provenance) one.add(saturated_value(term), (int32)first + k, settings.of(i, j));
        else one.add(term, (int32)first + k, S(settings.of(i, j)));
      });
    };
    if constexpr (has_kinds)
      if (!settings.alike) return add(Outlined(settings.of(0, 0)));
    by_kind(settings.of(0, 0), add);
  }
}

// Whether a number of this thread's share of the panels is so large that a sum may leave the range.
template <class P> SEMICONV_FN bool any_large(const P& panels, int count, int thread) {
  bool large = false;
  for (int n = thread; n < count * tile_rows; n += threads)
    large = large || !is_small(Packed<Value>::number(
                         panels.row.of[n / tile_rows * panels.row.pitch + n % tile_rows], 0));
  for (int n = thread; n < count * tile_columns; n += threads)
    large = large || !is_small((Number)panels.column.of[n / tile_columns * panels.column.pitch + n % tile_columns]);
  return large;
}

// All terms of this block: a thread of team 0 then has the block's part of each of its outputs.
using PanelSides = Panels[2][teams];
using TermSides = TermTable[2][teams];
SEMICONV_FN void add_terms(Accumulators& acc, const Settings& settings, const Product& g, const ProductCut& cut,
                           const ProductBlock& block, const Tables& tables, PanelSides& panels,
                           TermSides& terms) {
  const int team = this_thread() / threads, thread = this_thread() % threads;
  const Offset team_terms = (Offset)cut.team_terms, before = (Offset)block.part * teams * team_terms;
  const int32 slabs = (int32)ceil_div<Offset>(smaller_of<Offset>(team_terms, (Offset)cut.terms - before), depth);
  Offset first = before + team * team_terms;
  // Terms of the team from the slab that is copied next on; below 0 where the team has none at all.
  Offset left = smaller_of<Offset>(team_terms, (Offset)cut.terms - first);
  const auto count_of = [](Offset left) { return left < 0 ? 0 : left < depth ? (int)left : depth; };
  PanelCopies<!image_in_columns, true> row_copies{tables, cut};
  PanelCopies<image_in_columns, false> column_copies{tables, cut};
  const ThreadPlace place(thread);
  terms[0][team].fill(g, first, count_of(left), thread);
  acc.visit([&](auto& one, int i, int j) { one.start(settings.of(i, j)); });
  int count = 0;
  first -= depth;
  for (int32 slab = -1; slab < slabs; ++slab) {  // slab -1: nothing but the first copy
    Panels& panel = panels[slab & 1][team];
    Panels& other = panels[(slab + 1) & 1][team];
    const int next = slab + 1 < slabs ? count_of(left) : 0;
    await_copies();
    __syncthreads();
    bool saturates = false;
    if constexpr (may_overflow<Real>()) saturates = __syncthreads_or(any_large(panel, count, this_thread() % threads));
    if (next > 0) {
      row_copies.start(other.row, terms[(slab + 1) & 1][team], next);
      column_copies.start(other.column, terms[(slab + 1) & 1][team], next);
      terms[slab & 1][team].fill(g, first + 2 * depth, count_of(left - depth), this_thread() % threads);
    }
    if (count > 0) {
      const View view(panel, place);
      if (saturates) add_slab<false>(acc, settings, view, first, count);
      else add_slab<plain>(acc, settings, view, first, count);
      constexpr int slabs_to_fold = Chosen::two_pass || depth >= terms_per_fold ? 1 : terms_per_fold / depth;
      if ((slab + 1) % slabs_to_fold == 0) acc.visit([](auto& one, int, int) { one.fold(); });
    }
    if (next > 0) {
      row_copies.finish(other.row, next);
      column_copies.finish(other.column, next);
    }
    count = next;
    first += depth;
    left -= depth;
  }
  acc.visit([](auto& one, int, int) { one.fold(); });
  join_teams<sizeof panels>(acc, settings, panels, this_thread() / threads, this_thread() % threads);
}
#endif

}  // namespace semiconv

extern "C" __global__ void __launch_bounds__(SEMICONV_TEAMS * SEMICONV_THREADS_Y * SEMICONV_THREADS_X,
                                             semiconv::resident_blocks)
SEMICONV_KERNEL(const __grid_constant__ semiconv::Product g, const semiconv::Storage* __restrict__ img,
                const semiconv::Storage* __restrict__ krn, semiconv::Storage* __restrict__ out,
                void* __restrict__ residual, long long residual_plane,
                const __grid_constant__ semiconv::ProductCut cut, void* __restrict__ partial,
                const int* __restrict__ unproven) {
  using namespace semiconv;
#if defined(SEMICONV_UNPROVEN) && defined(SEMICONV_JOIN)
  if (!unproven[this_block()]) return;
#elif defined(SEMICONV_UNPROVEN)
  if (!unproven[this_block() / (uint32)cut.parts]) return;
#endif
  __shared__ Tables tables;
  Accumulators acc;
#if defined(SEMICONV_JOIN)
  __shared__ Slots slots;
  const auto block_of_tile = [&] { return ProductBlock(cut, this_block() * (uint32)cut.parts); };
  tables.fill(g, cut, block_of_tile(), img, krn);
  __syncthreads();
  const Settings settings(g, cut, block_of_tile(), ThreadPlace(this_thread()));
  Partial{(Chosen*)partial, (int64)gridDim.x, (int)this_thread()}.load(acc, settings, this_block(), (uint32)cut.parts);
#else
  __shared__ PanelSides panels;
  __shared__ TermSides terms;
  Slots& slots = *(Slots*)panels;
  static_assert(!by_slabs || sizeof(Slots) <= sizeof panels, "slots take the place of panels");
  const auto block_of_tile = [&] { return ProductBlock(cut, this_block()); };
  const Settings settings(g, cut, block_of_tile(), ThreadPlace(this_thread() % threads));
  {
    const ProductBlock block = block_of_tile();
    tables.fill(g, cut, block, img, krn);
    __syncthreads();
    add_terms(acc, settings, g, cut, block, tables, panels, terms);
  }
  if (by_slabs) __syncthreads();
  if (this_thread() >= threads) return;  // team 0 has all
  if (cut.parts > 1) {
    const ProductBlock block = block_of_tile();
    Partial{(Chosen*)partial, (int64)gridDim.x / cut.parts, (int)this_thread()}.store(acc, block.part, block.tile);
    return;
  }
#endif
  const ProductBlock block = block_of_tile();
  const MatrixArrays arrays(g, block.matrix, img, krn, out, residual);
  const ThreadPlace place(this_thread());
  store_outputs(acc, settings, Stores{g, cut, block, tables, place, arrays, residual_plane, slots});
}
