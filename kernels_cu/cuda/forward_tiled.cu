// The `tiled` forward kernel: a block computes a tile of outputs from shared memory.
//
// Needs what patch.cuh and slab.cuh need, SEMICONV_KERNEL, SEMICONV_RESIDUAL as in forward.cu, and
//   SEMICONV_BLOCKS   blocks that a multiprocessor holds at a time: registers are limited to that
//   SEMICONV_PARTS    absent where a block computes all terms of its tile; else how many bytes `partial` has for
//                     an accumulator
//   SEMICONV_JOIN     defined in the kernel that joins what the blocks of each tile have left there
//   SEMICONV_TEST_BORDER   defined where the semifield's zero absorbs no weight
// Same accumulators and tap order as `direct`. This file decides the order of work; numbers.cuh and
// weights.cuh decide the values, winners.cuh the winners.
//
// Idea. Neighbouring outputs see almost the same part of the image, and all outputs of a channel the
// same weights. A block copies both into shared memory once. A thread computes channels x rows x columns
// outputs, which stay in registers over all taps, so that one load from shared memory feeds many terms.
//
//     image (one input channel)             a team's tile of outputs
//     +------------------------------+      +------+------+------+   each thread: `channels` output
//     |  patch: what a tile sees     |      |  t0  |  t1  |  t2  |   channels, `rows` x `columns`
//     |   +----------------------+   |      +------+------+------+   outputs of each
//     |   |  (tile)              |   |      |  t3  |  t4  |  t5  |
//     |   |       + the windows' |   |      +------+------+------+   threads_y x threads_x threads
//     |   +-------- overhang ----+   |
//     +------------------------------+      a block: `teams` such tiles of different planes of outputs
//
// A plane of taps is one input channel at one tap of the axes before the last two. A plane with many rows
// is cut into slabs (slab.cuh). Slabs go by in steps of `depth`. With two sides, the next step is copied
// while the terms of this one are computed, and one barrier (|) a step suffices. One plane of taps has one
// side: then nothing overlaps within a block.
//
//     side 0   copy 0 | terms 0 | copy 2  | terms 2 | ...
//     side 1          | copy 1  | terms 1 | copy 3  | ...
//
//     shared memory    patches[side][team][d], weights[side][team][d]    of slab p + d
//     registers        acc[channel][row][x]: one accumulator a Value; line[]: a part of a patch's row
//     global memory    out and residual, written once at the end (outputs.cuh)
//
// Positions outside the image. Floating semifields have a zero that absorbs every finite weight: such
// positions are filled with it, and terms need no test. Terms are tested (`inside`) in tiles that see the border
// if no number absorbs, as of integers, and beside infinite weights. Sums of products find out afterwards: if a result
// is not finite, the block computes its tile again with tests.
//
// Taps that see the border alone, from anywhere in a tile, are passed over: slabs of rows (find() in
// slab_copies.cuh) and segments of wide rows (Columns). Where windows are as large as the image, these are half
// of all.
//
// Parts. Where few tiles have many slabs, blocks share them: those with the same x of the grid compute one tile,
// each a range of its slabs, and leave their accumulators in `partial`. A second kernel joins them in the order of
// the slabs, so that ties go to the first tap, and two runs have the same bits.
//
//     grid.y   slabs of tile x        partial[y][x][accumulator][thread]
//       0      0 1 2 3                +---+
//       1              4 5 6 7        |   | --join--> out, residual
//       2                      8 9    +---+
//
// Folds. A compensated sum moves its partial sum into the total (blocked_sum.cuh) after about `terms_per_fold`
// terms: after each slab, and within it after each segment of a wide row and after every `rows_to_fold` rows.
// Slabs of fewer terms fold together, every `slabs_to_fold` of them.
#include "outputs.cuh"
#include "slab_copies.cuh"

namespace semiconv {

// ---- the terms of one thread ---------------------------------------------------------------------

// Functions below take `inside`: it says whether a position (row, column) of the thread's part of the patch
// lies in the image. Everywhere always says yes, so that the compiler drops the test.
struct Everywhere {
  static constexpr bool tests = false;
  SEMICONV_FN bool operator()(int, int) const { return true; }
};
struct InImage {
  static constexpr bool tests = true;
  const Source& source;
  int corner_row, corner_column;  // of the thread's part
  SEMICONV_FN bool operator()(int row, int column) const {
    return source.contains(corner_row + row, corner_column + column);
  }
};

// SEEN chunks of row r of the patch, from chunk `chunk` on, in registers. The numbers of one Value are
// APART elements from each other: those of neighbouring outputs at the same tap.
template <int SEEN, int APART, class F>
SEMICONV_FN void load_line(Value (&line)[SEEN * columns - APART], const View& view, int r, int chunk, F&& inside) {
  Number numbers[SEEN * columns];
#pragma unroll
  for (int k = 0; k < SEEN; ++k) {
    const Chunk<Storage, columns> stored = view.patch[row_at(r) + chunk + k];
#pragma unroll
    for (int x = 0; x < columns; ++x) {
      const int n = k * columns + x;
      numbers[n] = Packed<Value>::from(stored.of[x]);
      if (short_sums && !inside(r, chunk * columns + n)) numbers[n] = outside<Number>();
    }
  }
#pragma unroll
  for (int n = 0; n + APART < SEEN * columns; ++n) line[n] = Packed<Value>::pack(numbers[n], numbers[n + APART]);
}

// The term of tap (ky, first + kx) for one accumulator: PASS 0 observes it, PASS 1 adds it. No run reaches
// over two segments (winners.cuh), so that `first` is a multiple of `run`.
template <int PASS, int TAPS, class A, class S>
SEMICONV_FN void add_term(A& one, const S& setting, Value& of_run, Value term, const View& view, int ky, int first,
                          int kx) {
  if constexpr (by_runs) {
    of_run = kx % run ? extremum(of_run, term, setting) : term;
    if ((kx + 1) % run == 0 || kx + 1 == TAPS)
      one.add(saturated_value(of_run), (view.first_row + ky) * runs + (first + kx) / run, setting);
  } else if constexpr (provenance) {
    one.add(saturated_value(term), (view.first_row + ky) * size_x() + first + kx, setting);
  } else if constexpr (PASS == 0) {
    one.observe(term, setting);
  } else {
    one.add(term, (view.first_row + ky) * size_x() + first + kx, setting);
  }
}

// Row r of the patch and TAPS neighbouring taps of each row of taps that meets it, from chunk `begin` of the taps on
// (where a segment begins): what they see of the row is loaded once, for all of the thread's outputs.
// S: Setting, or one of a kind that the compiler knows.
template <int PASS, int TAPS, bool PLAIN, class S, class A, class F>
SEMICONV_FN void visit_segment(Accumulators<A>& acc, const Settings& settings, const View& view, int r, int begin,
                               F&& inside) {
  const int first = begin * columns;
  constexpr int behind = mirrored ? (size_x() - TAPS) * dilation_x() : 0;
  constexpr int lead = (shift + behind) % columns;  // elements of the first chunk that no tap sees
  constexpr int seen = chunks_for(lead + (columns - 1) * stride_x() + (TAPS - 1) * dilation_x() + 1);
  const int chunk = (shift + behind) / columns + (mirrored ? -begin : begin) * dilation_x();
  constexpr int apart = (lanes - 1) * stride_x();
  Value line[seen * columns - apart];
  load_line<seen, apart>(line, view, r, chunk, inside);
#pragma unroll
  for (int row = 0; row < rows; ++row) {
    const int step = r - row * stride_y();
    if (step < 0 || step % dilation_y() || step / dilation_y() >= view.tap_rows()) continue;
    const int ky = mirrored ? view.tap_rows() - 1 - step / dilation_y() : step / dilation_y();
    Value of_run[channels][values];
    Chunk<Weight, columns> weights;
#pragma unroll
    for (int n = 0; n < TAPS * channels; ++n) {
      const int kx = n / channels, c = n % channels;
      const int at = lead + (mirrored ? TAPS - 1 - kx : kx) * dilation_x();
      if (n % columns == 0) weights = view.weights[ky * weight_chunks + begin * channels + n / columns];
#pragma unroll
      for (int x = 0; x < values; ++x) {
        const int seen_at = at + x * lanes * stride_x();
        const bool takes_part = short_sums || inside(r, chunk * columns + seen_at);
        // A run needs each of its terms, the first to begin and the last to end: a zero, which never wins.
        if (!by_runs && !takes_part) continue;
        const Value term =
            takes_part ? term_of<PLAIN>(line[seen_at], weights.of[n % columns], settings[c])
                       : semifield_zero<Value>(settings[c]);
        add_term<PASS, TAPS>(acc[c][row][x], S(settings[c]), of_run[c][x], term, view, ky, first, kx);
      }
    }
  }
}

template <class A> SEMICONV_FN void fold(Accumulators<A>& acc) {
  for_each(acc, [](A& one, int) { one.fold(); });
}

// How many slabs fold together; one if terms are seen twice, as settle() rescales totals between the passes.
constexpr int plane_taps = size_y() * size_x();
constexpr int slabs_to_fold =
    !Chosen::two_pass && slabs == 1 && plane_taps < terms_per_fold ? (terms_per_fold + plane_taps / 2) / plane_taps : 1;

// One slab, its rows in the kernel's memory order.
template <int PASS, int UNROLL, bool PLAIN, class S, class A, class F>
SEMICONV_FN void visit_rows(Accumulators<A>& acc, const Settings& settings, const View& view, F&& inside) {
  const int reach = (rows - 1) * stride_y() + (view.tap_rows() - 1) * dilation_y() + 1;
  constexpr int rows_to_fold = size_x() < terms_per_fold ? terms_per_fold / size_x() : 1;
#pragma unroll UNROLL
  for (int n = 0; n < reach; ++n) {
    const int r = mirrored ? reach - 1 - n : n;
    if constexpr (wide) {
      constexpr int rest = size_x() % segment, whole = (size_x() - rest) / columns;
      const int end = view.taps.end < whole ? view.taps.end : whole;
#pragma unroll 1
      for (int begin = view.taps.first; begin < end; begin += segment / columns) {
        visit_segment<PASS, segment, PLAIN, S>(acc, settings, view, r, begin, inside);
        if (PASS == 1) fold(acc);
      }
      if constexpr (rest > 0)
        if (view.taps.end > whole) visit_segment<PASS, rest, PLAIN, S>(acc, settings, view, r, whole, inside);
    } else {
      visit_segment<PASS, segment, PLAIN, S>(acc, settings, view, r, 0, inside);
    }
    if (PASS == 1 && reach > rows_to_fold && (n + 1) % rows_to_fold == 0) fold(acc);
  }
}
// UNROLL 1: terms are tested, and one loop serves all kinds of settings.
template <int UNROLL, bool PLAIN, class A, class F>
SEMICONV_FN void visit_slab(Accumulators<A>& acc, const Settings& settings, const View& view, F&& inside) {
  if constexpr (A::two_pass) {
    const auto observe = [&](const auto& directed) {
      using S = typename semiconv::Plain<decltype(directed)>::type;
      visit_rows<0, UNROLL, PLAIN, S>(acc, settings, view, inside);
    };
    if constexpr (semiconv::Plain<F>::type::tests) observe(settings[0]);  // not all need be alike
    else by_direction(settings[0], observe);
    for_each(acc, [&](A& one, int c) { one.settle(settings[c]); });
  }
  const auto add = [&](const auto& of_kind) {
    visit_rows<1, UNROLL, PLAIN, typename semiconv::Plain<decltype(of_kind)>::type>(acc, settings, view, inside);
  };
  if constexpr (has_kinds && semiconv::Plain<F>::type::tests) add(Outlined(settings[0]));
  else by_kind(settings[0], add);
  if (slabs_to_fold == 1) fold(acc);
}

// The loop over a patch's rows is unrolled, 64 of them at most, where a thread adds few terms (taps x outputs)
// for a plane of taps: longer code would outgrow the instruction cache, and two passes are twice the code, with
// exponentials, of which 36 of doubles would leave too few registers on sm_120, as would any terms of small planes.
constexpr bool planes_of_doubles = small_planes && sizeof(Real) == 8 && architecture >= 1000;
constexpr int straight = planes_of_doubles ? 0 : Chosen::two_pass ? (sizeof(Real) == 8 ? 32 : 64) : 640;
constexpr int unrolled = plane_taps * rows * columns * channels <= straight ? 64 : 1;

// Two blocks leave too few registers on sm_120; before sm_90 to integers and to what keeps a residual, before
// sm_80 to all but plain floats. So do five of small planes on sm_120.
#if defined(SEMICONV_RESIDUAL)
constexpr bool needs_more = architecture >= 1000 || architecture < 900;
#else
constexpr bool needs_more = architecture >= 1000 || (architecture < 900 && integer) ||
                            (architecture < 800 && !Same<Storage, float>::value);
#endif
constexpr bool keeps_more = architecture >= 1000 && small_planes && SEMICONV_BLOCKS == 5;
constexpr int resident_blocks = SEMICONV_BLOCKS == 2 && needs_more ? 1 : SEMICONV_BLOCKS - keeps_more;

// ---- the walk of a block -------------------------------------------------------------------------

SEMICONV_FN View view_of(const Patch& patch, const Weights& weights, int corner_row, int corner_column,
                         int32 first_row, int32 tap_rows, const Columns& taps) {
  return View{patch.of + row_at(corner_row) + corner_column / columns, weights.of, first_row, tap_rows, taps};
}

#if defined(SEMICONV_PARTS)
static_assert(sizeof(Chosen) <= SEMICONV_PARTS && slabs > 1, "there is room for accumulators; winners need no patch");
#endif
// visit(accumulator, place): where a thread has its accumulators of that part in `partial`.
template <class F> SEMICONV_FN void visit_partial(Accumulators<Chosen>& acc, Chosen* partial, uint32 part, F&& visit) {
  constexpr int count = channels * rows * values, block = teams * threads;
  Chosen* at = partial + ((int64)part * gridDim.x + blockIdx.x) * (count * block) + threadIdx.x;
  for_each(acc, [&](Chosen& one, int c) {
    visit(one, *at, c);
    at += block;
  });
}

}  // namespace semiconv

extern "C" __global__ void __launch_bounds__(SEMICONV_TEAMS * SEMICONV_THREADS_Y * SEMICONV_THREADS_X,
                                             semiconv::resident_blocks)
SEMICONV_KERNEL(const semiconv::Geometry g, const semiconv::Storage* __restrict__ img,
                const semiconv::Storage* __restrict__ krn, semiconv::Storage* __restrict__ out,
                void* __restrict__ residual, long long residual_plane, const semiconv::Division division,
                unsigned int piece, void* __restrict__ partial, unsigned int parts) {
  using namespace semiconv;
#if defined(SEMICONV_JOIN)
  Accumulators<Chosen> acc;
  const TeamTile tile = tile_of_team(g, division);
  const Settings settings(g, tile.group, (int64)tile.channel_block * channels);
  visit_partial(acc, (Chosen*)partial, 0, [](Chosen& one, const Chosen& from, int) { one = from; });
  for (uint32 part = 1; part < parts; ++part)
    visit_partial(acc, (Chosen*)partial, part,
                  [&](Chosen& one, const Chosen& later, int c) { one.join(later, settings[c]); });
  const Arrays arrays{img, krn, out, residual, residual_plane};
  store_outputs(acc, settings, g, tile, View{}, Everywhere{}, arrays);
#else
  __shared__ Patch patches[sides][teams][depth];
  __shared__ Weights weights[sides][teams][depth];

  const TeamTile tile = tile_of_team(g, division);
  const uint32 first_output = tile.channel_block * channels;
  const Settings settings(g, tile.group, first_output);
  const Real zero = semifield_zero<Real>(settings[0]);
  const int thread = threadIdx.x % threads, team = threadIdx.x / threads;
  const int thread_y = thread / threads_x, thread_x = thread % threads_x;
  const Arrays arrays{img, krn, out, residual, residual_plane};
  const Storage* image = arrays.image(g, tile);
  int32 outer_taps = 1;
  for (int a = 0; a < outer; ++a) outer_taps *= SEMICONV_KERNEL_SIZE[a];
  const SourceOf source_of{g, division};
  const int corner_row = thread_y * rows * stride_y(), corner_column = thread_x * columns * stride_x();
  // Larger tiles, and sm_120, have no registers for terms without a loop around them.
  const int32 all_slabs =
      small_planes && one_plane && architecture < 1000 ? 1 : (int32)g.in_channels * outer_taps * slabs;
#if defined(SEMICONV_PARTS)
  const int32 first_slab = (int32)((int64)all_slabs * blockIdx.y / parts);
  const int32 slab_count = (int32)((int64)all_slabs * (blockIdx.y + 1) / parts);  // from the first of all
#else
  const int32 first_slab = 0, slab_count = all_slabs;
#endif
  const Storage *plane_image = image, *plane_krn = krn;
  const SlabWalk walk{g, tile, image, krn, outer_taps, slab_count, plane_image, plane_krn};
  const int32 last_channel = (int32)g.outputs_per_group - 1 - (int32)first_output;
  const int64 first_kernel = g.kernel_of(tile.group, first_output) * g.krn_strides[0];
  // Of a plane that is one slab, these are the same for every slab; otherwise they are not read.
  const Source first_source = once ? source_of(0) : Source();
  const int64 fixed_first = once ? first_source.first : source_of(0).first;
  Source::Route fixed_route;
  if (!once) fixed_route = source_of(0).route(g);
  else if (!small_planes && piece == columns) fixed_route = first_source.route(g);
  const WeightRoute fixed_weights(g, slab_of(0).tap_rows, last_channel, thread);
  const Copies copies{g, source_of, walk, thread, team, patches, weights, piece,
                      last_channel, first_kernel, first_source, fixed_first, fixed_route, fixed_weights, zero};
  copies.fill_first();

  Accumulators<Chosen> acc;
#pragma unroll 1
  for (bool again = false;; again = true) {
    for_each(acc, [&](Chosen& one, int c) { one.start(settings[c]); });
    int32 p = walk.find(first_slab);
    int side = 0, unfolded = 0;
    if (p < slab_count) copies.start(p, side);
    while (p < slab_count) {
      await_copies();
      // guarded: terms are tested for their position; saturates: sums may leave the range. Each thread looks at
      // the numbers that it copied itself; the barrier __syncthreads_or makes one answer for the block of these.
#if defined(SEMICONV_INTEGER)
      const Source source = source_of(p);
      bool large = false;
      if (may_overflow<Real>())
        for (int d = 0; d < walk.of_step(p); ++d) {
          copies.visit_weights(p, [&](int n, int32) {
            large = large || !is_small(load(((Storage*)weights[side][team][d].of)[n]));
          });
          source.visit_inside(patches[side][team][d].of,
                              [&](Storage number) { large |= !is_small(load(number)); });
        }
      const bool saturates = __syncthreads_or(large), guarded = !source.whole;
#elif defined(SEMICONV_TEST_BORDER)  // no number stands for a position outside the image
      __syncthreads();
      const bool saturates = false, guarded = !source_of(p).whole;
#elif defined(SEMICONV_SELECT)  // NaN is never selected: -inf + inf is harmless
      __syncthreads();
      const bool saturates = false, guarded = false;
#elif defined(SEMICONV_SUM_OF_PRODUCTS)
      __syncthreads();
      const bool saturates = false, guarded = again;
#else
      // Weights that the zero does not absorb; and channels of different zeros and kinds.
      bool infinite = !settings.alike;
      copies.visit_weights(p, [&](int n, int32) {
        for (int d = 0; d < walk.of_step(p); ++d)
          infinite = infinite || !absorbed((Real)load(((Weight*)weights[side][team][d].of)[n]), settings[0]);
      });
      const bool saturates = false, guarded = __syncthreads_or(infinite);
#endif
      const int32 next = once ? slab_count : walk.find(p + depth);
      const int other = (side + 1) % sides;
      if (sides > 1 && next < slab_count) copies.start(next, other);
#pragma unroll 1
      for (int d = 0; d < depth && p + d < slab_count; ++d) {
        const Slab slab = slab_of(p + d);
        const View view = view_of(patches[side][team][d], weights[side][team][d], corner_row, corner_column,
                                  (p + d) / slabs * size_y() + slab.first, slab.tap_rows,
                                  wide ? Columns::of(source_of(p)) : Columns::all());
        if (guarded || saturates) {
          const Source source = source_of(p);
          const InImage in_image{source, corner_row, corner_column};
          if (saturates) visit_slab<1, false>(acc, settings, view, in_image);
          else visit_slab<1, plain>(acc, settings, view, in_image);
        } else {
          visit_slab<unrolled, plain>(acc, settings, view, Everywhere{});
        }
        if (slabs_to_fold > 1 && ++unfolded == slabs_to_fold) {
          fold(acc);
          unfolded = 0;
        }
      }
      if (sides == 1 && next < slab_count) {
        __syncthreads();
        copies.start(next, other);
      }
      side = other;
      p = next;
    }
    if (slabs_to_fold > 1) fold(acc);
#if defined(SEMICONV_SUM_OF_PRODUCTS) && !defined(SEMICONV_TEST_BORDER)
    bool finite = true;
    for_each(acc, [&](const Chosen& one, int) { finite = finite && one.finite(); });
    if (!again && __syncthreads_or(!finite && (slabs > 1 || !source_of(0).whole))) continue;
#endif
    break;
  }

#if defined(SEMICONV_PARTS)
  visit_partial(acc, (Chosen*)partial, blockIdx.y, [](const Chosen& one, Chosen& to, int) { to = one; });
#else
  if constexpr (gathers)
    if (gathers_planes(g)) return store_planes(acc, settings, g, tile, arrays, patches);
  const Source source = source_of(0);
  const View view = view_of(patches[0][team][0], weights[0][team][0], corner_row, corner_column, 0, size_y(),
                            Columns::all());
  store_outputs(acc, settings, g, once ? tile : tile_of_team(g, division), view,
                InImage{source, corner_row, corner_column}, arrays);
#endif
#endif
}
