// The host schedule's memory: a tile of outputs, and the padded scratch copy of what it sees.
//
// A tile of one (batch, group) is served from a scratch that holds, for every input channel, the
// image positions of its windows: converted to Real, outside positions filled with the semifield's
// zero, the last axis split into `stride` phases so that neighbouring outputs read neighbouring
// elements. A tap is then one offset into the scratch, the same for every output of the tile.
#pragma once
#include "simd.hpp"
#include "parallel.hpp"
#include "geometry.cuh"
#include "semifield.cuh"

#include <stdlib.h>

namespace semiconv {

// Scratch of one thread, kept between calls so that small calls allocate nothing.
class Workspace {
  void* memory = nullptr;
  size_t size = 0;

 public:
  ~Workspace() { free(memory); }
  // nullptr where the machine has no such memory.
  void* reserve(size_t bytes) {
    if (bytes > size) {
      free(memory);
      size = 0;
      bytes = (bytes + 4095) / 4096 * 4096;
      memory = aligned_alloc(64, bytes);
      if (memory) size = bytes;
    }
    return memory;
  }
  void release_beyond(size_t bytes) {
    if (size <= bytes) return;
    free(memory);
    memory = nullptr;
    size = 0;
  }
};
constexpr size_t kept_bytes = size_t(8) << 20;

// An array that frees itself; data is nullptr where the machine has no such memory.
template <class T> struct Buffer {
  T* data = nullptr;
  Buffer() = default;
  Buffer(const Buffer&) = delete;
  ~Buffer() { free(data); }
  bool allocate(int64 count) {
    data = (T*)malloc((size_t)count * sizeof(T) + 1);
    return data != nullptr;
  }
};

// What a pass over the outputs reads: sizes of a full tile and of the scratch behind it.
struct Tiling {
  int64 tile[max_rank], count[max_rank], tiles;  // outputs per tile; tiles per axis, in all
  int64 extent[max_rank];                        // scratch rows per outer axis
  int64 pitch[max_rank];                         // elements per step on each axis of the scratch
  int64 phases, phase_length, channel_size;

  static constexpr int64 budget = 192 * 1024;  // bytes of scratch: well inside a core's L2

  Tiling(const Geometry& g, int threads) {
    const int last = (int)g.rank - 1;
    for (int a = 0; a < g.rank; ++a) tile[a] = g.out_size[a];
    measure(g);
    while (channel_size * g.in_channels * (int64)sizeof(Real) > budget && halve(last, true)) measure(g);
    while (g.batch * g.groups * tiles < 4 * threads && threads > 1 && halve(last, false)) measure(g);
  }

  // Make tiles at least as long as their windows reach beyond them, so that a tile overlaps with
  // its direct neighbours only.
  void cover_reach(const Geometry& g) {
    for (int a = 0; a < g.rank; ++a) {
      const int64 least = ceil_div((g.kernel_size[a] - 1) * g.dilation[a], g.stride[a]);
      const int64 unit = a == g.rank - 1 ? lanes : 1;
      tile[a] = smaller_of(g.out_size[a], larger_of(tile[a], ceil_div(least, unit) * unit));
    }
    measure(g);
  }

 private:
  // Halve the longest axis; the last one only down to `least` outputs.
  bool halve(int last, bool cut_rows) {
    const int64 least = 8 * lanes;
    int longest = -1;
    for (int a = 0; a < last; ++a)
      if (tile[a] > 1 && (longest < 0 || tile[a] > tile[longest])) longest = a;
    const bool row = (cut_rows || last == 0) && tile[last] >= 2 * least &&
                     (longest < 0 || tile[last] > 16 * tile[longest]);
    if (row) tile[last] = ceil_div(ceil_div(tile[last], 2), least) * least;
    else if (longest >= 0) tile[longest] = ceil_div(tile[longest], 2);
    else return false;
    return true;
  }
  void measure(const Geometry& g) {
    const int last = (int)g.rank - 1;
    tiles = 1;
    for (int a = 0; a < g.rank; ++a) {
      count[a] = ceil_div(g.out_size[a], tile[a]);
      tiles *= count[a];
      extent[a] = (tile[a] - 1) * g.stride[a] + (g.kernel_size[a] - 1) * g.dilation[a] + 1;
    }
    phases = g.stride[last];
    const int64 reach = (g.kernel_size[last] - 1) * g.dilation[last];
    phase_length = ceil_div(tile[last], lanes) * lanes + reach / phases + 1;
    pitch[last] = 1;
    int64 size = phases * phase_length;
    for (int a = last - 1; a >= 0; --a) {
      pitch[a] = size;
      size *= extent[a];
    }
    channel_size = size + lanes;
  }
};

// Offsets of the taps of one channel in the kernel's memory order.
inline void tap_offsets(const Geometry& g, const Tiling& t, int64* offsets) {
  const int last = (int)g.rank - 1;
  int64 index[max_rank] = {};
  const int64 window = g.window_size();
  for (int64 n = 0; n < window; ++n) {
    int64 offset = 0;
    for (int a = 0; a < last; ++a) offset += g.dilation[a] * g.step(a, index[a]) * t.pitch[a];
    const int64 along = g.dilation[last] * g.step(last, index[last]);
    offsets[n] = offset + along % t.phases * t.phase_length + along / t.phases;
    for (int a = last; a >= 0 && ++index[a] == g.kernel_size[a]; --a) index[a] = 0;
  }
}

// An image that is -1 everywhere (read with strides 0): filling with it gives the mask.
struct Everywhere {};
SEMICONV_FN int load(Everywhere) { return -1; }

// Every `step`-th element from `from` on, as many as [begin, end) has, to there; outside around them.
template <class S, class T>
inline void fill_row(T* row, const S* from, int64 step, int64 begin, int64 end, int64 length, T outside) {
  for (int64 q = 0; q < begin; ++q) row[q] = outside;
  if (step == 1) {
    for (int64 q = begin; q < end; ++q) row[q] = (T)load(from[q - begin]);
  } else if (step == 2) {
    for (int64 q = begin; q < end; ++q) row[q] = (T)load(from[2 * (q - begin)]);
  } else {
    for (int64 q = begin; q < end; ++q, from += step) row[q] = (T)load(*from);
  }
  for (int64 q = end; q < length; ++q) row[q] = outside;
}

// Fill one channel's scratch with the part of `image` that the tile at output position `origin`
// sees; image is the channel's first element, strides are in elements, one per spatial axis.
template <class S, class T>
inline void fill_channel(const Geometry& g, const Tiling& t, const int64* origin, const S* image,
                         const int64* strides, T* scratch, T outside) {
  const int last = (int)g.rank - 1;
  int64 rows = 1;
  for (int a = 0; a < last; ++a) rows *= t.extent[a];
  const int64 first = origin[last] * g.stride[last] - g.pad_begin[last], size = g.image_size[last];
  const int64 phases = t.phases, length = t.phase_length;
  for (int64 phase = 0; phase < phases; ++phase) {
    const int64 start = first + phase;  // may be outside
    const int64 begin = smaller_of(length, start >= 0 ? 0 : ceil_div(-start, phases));
    const int64 end =
        larger_of(begin, start >= size ? 0 : smaller_of(length, ceil_div(size - start, phases)));
    const S* const from = image + (start + begin * phases) * strides[last];
    T* row = scratch + phase * length;
    int64 index[max_rank] = {};
    for (int64 r = 0; r < rows; ++r, row += phases * length) {
      int64 offset = 0;
      bool inside = true;
      for (int a = 0; a < last; ++a) {
        const int64 position = origin[a] * g.stride[a] - g.pad_begin[a] + index[a];
        inside = inside && position >= 0 && position < g.image_size[a];
        offset += position * strides[a];
      }
      if (inside) fill_row(row, from + offset, phases * strides[last], begin, end, length, outside);
      else
        for (int64 q = 0; q < length; ++q) row[q] = outside;
      for (int a = last - 1; a >= 0 && ++index[a] == t.extent[a]; --a) index[a] = 0;
    }
  }
  scratch += rows * phases * length;
  for (int q = 0; q < lanes; ++q) scratch[q] = outside;  // read by the last vector, never used
}

// The scratch's twin that tells which of its positions lie inside the image.
inline void fill_mask(const Geometry& g, const Tiling& t, const int64* origin, MaskLane* mask) {
  const Everywhere everywhere;
  const int64 strides[max_rank] = {};
  fill_channel(g, t, origin, &everywhere, strides, mask, (MaskLane)0);
}

// Whether every position that the tile's windows touch lies in the image.
inline bool inside_image(const Geometry& g, const int64* origin, const int64* size) {
  for (int a = 0; a < g.rank; ++a) {
    const int64 first = origin[a] * g.stride[a] - g.pad_begin[a];
    const int64 reach = (size[a] - 1) * g.stride[a] + (g.kernel_size[a] - 1) * g.dilation[a];
    if (first < 0 || first + reach >= g.image_size[a]) return false;
  }
  return true;
}

// A vector of outputs: where its windows start in the scratch, where it goes, how many are real, and
// how many whole strips adjoin from this one on, itself included.
struct Strip {
  int64 from, to;
  int32 count, adjoining;
};

// Two groups of `width` adjoining strips whose windows see the same elements, one group `lag` taps
// later: rows of outputs as far apart as steps between kernel rows bring together, in one dimension
// stretches of one row. Kernels are lists of planes of `taps` taps.
struct Pairing {
  int64 taps = 0, lag = 0;
  int64 apart = 0;         // outputs between the groups, on the axis before the last or the only one
  int64 from = 0, to = 0;  // from the first group to the second: in the scratch, in the output
  int width = 0;           // 0: no pairs
  bool second_leads = false;

  Pairing() = default;
  Pairing(const Geometry& g, const Tiling& t, int strips) {
    const int last = (int)g.rank - 1, axis = larger_of(last - 1, 0);
    const int64 stride = g.stride[axis], dilation = g.dilation[axis];
    const int64 stretch = last ? 1 : (int64)strips * lanes;  // least outputs between the groups
    int64 steps = stride * stretch, common = dilation;
    while (common) {
      const int64 rest = steps % common;
      steps = common;
      common = rest;
    }
    apart = stretch * (dilation / steps);
    taps = last ? g.kernel_size[axis] * g.kernel_size[last] : g.kernel_size[last];
    lag = apart * stride / dilation * (last ? g.kernel_size[last] : 1);
    from = last ? apart * stride * t.pitch[axis] : apart;
    to = last ? apart * g.out_size[last] : apart;
    second_leads = g.mirrored;
    width = lag < taps && 2 * apart <= t.tile[axis] ? strips : 0;
  }
};

// How many strips a full tile has at most.
inline int64 strips_of(const Geometry& g, const Tiling& t) {
  int64 strips = ceil_div(t.tile[g.rank - 1], lanes);
  for (int a = 0; a < g.rank - 1; ++a) strips *= t.tile[a];
  return strips;
}

// The strips of a tile: first strips of pairs of groups, and all that no such pair covers.
struct Strips {
  Strip *heads, *data;
  int64 pairs, count;

  // `spare` strips behind the last one are its copies: registers left over work on them, and drop
  // the result.
  void cut(const Geometry& g, const Tiling& t, const int64* origin, const int64* size,
           const Pairing& pairing, int spare) {
    const int last = (int)g.rank - 1, axis = larger_of(last - 1, 0);
    const int64 apart = pairing.apart;
    int64 index[max_rank] = {}, rows = 1;
    for (int a = 0; a < last; ++a) rows *= size[a];
    pairs = count = 0;
    for (int64 r = 0; r < rows; ++r) {
      int64 from = 0, to = 0;
      for (int a = 0; a < g.rank; ++a) {
        to = to * g.out_size[a] + origin[a] + index[a];
        if (a < last) from += index[a] * g.stride[a] * t.pitch[a];
      }
      int64 x = 0;
      const auto single = [&](int64 end) {
        for (; x < end; x += lanes)
          data[count++] = Strip{from + x, to + x, (int32)smaller_of(lanes, size[last] - x),
                                (int32)((size[last] - x) / lanes)};
      };
      const int64 group = (int64)pairing.width * lanes, least = group - lanes;  // the last may be cut
      if (group && last) {
        const int64 place = index[axis] % (2 * apart);
        if (index[axis] - place + 2 * apart <= size[axis])
          for (; size[last] - x > least; x += group)
            if (place < apart)
              heads[pairs++] = Strip{from + x, to + x, (int32)smaller_of(lanes, size[last] - x - least), 0};
      } else if (group) {
        // apart is a multiple of group.
        for (; size[last] - x - 2 * apart >= 0; x += 2 * apart)
          for (int64 q = x; q < x + apart; q += group)
            heads[pairs++] = Strip{from + q, to + q, lanes, 0};
      }
      single(size[last]);
      for (int a = last - 1; a >= 0 && ++index[a] == size[a]; --a) index[a] = 0;
    }
    for (int64 j = count; count && j < count + spare; ++j) data[j] = data[count - 1];
  }
};

// The n-th tile: its first output and its size.
inline void locate_tile(const Geometry& g, const Tiling& t, int64 n, int64* origin, int64* size) {
  for (int a = (int)g.rank - 1; a >= 0; --a) {
    origin[a] = n % t.count[a] * t.tile[a];
    size[a] = smaller_of(t.tile[a], g.out_size[a] - origin[a]);
    n /= t.count[a];
  }
}

// The first `count` elements as Real, 0 behind them.
template <class S> SEMICONV_FN Vector load_lanes(const S* from, int count) {
  Real buffer[lanes] = {};
  for (int i = 0; i < count; ++i) buffer[i] = load(from[i]);
  return load_vector<Vector>(buffer);
}

// Store the first `count` lanes.
template <class S, class V> SEMICONV_FN void store_lanes(S* to, V values, int count) {
  using T = typename VectorElement<V>::type;
  constexpr int width = sizeof(V) / sizeof(T);
  if constexpr (Same<S, T>::value) {
    if (count == width) {
      store_vector(to, values);
      return;
    }
  }
  T buffer[width];
  store_vector(buffer, values);
  for (int i = 0; i < count; ++i) to[i] = Store<S>::from(buffer[i]);
}

}  // namespace semiconv
