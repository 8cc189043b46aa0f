// The forward pass on the host: strips of outputs stay in vector registers over all taps.
//
// Needs the semifield's macros and SEMICONV_STORAGE; SEMICONV_CHANNELS_ADD for an ordinary sum over
// channels. No sizes are compiled in: one shared object per semifield and dtype serves every image
// and kernel. Exported by forward.cpp and forward_residual.cpp.
//
// over_tiles.cpp walks over the tiles and calls run_tile() for each output channel of one. The tile is
// served from its scratch (tiles.hpp). tap_loops.hpp adds up the terms of a few strips, whose accumulators
// never leave the registers. Three functions differ in where the strips lie (strips.hpp):
//   run_pairs       two groups of strips whose windows overlap share each load and its weights
//   run_adjoining   strips behind each other: one address for all
//   run_scattered   any strips; the only one with a mask, for windows that reach beyond the image
//                   where no padding value is harmless
// run_channels is their common frame: input channels, the two passes of some accumulators, results.
#pragma once
#include "tap_loops.hpp"

namespace semiconv {

#if defined(SEMICONV_CHANNELS_ADD)
constexpr bool channels_add = true;
#else
constexpr bool channels_add = false;
#endif

// The ordinary sum of two channels' values.
SEMICONV_FN Vector sum(Vector a, Vector b) {
#if defined(SEMICONV_INTEGER)
  return saturating_add(a, b);
#else
  return a + b;
#endif
}

// Store a register of integers as unsigned ones of half the width, a quarter, ...; each step is a few instructions.
template <class T, class V> SEMICONV_FN void store_narrowed(T* to, V integers) {
  constexpr size_t bytes = sizeof(V) / lanes;
  if constexpr (bytes <= sizeof(T)) {
    store_vector(to, integers);
  } else {
    using Half = typename UnsignedOf<bytes / 2>::type;
    typedef Half Halves __attribute__((vector_size(lanes * sizeof(Half))));
    store_narrowed(to, __builtin_convertvector(integers, Halves));
  }
}
template <class T> SEMICONV_FN void store_index(T* to, Mask index, int count, int64 step) {
  if (sizeof(T) <= sizeof(MaskLane) && count == lanes && step == 1) {
    store_narrowed(to, index);
    return;
  }
  MaskLane buffer[lanes];
  store_vector(buffer, index);
  for (int i = 0; i < count; ++i) to[i * step] = (T)buffer[i];
}
template <class A>
SEMICONV_FN void store_residual(const A& acc, const Setting& setting, const Results& r, int64 at, int count) {
  if constexpr (UsesProvenance<A>::value) {
    if (r.residual_itemsize == 1) store_index((uint8*)r.residual + at, acc.winner, count, r.step);
    else if (r.residual_itemsize == 2) store_index((uint16*)r.residual + at, acc.winner, count, r.step);
    else store_index((uint32*)r.residual + at, acc.winner, count, r.step);
  } else if constexpr (A::residuals > 0) {
    for (int k = 0; k < A::residuals; ++k)
      store_lanes((Real*)r.residual + k * r.residual_plane + at, acc.residual(k, setting), count, r.step);
  }
}

template <class A>
SEMICONV_FN void stage_residual(const A& acc, const Setting& setting, const Stage& stage, int64 at) {
  if constexpr (UsesProvenance<A>::value) store_vector((MaskLane*)stage.residual + at, acc.winner);
  else if constexpr (A::residuals > 0)
    for (int k = 0; k < A::residuals; ++k)
      store_vector((Real*)stage.residual + k * stage.size + at, acc.residual(k, setting));
}

// N strips of one output channel over all input channels. For each channel it calls
// observe(scratch, taps) where the accumulator has two passes, then add(scratch, taps); after the last
// channel (with SEMICONV_CHANNELS_ADD: after each) finish(). put(j, store) calls store(to, count) with the
// place of strip j in the tile's results, for its residual and in the end for its value.
template <class A, int N, class Observe, class Add, class Finish, class Put>
SEMICONV_FN void run_channels(const TileWork& work, const Setting& setting, const Real* scratch, A* acc,
                              Observe observe, Add add, Finish finish, Put put) {
  const Geometry& g = work.g;
  const Results& results = work.results;
  Vector totals[N] = {};
  for (int64 first = 0; first < (channels_add ? g.in_channels : 1); ++first) {
    const int64 begin = channels_add ? first : 0;
    const int64 end = channels_add ? first + 1 : g.in_channels;
#pragma GCC unroll 8
    for (int j = 0; j < N; ++j) acc[j].start(setting);
    if constexpr (A::two_pass) {
      for (int64 i = begin; i < end; ++i)
        observe(scratch + i * work.channel_size, work.table.of(work.kernel, i));
#pragma GCC unroll 8
      for (int j = 0; j < N; ++j) acc[j].settle(setting);
    }
    for (int64 i = begin; i < end; ++i) add(scratch + i * work.channel_size, work.table.of(work.kernel, i));
    finish();
#pragma GCC unroll 8
    for (int j = 0; j < N; ++j)
      totals[j] = channels_add && first ? sum(totals[j], acc[j].result(setting)) : acc[j].result(setting);
    if (results.residual) {
      // With an axis of input channels, a residual is C-contiguous, and so is the output.
      const int64 pixels = results.pixels;
      const int64 at = channels_add ? (work.plane / pixels * g.in_channels + first) * pixels + work.plane % pixels
                                    : work.plane;
#pragma GCC unroll 8
      for (int j = 0; j < N; ++j)
        put(j, [&](int64 to, int count) __attribute__((always_inline)) {
          if (work.stage) stage_residual(acc[j], setting, *work.stage, to);
          else store_residual(acc[j], setting, results, at + to, count);
        });
    }
  }
  // Read before the first store, which to the compiler might change them.
  Storage* const out = results.out + work.plane;
  Real* const staged = work.stage ? work.stage->values : nullptr;
  const int64 step = results.step;
#pragma GCC unroll 8
  for (int j = 0; j < N; ++j)
    // Not inlined by force: one of the accumulators would then lie in memory during the loops over taps.
    put(j, [&](int64 to, int count) {
      if (staged) store_vector(staged + to, totals[j]);
      else store_lanes(out + to, totals[j], count, step);
    });
}

// `used` strips, wherever they lie. The loop runs over N; strips behind `used` are dropped.
template <class A, int N, bool MASKED>
__attribute__((noinline)) void run_scattered(const TileWork& work, const Setting& setting, const Strip* strips,
                                             int used) {
  using T = Terms<N, MASKED>;
  A acc[N];
  TapRange range = work.taps_of(strips[0]);  // that one of them sees inside the image
  for (int j = 1; j < used; ++j) {
    const TapRange other = work.taps_of(strips[j]);
    range = {smaller_of(range.first, other.first), larger_of(range.last, other.last)};
  }
  run_channels<A, N>(
      work, setting, work.scratch, acc,
      [&](const Real* channel, const Taps& taps) __attribute__((always_inline)) {
        if constexpr (A::two_pass)
          observe_channel<N>(acc, T(channel, work.mask, strips), taps, range.first,
                             smaller_of(range.last, taps.count), setting);
      },
      [&](const Real* channel, const Taps& taps) __attribute__((always_inline)) {
        add_channel<N>(acc, T(channel, work.mask, strips), taps, range.first,
                       smaller_of(range.last, taps.count), setting);
      },
      [] {},
      [&](int j, auto store) __attribute__((always_inline)) {
        if (j < used) store(strips[j].to, strips[j].count);
      });
}

// Subtract `shift` from the winner's tap index: the follower ran with the leader's numbering.
template <class A> SEMICONV_FN void renumber(A& acc, int64 shift) {
  if constexpr (UsesProvenance<A>::value) {
    const Mask no_winner = A::no_winner();
    acc.winner = where(acc.winner == no_winner, no_winner, acc.winner - (MaskLane)shift);
  }
}

// S whole adjoining strips.
template <class A, int S>
__attribute__((noinline)) void run_adjoining(const TileWork& work, const Setting& setting, const Strip& head) {
  A acc[S];
  const TapRange range = work.taps_of(head);
  run_channels<A, S>(
      work, setting, work.scratch, acc,
      [&](const Real* channel, const Taps& taps) __attribute__((always_inline)) {
        if constexpr (A::two_pass)
          observe_adjoining<S>(acc, channel + head.from, taps, range.first, smaller_of(range.last, taps.count),
                               setting);
      },
      [&](const Real* channel, const Taps& taps) __attribute__((always_inline)) {
        const int64 end = smaller_of(range.last, taps.count);
        add_adjoining<S>(acc, channel + head.from, taps, range.first, end, setting);
        if (folds && end % terms_per_fold) fold_all<S>(acc);
      },
      [] {},
      [&](int j, auto store) __attribute__((always_inline)) {
        store(head.to + j * lanes * (work.stage ? 1 : work.results.step), lanes);
      });
}

// Pairs: two groups of S adjoining strips each (Pairing in strips.hpp). CUT: with those taps only that can
// lie inside the image.
template <class A, int S, bool CUT>
__attribute__((noinline)) void run_pairs(const TileWork& work, const Setting& setting, const Strip* heads,
                                         const Strip* end, const Pairing& pairing) {
  const int64 count = pairing.taps, lag = pairing.lag, step = work.stage ? 1 : work.results.step;
  const int64 lead_from = pairing.second_leads ? pairing.from : 0, follow_from = pairing.from - lead_from;
  const int64 lead_to = pairing.second_leads ? pairing.to : 0, follow_to = pairing.to - lead_to;
  for (const Strip* head = heads; head < end; ++head) {
    A acc[2 * S];
    A* const follower = acc + S;
    run_channels<A, 2 * S>(
        work, setting, work.scratch + head->from, acc, [](const Real*, const Taps&) {},
        [&](const Real* from, const Taps& taps) __attribute__((always_inline)) {
          if constexpr (CUT) {
            // One block where the taps are cut along the pair's axis, else whole blocks.
            const TapRange lead = work.taps_of(*head, pairing.second_leads ? pairing.rows : 0);
            const TapRange follow = work.taps_of(*head, pairing.second_leads ? 0 : pairing.rows);
            int64 begin = pairing.rows ? 0 : lead.first;
            const int64 stop = pairing.rows ? count : lead.last;
            for (; begin < stop; begin += count) {
              const int64 end = begin + count;
              add_adjoining<S>(acc, from + lead_from, taps, larger_of(begin, lead.first),
                               smaller_of(begin + lag, lead.last), setting);
              add_shared<S>(acc, follower, from + lead_from, taps, larger_of(begin + lag, lead.first),
                            smaller_of(end, lead.last), setting, lag);
              add_adjoining<S>(follower, from + follow_from, taps, larger_of(end - lag, follow.first),
                               smaller_of(end, follow.last), setting, pairing.numbers);
            }
            if (folds && lead.last % terms_per_fold) fold_all<S>(acc);
            if (folds && follow.last % terms_per_fold) fold_all<S>(follower);
          } else {
            for (int64 begin = 0; begin < taps.count; begin += count) {
              const int64 end = begin + count;
              add_adjoining<S>(acc, from + lead_from, taps, begin, begin + lag, setting);
              add_shared<S>(acc, follower, from + lead_from, taps, begin + lag, end, setting, lag);
              add_adjoining<S>(follower, from + follow_from, taps, end - lag, end, setting, pairing.numbers);
            }
            if (folds && taps.count % terms_per_fold) fold_all<2 * S>(acc);
          }
        },
        [&]() __attribute__((always_inline)) {
#pragma GCC unroll 8
          for (int j = S; j < 2 * S; ++j) renumber(acc[j], pairing.numbers);
        },
        [&](int j, auto store) __attribute__((always_inline)) {
          store(head->to + (j < S ? lead_to : follow_to) + j % S * lanes * step,
                j % S == S - 1 ? head->count : lanes);
        });
  }
}

// Strips in registers at a time in loops with a mask. Plain sums need a mask only where a kernel is not finite:
// more strips would be more code to compile for what hardly ever runs.
#if defined(SEMICONV_SUM)
template <int N> constexpr int masked_strips = 2;
#else
template <int N> constexpr int masked_strips = N;
#endif

// Whether strips behind each other have a loop of their own. With slopes, arithmetic takes so much longer than
// loads that it would be code to compile for nothing.
#if defined(SEMICONV_SLOPES)
constexpr bool loops_over_adjoining = false;
#else
constexpr bool loops_over_adjoining = true;
#endif

// All strips of one output channel in a tile.
template <class A, int N>
void run_tile(const TileWork& work, const Pairing& pairing, const Strips& strips) {
  const Setting setting(work.g.parameters, work.kernel);
  const auto all = [&](const TapRange& taps) { return taps.first == 0 && taps.last == work.g.window_size(); };
  if constexpr (!A::two_pass) {
    const auto whole = [&](const Strip& head) {
      return all(work.taps_of(head)) && all(work.taps_of(head, pairing.rows));
    };
    for (const Strip *from = strips.heads, *end = from + strips.pairs, *to; from < end; from = to) {
      const bool uncut = whole(*from);
      for (to = from + 1; to < end && (to->row == to[-1].row || whole(*to) == uncut);) ++to;
      if (uncut) run_pairs<A, N / 2, false>(work, setting, from, to, pairing);
      else run_pairs<A, N / 2, true>(work, setting, from, to, pairing);
    }
  }
  for (int64 j = 0; j < strips.count;) {
    const Strip* from = strips.data + j;
    if constexpr (loops_over_adjoining) {
      if (from->adjoining >= N) {
        run_adjoining<A, N>(work, setting, *from);
        j += N;
        continue;
      }
    }
    int used = 1;
    const int most = (int)smaller_of(N, strips.count - j);
    while (used < most && (!work.exact || from[used].row == from->row)) ++used;
    run_scattered<A, N, false>(work, setting, from, used);
    j += used;
  }
  constexpr int masked = masked_strips<N>;
  for (int64 j = 0; j < strips.edge_count; j += masked)
    run_scattered<A, masked, true>(work, setting, strips.edges + j,
                                   (int)smaller_of(masked, strips.edge_count - j));
}

// How many of `count` weights make every term the semifield's zero, judged by one large and one small number.
#if defined(SEMICONV_DROP_ZERO_WEIGHTS)
inline int64 count_neutral(const Real* weights, int64 count) {
  const Real zero = semifield_zero<Real>(), large = 1 / Limits<Real>::smallest_normal;
  const Setting none{};  // such a multiplication has no parameters
  int64 found = 0;
  for (int64 n = 0; n < count; ++n)
    found += times<Real>(large, weights[n], none) == zero && times<Real>(-large, weights[n], none) == zero;
  return found;
}
constexpr CountNeutral neutral_weights = count_neutral;
#else
constexpr CountNeutral neutral_weights = nullptr;
#endif

// A: the accumulator; N: strips in registers at a time.
template <class A, int N>
int forward(const Geometry& g, const Storage* img, const Storage* krn, const Results& results,
            bool absorbing, int threads) {
  const Border border(g, absorbing);
#if defined(SEMICONV_SELECT)
  const Padding padding = border.absorbs ? Padding::always : Padding::never;
#else
  const Padding padding = border.absorbs ? Padding::if_finite : Padding::never;
#endif
  const TileLoops loops{run_tile<A, N>, neutral_weights, border.zero, padding, N, !A::two_pass,
                        UsesProvenance<A>::value, A::residuals};
  return over_tiles(g, img, krn, results, loops, threads);
}

}  // namespace semiconv
