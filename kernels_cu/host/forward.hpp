// The forward pass on the host: strips of outputs stay in vector registers over all taps.
//
// Needs the semifield's macros and SEMICONV_STORAGE; SEMICONV_CHANNELS_ADD for an ordinary sum over
// channels. No sizes are compiled in: one shared object per semifield and dtype serves every image
// and kernel. Exported by forward.cpp and forward_residual.cpp.
#pragma once
#include "tiles.hpp"
#include "accumulators.cuh"

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

// The taps of one (kernel, channel) that can matter: where, what, and which one.
struct Taps {
  const int64* offsets;
  const Real* values;
  const MaskLane* indices;
  int64 count;
};

// A kernel converted to Real and laid out as lists of taps, shared by all threads.
class TapTable {
  Buffer<int64> offsets, own_offsets;
  Buffer<Real> values, own_values;
  Buffer<MaskLane> indices, own_indices;
  Buffer<Taps> lists;
  int64 channels;

 public:
  bool complete = false, finite = true;

  TapTable(const Geometry& g, const Tiling& t, const Storage* krn) : channels(g.in_channels) {
    const int64 window = g.window_size(), pairs = g.kernels * g.in_channels;
    if (!offsets.allocate(window) || !values.allocate(pairs * window) ||
        !indices.allocate(g.in_channels * window) || !lists.allocate(pairs))
      return;
    tap_offsets(g, t, offsets.data);
    for (int64 n = 0; n < g.in_channels * window; ++n) indices.data[n] = (MaskLane)n;
    int64 neutral = 0;
    for (int64 pair = 0; pair < pairs; ++pair) {
      const int64 i = pair % g.in_channels;
      const Storage* source =
          krn + pair / g.in_channels * g.krn_strides[0] + i * g.krn_strides[1];
      Real* value = values.data + pair * window;
      int64 index[max_rank] = {};
      for (int64 n = 0; n < window; ++n) {
        int64 at = 0;
        for (int a = 0; a < g.rank; ++a) at += index[a] * g.krn_strides[a + 2];
        value[n] = load(source[at]);
        neutral += never_matters(value[n]);
        if (!Limits<Real>::integer && !(value[n] - value[n] == 0)) finite = false;
        for (int a = (int)g.rank - 1; a >= 0 && ++index[a] == g.kernel_size[a]; --a) index[a] = 0;
      }
      lists.data[pair] = Taps{offsets.data, value, indices.data + i * window, window};
    }
    complete = neutral == 0 || drop_neutral(pairs, window);
  }
  const Taps& of(int64 kernel, int64 channel) const { return lists.data[kernel * channels + channel]; }

 private:
  // A weight at the semifield's zero (-inf in a dilation) makes every term the zero.
  static bool never_matters(Real weight) {
#if defined(SEMICONV_DROP_ZERO_WEIGHTS)
    const Real zero = semifield_zero<Real>(), large = 1 / Limits<Real>::smallest_normal;
    return times<Real>(large, weight) == zero && times<Real>(-large, weight) == zero;
#else
    (void)weight;
    return false;
#endif
  }
  bool drop_neutral(int64 pairs, int64 window) {
    if (!own_offsets.allocate(pairs * window) || !own_values.allocate(pairs * window) ||
        !own_indices.allocate(pairs * window))
      return false;
    int64 kept = 0;
    for (int64 pair = 0; pair < pairs; ++pair) {
      const Taps all = lists.data[pair];
      const int64 begin = kept;
      for (int64 n = 0; n < window; ++n) {
        if (never_matters(all.values[n])) continue;
        own_offsets.data[kept] = all.offsets[n];
        own_values.data[kept] = all.values[n];
        own_indices.data[kept++] = all.indices[n];
      }
      lists.data[pair] = Taps{own_offsets.data + begin, own_values.data + begin,
                              own_indices.data + begin, kept - begin};
    }
    return true;
  }
};

// Where a call's results go. residual is null where nobody asked.
struct Results {
  Storage* out;
  void* residual;
  int64 residual_itemsize;  // of an index; the others are Real
  int64 residual_plane;     // elements of one residual array
};

template <class V> struct UsesProvenance { static constexpr bool value = false; };
#if defined(SEMICONV_SELECT)
template <class V, class I> struct UsesProvenance<Provenance<V, I>> { static constexpr bool value = true; };
#endif

template <class T> SEMICONV_FN void store_index(T* to, Mask index, int count) {
  MaskLane buffer[lanes];
  store_vector(buffer, index);
  for (int i = 0; i < count; ++i) to[i] = (T)buffer[i];
}
template <class A> SEMICONV_FN void store_residual(const A& acc, const Results& r, int64 at, int count) {
  if constexpr (UsesProvenance<A>::value) {
    if (r.residual_itemsize == 1) store_index((uint8*)r.residual + at, acc.winner, count);
    else if (r.residual_itemsize == 2) store_index((uint16*)r.residual + at, acc.winner, count);
    else store_index((uint32*)r.residual + at, acc.winner, count);
  } else if constexpr (A::residuals > 0) {
    for (int k = 0; k < A::residuals; ++k)
      store_lanes((Real*)r.residual + k * r.residual_plane + at, acc.residual(k), count);
  }
}
// Where the strips in registers lie: anywhere, or behind each other in one row (one address serves).
enum Layout { scattered, adjoining };

// The terms of N strips at one tap.
template <int N, Layout LAYOUT, bool MASKED> struct Terms {
  static constexpr int addresses = LAYOUT == adjoining ? 1 : N;
  const Real* from[addresses];
  const MaskLane* valid[addresses];
  SEMICONV_FN Terms(const Real* scratch, const MaskLane* mask, const Strip* strips) {
#pragma GCC unroll 8
    for (int j = 0; j < addresses; ++j) {
      from[j] = scratch + strips[j].from;
      valid[j] = MASKED ? mask + strips[j].from : nullptr;
    }
  }
  static constexpr bool masked = MASKED;
  SEMICONV_FN Vector at(int j, int64 offset, Vector krn) const {
    const int base = LAYOUT == adjoining ? 0 : j;
    const int64 place = LAYOUT == adjoining ? offset + j * lanes : offset;
    return times(load_vector<Vector>(from[base] + place), krn);
  }
  SEMICONV_FN Mask inside(int j, int64 offset) const {
    const int base = LAYOUT == adjoining ? 0 : j;
    return load_vector<Mask>(valid[base] + (LAYOUT == adjoining ? offset + j * lanes : offset));
  }
};

// The accumulator as it becomes in the lanes of `mask`, as it was in the others: a position outside
// takes no part, whatever the semifield's author wrote. An accumulator is nothing but vectors.
template <class A> SEMICONV_FN A where_inside(Mask mask, A becomes, A was) {
  constexpr int count = sizeof(A) / sizeof(Vector);
  static_assert(sizeof(A) == count * sizeof(Vector), "accumulators hold vectors of one width");
  Vector now[count], before[count];
  __builtin_memcpy(now, &becomes, sizeof(A));
  __builtin_memcpy(before, &was, sizeof(A));
  for (int n = 0; n < count; ++n) now[n] = where(mask, now[n], before[n]);
  __builtin_memcpy(&becomes, now, sizeof(A));
  return becomes;
}
template <class A, class T, class F>
SEMICONV_FN void change(A& acc, const T& terms, int j, int64 offset, F change_it) {
  if constexpr (T::masked) {
    A becomes = acc;
    change_it(becomes);
    acc = where_inside(terms.inside(j, offset), becomes, acc);
  } else {
    change_it(acc);
  }
}

template <int N, class A, class T>
SEMICONV_FN void observe_channel(A* acc, const T& terms, const Taps& taps) {
  for (int64 t = 0; t < taps.count; ++t) {
    const Vector krn = broadcast(taps.values[t]);
    const int64 offset = taps.offsets[t];
#pragma GCC unroll 8
    for (int j = 0; j < N; ++j)
      change(acc[j], terms, j, offset, [&](A& one) { one.observe(terms.at(j, offset, krn)); });
  }
}
template <int N, class A, class T>
SEMICONV_FN void add_channel(A* acc, const T& terms, const Taps& taps) {
  for (int64 begin = 0; begin < taps.count; begin += block) {
    const int64 end = lowest_of(begin + block, taps.count);
    for (int64 t = begin; t < end; ++t) {
      const Vector krn = broadcast(taps.values[t]);
      const Mask index = Mask{} + taps.indices[t];
      const int64 offset = taps.offsets[t];
#pragma GCC unroll 8
      for (int j = 0; j < N; ++j)
        change(acc[j], terms, j, offset, [&](A& one) { one.add(terms.at(j, offset, krn), index); });
    }
#pragma GCC unroll 8
    for (int j = 0; j < N; ++j) acc[j].fold();
  }
}

// N strips of one output channel, over all input channels and taps; `out` is the channel's first.
template <class A, int N, Layout LAYOUT, bool MASKED>
SEMICONV_FN void run_strips(const Geometry& g, const TapTable& table, int64 kernel,
                            const Real* scratch, int64 channel_size, const MaskLane* mask,
                            const Strip* strips, int used, const Results& results, int64 plane,
                            int64 pixels, Storage* out) {
  using T = Terms<N, LAYOUT, MASKED>;
  A acc[N];
  Vector totals[N] = {};
  for (int64 first = 0; first < (channels_add ? g.in_channels : 1); ++first) {
    const int64 begin = channels_add ? first : 0;
    const int64 end = channels_add ? first + 1 : g.in_channels;
#pragma GCC unroll 8
    for (int j = 0; j < N; ++j) acc[j].start();
    if constexpr (A::two_pass) {
      for (int64 i = begin; i < end; ++i)
        observe_channel<N>(acc, T(scratch + i * channel_size, mask, strips), table.of(kernel, i));
#pragma GCC unroll 8
      for (int j = 0; j < N; ++j) acc[j].settle();
    }
    for (int64 i = begin; i < end; ++i)
      add_channel<N>(acc, T(scratch + i * channel_size, mask, strips), table.of(kernel, i));
#pragma GCC unroll 8
    for (int j = 0; j < N; ++j)
      totals[j] = channels_add && first ? sum(totals[j], acc[j].result()) : acc[j].result();
    if (results.residual) {
      const int64 at = channels_add ? (plane * g.in_channels + first) * pixels : plane * pixels;
#pragma GCC unroll 8
      for (int j = 0; j < N; ++j)
        if (j < used) store_residual(acc[j], results, at + strips[j].to, strips[j].count);
    }
  }
#pragma GCC unroll 8
  for (int j = 0; j < N; ++j) {
    if constexpr (LAYOUT == adjoining) store_lanes(out + strips[0].to + j * lanes, totals[j], lanes);
    else if (j < used) store_lanes(out + strips[j].to, totals[j], strips[j].count);
  }
}
template <class A, int N, bool MASKED>
__attribute__((noinline)) void run_scattered(const Geometry& g, const TapTable& table, int64 kernel,
                                             const Real* scratch, int64 channel_size,
                                             const MaskLane* mask, const Strip* strips, int used,
                                             const Results& results, int64 plane, int64 pixels,
                                             Storage* out) {
  run_strips<A, N, scattered, MASKED>(g, table, kernel, scratch, channel_size, mask, strips, used,
                                      results, plane, pixels, out);
}

// All n strips of one output channel in a tile.
template <class A, int N, bool MASKED>
__attribute__((noinline)) void run_tile(const Geometry& g, const TapTable& table, int64 kernel,
                                        const Real* scratch, int64 channel_size,
                                        const MaskLane* mask, const Strip* strips, int64 n,
                                        const Results& results, int64 plane) {
  const int64 pixels = g.pixels();
  Storage* out = results.out + plane * pixels;
  for (int64 j = 0; j < n; j += N) {
    if (!MASKED && strips[j].adjoining >= N)
      run_strips<A, N, adjoining, false>(g, table, kernel, scratch, channel_size, mask, strips + j,
                                         N, results, plane, pixels, out);
    else
      run_scattered<A, N, MASKED>(g, table, kernel, scratch, channel_size, mask, strips + j,
                                  (int)lowest_of(N, n - j), results, plane, pixels, out);
  }
}

enum Status { success = 0, out_of_memory = 1 };

// A: the accumulator; N: strips in registers at a time. absorbing: the zero times anything finite
// never wins, so that outside positions may hold it; otherwise they are masked.
template <class A, int N>
int forward(const Geometry& g, const Storage* img, const Storage* krn, const Results& results,
            bool absorbing, int threads) {
  const Tiling tiling(g, threads);
  const TapTable table(g, tiling, krn);
  if (!table.complete) return out_of_memory;
#if defined(SEMICONV_SELECT)
  const bool may_pad = absorbing;
#else
  const bool may_pad = absorbing && table.finite;
#endif
  int64 most_strips = 1;
  for (int a = 0; a < g.rank; ++a)
    most_strips *= a < g.rank - 1 ? tiling.tile[a] : ceil_div(tiling.tile[a], lanes);
  const size_t scratch_bytes = g.in_channels * tiling.channel_size * sizeof(Real);
  const size_t mask_bytes = may_pad ? 0 : tiling.channel_size * sizeof(MaskLane);
  const size_t strip_bytes = (most_strips + N) * sizeof(Strip);
  const int64 items = g.batch * g.groups * tiling.tiles;
  int status = success;

#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    thread_local Workspace workspace;
    char* memory = (char*)workspace.reserve(scratch_bytes + mask_bytes + strip_bytes + 192);
    if (!memory) {
#pragma omp atomic write
      status = out_of_memory;
    }
    Real* scratch = (Real*)memory;
    MaskLane* mask = (MaskLane*)(memory + (scratch_bytes + 63) / 64 * 64);
    Strip* strips = (Strip*)((char*)mask + (mask_bytes + 63) / 64 * 64);

#pragma omp for schedule(dynamic)
    for (int64 item = 0; item < items; ++item) {
      if (!memory) continue;
      const int64 b = item / tiling.tiles / g.groups, group = item / tiling.tiles % g.groups;
      int64 origin[max_rank], size[max_rank];
      locate_tile(g, tiling, item % tiling.tiles, origin, size);
      const Storage* image =
          img + b * g.img_strides[0] + group * g.in_channels * g.img_strides[1];
      for (int64 i = 0; i < g.in_channels; ++i)
        fill_channel(g, tiling, origin, image + i * g.img_strides[1], g.img_strides + 2,
                     scratch + i * tiling.channel_size, semifield_zero<Real>());
      const bool masked = !may_pad && !inside_image(g, origin, size);
      if (masked) fill_mask(g, tiling, origin, mask);
      const int64 n = strips_of(g, tiling, origin, size, strips);
      // Registers left over at the end work on the last strip again, and drop the result.
      for (int64 j = n; j < n + N; ++j) strips[j] = strips[n - 1];
      for (int64 o = 0; o < g.outputs_per_group; ++o) {
        const int64 plane = (b * g.groups + group) * g.outputs_per_group + o;
        const int64 kernel = g.kernel_of(group, o);
        const auto run = masked ? run_tile<A, N, true> : run_tile<A, N, false>;
        run(g, table, kernel, scratch, tiling.channel_size, mask, strips, n, results, plane);
      }
    }
    workspace.release_beyond(kept_bytes);
  }
  return status;
}

}  // namespace semiconv
