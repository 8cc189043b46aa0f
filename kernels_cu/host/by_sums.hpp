// log and root on the host by ordinary sums. Outputs whose sums prove nothing are computed directly.
//
// Needs what forward.hpp needs, SEMICONV_LOG or SEMICONV_ROOT. by_sums.cuh has the mathematics. The image
// is transformed tile by tile, relative to the tile's extreme number; each kernel once, relative to its own:
//
//   scratch of a tile -> E(img), range     \  sum_strips: S of 8 strips    holds(S)  -> restore(S) -> out
//   each kernel       -> E(krn), range     /  for each output channel       otherwise -> `unproven` strips
//
// A strip with an unproven output is computed whole by the loops of forward.hpp, from a scratch of the
// numbers as they are, which is filled when the first such strip of the tile is met.
//
// With SEMICONV_SLOPES the sums of E ln E are computed beside S, and the slopes by mu or p from both. A tile
// most of whose strips have no proven slope is computed directly from there on: it would cost both.
// Exported by by_sums.cpp, by_sums_slopes.cpp and by_sums_backward.cpp.
#pragma once
#include "forward.hpp"
#include "by_sums.cuh"

namespace semiconv {

SEMICONV_FN int64 whole_vectors(int64 count) { return ceil_div(count, lanes); }

// The range of `count` numbers. Their last vector is filled up with numbers that do not count.
inline Range<Real> range_of(const Setting& setting, const Real* numbers, int64 count) {
  const BySums<Vector> e(setting);
  const BySums<Real> one(setting);
  const Vector none = setting.upwards ? negative_infinity<Vector>() : infinity<Vector>();
  Vector first = none, last = -none;
  for (int64 n = 0; n < whole_vectors(count); ++n) {
    const Vector v = load_vector<Vector>(numbers + n * lanes);
    const Mask counts = (Mask)e.counts(v);
    first = where(counts, e.larger(first, v), first);
    last = where(counts, e.smaller(last, v), last);
  }
  Real extreme = first[0], furthest = last[0];
  for (int i = 1; i < lanes; ++i) {
    extreme = one.larger(extreme, first[i]);
    furthest = one.smaller(furthest, last[i]);
  }
  if (!(absolute(extreme) < infinity<Real>())) return {one, one.neutral(), one.neutral()};
  return {one, extreme, furthest};
}
// loop(e), with e of a setting of which the compiler knows p = 2 or 3, the most frequent ones: found anew for
// each register, the number of products took 3 to 4 percent of a training step.
template <class F> SEMICONV_FN void by_known_power(const Setting& setting, F&& loop) {
#if defined(SEMICONV_ROOT)
  const auto of = [&](Setting::Kind kind) __attribute__((always_inline)) {
    const Setting known(Setting::p_of(kind));
    loop(BySums<Vector>(known));
  };
  switch (setting.kind) {
    case Setting::second: return of(Setting::second);
    case Setting::third: return of(Setting::third);
  }
#endif
  loop(BySums<Vector>(setting));
}

// `moments`, of E ln E, may be null.
inline void transform_all(const Setting& setting, Real* numbers, Real* moments, int64 count, Real shift) {
  by_known_power(setting, [&](const BySums<Vector>& e) __attribute__((always_inline)) {
    for (int64 n = 0; n < whole_vectors(count); ++n) {
      const Vector number = load_vector<Vector>(numbers + n * lanes);
      const Vector transformed = e.transform(number, broadcast(shift));
      store_vector(numbers + n * lanes, transformed);
      if (moments) store_vector(moments + n * lanes, e.moment(number, broadcast(shift), transformed));
    }
  });
}

// E of every kernel, each with its range: the weights of the ordinary sums. Taps of all input channels
// are in the kernel's memory order.
class TransformedKernels {
  Buffer<Real> values, moments;
  Buffer<int64> places;
  Buffer<Range<Real>> ranges;
  int64 pitch;

 public:
  const int64 taps;
  bool complete = false;

  TransformedKernels(const Geometry& g, const Setting& setting, const Tiling& t, const TapTable& table,
                     bool with_moments = false)
      : pitch(whole_vectors(g.in_channels * g.window_size()) * lanes),
        taps(g.in_channels * g.window_size()) {
    const int64 window = g.window_size();
    if (!values.allocate(g.kernels * pitch) || !places.allocate(taps) || !ranges.allocate(g.kernels) ||
        (with_moments && !moments.allocate(g.kernels * pitch)))
      return;
    for (int64 i = 0; i < g.in_channels; ++i)
      for (int64 n = 0; n < window; ++n)
        places.data[i * window + n] = i * t.channel_size + table.of(0, i).offsets[n];
    for (int64 k = 0; k < g.kernels; ++k) {
      Real* kernel = values.data + k * pitch;
      for (int64 i = 0; i < g.in_channels; ++i)
        memcpy(kernel + i * window, table.of(k, i).values, window * sizeof(Real));
      for (int64 n = taps; n < pitch; ++n) kernel[n] = semifield_zero<Real>(setting);
      ranges.data[k] = range_of(setting, kernel, pitch);
      transform_all(setting, kernel, with_moments ? moments.data + k * pitch : nullptr, pitch, ranges.data[k].shift);
    }
    complete = true;
  }
  const Real* of(int64 kernel) const { return values.data + kernel * pitch; }
  const Real* moments_of(int64 kernel) const { return moments.data + kernel * pitch; }
  const Range<Real>& range(int64 kernel) const { return ranges.data[kernel]; }
  const int64* offsets() const { return places.data; }
};

// The sums of N strips over all taps. ADJOINING: one address serves all of them.
template <int N, bool ADJOINING>
SEMICONV_FN void add_up(const Real* scratch, const Real* weights, const int64* offsets, int64 taps,
                        const Strip* strips, Vector* sums) {
  BlockedSum<Vector> acc[N];
  const Real* from[N];
#pragma GCC unroll 8
  for (int j = 0; j < N; ++j) {
    acc[j].start();
    from[j] = ADJOINING ? scratch + strips[0].from + j * lanes : scratch + strips[j].from;
  }
  for (int64 begin = 0; begin < taps; begin += terms_per_fold) {
    const int64 end = smaller_of(begin + terms_per_fold, taps);
    for (int64 t = begin; t < end; ++t) {
      const Vector weight = broadcast(weights[t]);
#pragma GCC unroll 8
      for (int j = 0; j < N; ++j)
        acc[j].add(load_vector<Vector>((ADJOINING ? from[0] + j * lanes : from[j]) + offsets[t]) * weight);
    }
#pragma GCC unroll 8
    for (int j = 0; j < N; ++j) acc[j].fold();
  }
#pragma GCC unroll 8
  for (int j = 0; j < N; ++j) sums[j] = acc[j].result();
}
template <int N>
__attribute__((noinline)) void sum_strips(const Real* scratch, const Real* weights,
                                          const int64* offsets, int64 taps, const Strip* strips,
                                          Vector* sums) {
  if (strips[0].adjoining >= N) add_up<N, true>(scratch, weights, offsets, taps, strips, sums);
  else add_up<N, false>(scratch, weights, offsets, taps, strips, sums);
}

#if defined(SEMICONV_SLOPES)
constexpr bool with_slopes = true;
constexpr int summed_strips = register_bytes == 64 ? 8 : 4;  // two sums of each in registers
using DirectSums = SlopeAlone<WithResidual<Vector, Mask>>;
#else
constexpr bool with_slopes = false;
constexpr int summed_strips = 8;
using DirectSums = Accumulator<Vector>;
#endif

// The sums of N strips over all taps, and those of E ln E. `apart`: from an E(img) to its moment.
template <int N, bool ADJOINING>
SEMICONV_FN void add_up_moments(const Real* scratch, int64 apart, const Real* weights, const Real* weight_moments,
                                const int64* offsets, int64 taps, const Strip* strips, Vector* sums,
                                Vector* moments) {
  BlockedSum<Vector> sum[N], moment[N];
  const Real* from[N];
#pragma GCC unroll 8
  for (int j = 0; j < N; ++j) {
    sum[j].start();
    moment[j].start();
    from[j] = ADJOINING ? scratch + strips[0].from + j * lanes : scratch + strips[j].from;
  }
  for (int64 begin = 0; begin < taps; begin += terms_per_fold) {
    const int64 end = smaller_of(begin + terms_per_fold, taps);
    for (int64 t = begin; t < end; ++t) {
      const Vector weight = broadcast(weights[t]), weight_moment = broadcast(weight_moments[t]);
#pragma GCC unroll 8
      for (int j = 0; j < N; ++j) {
        const Real* const at = (ADJOINING ? from[0] + j * lanes : from[j]) + offsets[t];
        const Vector number = load_vector<Vector>(at);
        sum[j].add(number * weight);
        moment[j].add(number * weight_moment);
        moment[j].add(load_vector<Vector>(at + apart) * weight);
      }
    }
#pragma GCC unroll 8
    for (int j = 0; j < N; ++j) {
      sum[j].fold();
      moment[j].fold();
    }
  }
#pragma GCC unroll 8
  for (int j = 0; j < N; ++j) {
    sums[j] = sum[j].result();
    moments[j] = moment[j].result();
  }
}
template <int N>
__attribute__((noinline)) void sum_moments(const Real* scratch, int64 apart, const Real* weights,
                                           const Real* weight_moments, const int64* offsets, int64 taps,
                                           const Strip* strips, Vector* sums, Vector* moments) {
  const auto run = strips[0].adjoining >= N ? add_up_moments<N, true> : add_up_moments<N, false>;
  run(scratch, apart, weights, weight_moments, offsets, taps, strips, sums, moments);
}

SEMICONV_FN Mask first_lanes(int count) {
  MaskLane buffer[lanes];
  for (int i = 0; i < lanes; ++i) buffer[i] = i < count ? -1 : 0;
  return load_vector<Mask>(buffer);
}

// The scratch of a tile, transformed; and the numbers as they are, once an output is computed directly.
class TransformedTile {
  const Geometry& g;
  const Setting& setting;
  const Tiling& t;
  const TileLoader& loader;
  const Storage *img, *image;
  const int64* origin;
  bool masked, present = false;
  Real* plain;
  MaskLane* outside;

  void fill(Real* scratch) const {
    // The loader leaves out what no tap reads, but the range is that of all numbers.
    set_run(scratch, scratch_elements(g, t), broadcast(semifield_zero<Real>(setting)));
    tile_functions->load(loader, origin, img, image, g.in_channels, scratch);
  }

 public:
  Real* transformed;
  Range<Real> range;

  // transformed_ and plain_ have room for scratch_elements() numbers, `mask` for one channel. The tile lies
  // in the group of channels that begins at image_, in the array that begins at img_.
  TransformedTile(const Geometry& g_, const Setting& setting_, const Tiling& t_, const TileLoader& loader_,
                  const Storage* img_, const Storage* image_, const int64* origin_, bool masked_, Real* transformed_,
                  Real* plain_, MaskLane* mask, Real* moments = nullptr)
      : g(g_), setting(setting_), t(t_), loader(loader_), img(img_), image(image_), origin(origin_), masked(masked_),
        plain(plain_), outside(mask), transformed(transformed_) {
    const int64 count = g.in_channels * t.channel_size;
    fill(transformed);
    range = range_of(setting, transformed, count);
    transform_all(setting, transformed, moments, count, range.shift);
  }
  static int64 scratch_elements(const Geometry& g, const Tiling& t) {
    return whole_vectors(g.in_channels * t.channel_size) * lanes + lanes;  // loads reach a vector further
  }
  // The scratch of the numbers as they are; the first call fills it.
  const Real* numbers() {
    if (!present) {
      fill(plain);
      if (masked) tile_functions->fill_mask(g, t, origin, outside);
      present = true;
    }
    return plain;
  }
  // The mask of numbers(); null where the zero outside the image is harmless.
  const MaskLane* mask() const { return masked ? outside : nullptr; }
};

inline int forward_by_sums(const Geometry& g, const Storage* img, const Storage* krn, const Results& results,
                          bool absorbing, int threads) {
  constexpr int N = summed_strips;
  constexpr int direct = with_slopes ? 1 : 2;  // two strips' slopes take longer to compile, and as long to run
  Storage* const out = results.out;
  // Sums are relative to a tile's extreme, so tiles must not depend on the number of threads.
  const Tiling tiling = tile_functions->tiling(g, 4, true, false);
  const TapTable table = tile_functions->taps(g, tiling, krn, neutral_weights);
  if (!table.complete) return out_of_memory;
  const Border border(g, absorbing);
  const Setting& setting = border.setting;
  const BySums<Vector> e(setting);
  const TransformedKernels weights(g, setting, tiling, table, with_slopes);
  if (!weights.complete) return out_of_memory;
  const bool may_pad = border.absorbs && table.finite;
  const TileLoader loader(g, tiling, g.in_channels, border.zero);
  const Stage layout(g, tiling);
  const InsideTaps all_taps(g, false);
  const Pairing no_pairs;
  const int64 most_strips = strips_of(g, tiling) + N;
  const int64 elements = TransformedTile::scratch_elements(g, tiling);
  constexpr int scratches = 2 + with_slopes;  // E(img), the numbers, E ln E
  const size_t bytes = scratches * elements * sizeof(Real) + tiling.channel_size * sizeof(MaskLane) +
                       2 * most_strips * sizeof(Strip) + (1 + with_slopes) * layout.size * sizeof(Real) + 256;
  const int64 items = g.batch * g.groups * tiling.tiles;
  int status = success;

  in_parallel(items, threads, [&](Items& rest) {
    thread_local Workspace workspace;
    Real* memory = (Real*)workspace.reserve(bytes);
    if (!memory) {
      set_flag(status, out_of_memory);
      return;
    }
    Real* const moments = with_slopes ? memory + 2 * elements : nullptr;
    MaskLane* mask = (MaskLane*)(memory + scratches * elements);
    Strip* room = (Strip*)(((size_t)(mask + tiling.channel_size) + 63) / 64 * 64);
    TapRange range_of_all;
    Strips strips{nullptr, room, nullptr, &range_of_all};
    Stage stage = layout;
    stage.values = (Real*)(((size_t)(room + 2 * most_strips) + 63) / 64 * 64);
    stage.residual = stage.values + layout.size;

    for (int64 item; rest.take(item);) {
      const int64 b = item / tiling.tiles / g.groups, group = item / tiling.tiles % g.groups;
      int64 origin[max_rank], size[max_rank];
      locate_tile(g, tiling, item % tiling.tiles, origin, size);
      const bool masked = !may_pad && !inside_image(g, origin, size);
      TransformedTile tile(g, setting, tiling, loader, img,
                           img + b * g.img_strides[0] + group * g.in_channels * g.img_strides[1],
                           origin, masked, memory, memory + elements, mask, moments);
      tile_functions->cut(strips, g, tiling, origin, size, Cut{layout.to_strides(), no_pairs, all_taps, false, N});
      int64 summed = 0, failed = 0;  // strips that went by sums, and strips that were not proven
      for (int64 o = 0; o < g.outputs_per_group; ++o) {
        int64 plane =
            b * g.out_strides[0] + (group * g.outputs_per_group + o) * g.out_strides[1];
        for (int a = 0; a < g.rank; ++a) plane += origin[a] * g.out_strides[a + 2];
        const int64 kernel = g.kernel_of(group, o);
        const Range<Real>& range = weights.range(kernel);
        const Proof<Real> proof(BySums<Real>(setting), tile.range, range, weights.taps);
        Strip* const unproven = room + most_strips;
        int64 unproven_count = 0;
        for (int64 j = 0; j < strips.count; j += N) {
          const int64 used = smaller_of(N, strips.count - j);
          Vector sums[N], entropies[N];
          Mask proven[N] = {};
          if constexpr (with_slopes) {
            if (2 * failed <= summed + 2 * N) {
              Vector sums_of_moments[N];
              sum_moments<N>(tile.transformed, moments - tile.transformed, weights.of(kernel),
                             weights.moments_of(kernel), weights.offsets(), weights.taps, strips.data + j, sums,
                             sums_of_moments);
              for (int64 k = 0; k < used; ++k) {
                entropies[k] = e.entropy(sums[k], sums_of_moments[k]);
                proven[k] = (Mask)proof.holds(sums[k], sums_of_moments[k], entropies[k]);
              }
              summed += used;
            }
          } else {
            sum_strips<N>(tile.transformed, weights.of(kernel), weights.offsets(), weights.taps,
                          strips.data + j, sums);
            for (int64 k = 0; k < used; ++k) proven[k] = (Mask)proof.holds(sums[k]);
          }
          for (int64 k = 0; k < used; ++k) {
            const Strip& strip = strips.data[j + k];
            if (any(first_lanes(strip.count) & ~proven[k])) {
              unproven[unproven_count++] = strip;
              ++failed;
              continue;
            }
            const Vector value = e.restore(sums[k], broadcast(tile.range.shift), broadcast(range.shift));
            if (stage.used) store_vector(stage.values + strip.to, value);
            else store_lanes(out + plane + strip.to, value, strip.count, results.step);
#if defined(SEMICONV_SLOPES)
            const Vector slope = slope_by_parameter(value, entropies[k], setting);
            if (stage.used) store_vector((Real*)stage.residual + strip.to, slope);
            else store_lanes((Real*)results.residual + plane + strip.to, slope, strip.count, results.step);
#endif
          }
        }
        if (unproven_count > 0) {
          for (int j = 0; j < direct; ++j) unproven[unproven_count + j] = unproven[unproven_count - 1];
          const TileWork work{g, table, kernel, tile.numbers(), tiling.channel_size, mask, results, plane,
                              stage.used ? &stage : nullptr};
          const auto run = masked ? run_scattered<DirectSums, direct, true> : run_scattered<DirectSums, direct, false>;
          for (int64 j = 0; j < unproven_count; j += direct)
            run(work, setting, unproven + j, (int)smaller_of(direct, unproven_count - j));
        }
        if (!stage.used) continue;
        tile_functions->unload(stage, size, stage.values, out + plane);
        if (with_slopes)
          tile_functions->unload_numbers(stage, size, (const Real*)stage.residual, (Real*)results.residual + plane);
      }
    }
    workspace.release_beyond(kept_bytes);
  });
  return status;
}

}  // namespace semiconv
