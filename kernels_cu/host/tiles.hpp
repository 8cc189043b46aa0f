// A tile of outputs, and the padded scratch copy of what its windows see.
//
// A tile belongs to one (batch element, group). Its scratch holds, for every input channel, the image
// positions of its windows, converted to Real; positions outside the image hold the semifield's zero.
// The last axis is split into `stride` phases, so that neighbouring outputs read neighbouring elements.
// With stride 2:
//
//     positions of a row     0 1 2 3 4 5 6 7       output x sees 2 x, 2 x + 1, 2 x + 2 at taps 0, 1, 2
//     in the scratch         0 2 4 6 | 1 3 5 7     tap 0: x,  tap 1: phase_length + x,  tap 2: x + 1
//
// A tap is then one offset into the scratch, the same for every output of the tile. A channel ends with
// room for one vector more, which the last strip of a row reads and does not use.
#pragma once
#include "simd.hpp"
#include "memory.hpp"
#include "parallel.hpp"
#include "geometry.cuh"

namespace semiconv {

// The spatial axes from the one along which the taps' numbers lie furthest apart to the one along which they
// are neighbours: taps come in the order of their numbers, whatever the order of the axes.
struct TapOrder {
  int axes[max_rank], count;

  explicit TapOrder(const Geometry& g) : count((int)g.rank) {
    for (int a = 0; a < count; ++a) {
      int place = a;
      for (; place > 0 && g.tap_steps[axes[place - 1] + 1] < g.tap_steps[a + 1]; --place)
        axes[place] = axes[place - 1];
      axes[place] = a;
    }
  }
  // From one tap to the next.
  void advance(const Geometry& g, int64* index) const {
    for (int k = count - 1; k >= 0 && ++index[axes[k]] == g.kernel_size[axes[k]]; --k) index[axes[k]] = 0;
  }
  // How many taps lie between neighbours along an axis.
  int64 apart(const Geometry& g, int axis) const {
    int64 taps = 1;
    for (int k = count - 1; axes[k] != axis; --k) taps *= g.kernel_size[axes[k]];
    return taps;
  }
  // The outermost axis with more than one tap; -1: none.
  int outermost(const Geometry& g) const {
    for (int k = 0; k < count; ++k)
      if (g.kernel_size[axes[k]] > 1) return axes[k];
    return -1;
  }
};

// The sizes of a full tile and of its scratch; the last tiles of an axis may be smaller.
struct Tiling {
  int64 tile[max_rank], count[max_rank], tiles;  // outputs per tile; tiles per axis, in all
  int64 extent[max_rank];                        // scratch rows per outer axis
  int64 pitch[max_rank];                         // elements per step on each axis of the scratch
  int64 phases, phase_length, channel_size;
  int64 groups;                                  // that a tile spans

  static constexpr int64 budget = 192 * 1024;  // bytes of scratch: well inside a core's L2

  // free_first: cut axes without windows first, whose tiles see nothing twice.
  Tiling(const Geometry& g, int threads, int64 groups_ = 1, bool free_first = false) : groups(groups_) {
    const int last = (int)g.rank - 1;
    for (int a = 0; a < g.rank; ++a) tile[a] = g.out_size[a];
    measure(g);
    const auto too_large = [&] { return channel_size * g.in_channels * groups * (int64)sizeof(Real) > budget; };
    while (too_large() && ((free_first && (halve_free(g) || shorten_vectors(g))) || halve(last, true))) measure(g);
    while (g.batch * g.groups * tiles < 4 * threads && threads > 1 && halve(last, false)) measure(g);
  }

  // Make tiles so long on each axis that a tile's windows overlap with those of its direct neighbours
  // only (partition.hpp).
  void cover_reach(const Geometry& g) {
    for (int a = 0; a < g.rank; ++a) {
      const int64 least = ceil_div((g.kernel_size[a] - 1) * g.dilation[a], g.stride[a]);
      const int64 unit = a == g.rank - 1 ? lanes : 1;
      tile[a] = smaller_of(g.out_size[a], larger_of(tile[a], ceil_div(least, unit) * unit));
    }
    measure(g);
  }

 private:
  // Halve rows without windows down to two registers, if otherwise tiles would load a fifth of the positions
  // twice, and down to one register if they would load half of them twice.
  bool shorten_vectors(const Geometry& g) {
    const int last = (int)g.rank - 1;
    if (g.kernel_size[last] > 1 || tile[last] <= lanes) return false;
    double loaded = 1;  // positions for each that no other tile sees
    for (int a = 0; a < last; ++a)
      if (g.kernel_size[a] > 1) loaded *= (double)extent[a] / (double)(tile[a] * g.stride[a]);
    const double most = tile[last] > 2 * lanes ? 1.2 : 1.5;
    if (loaded < most) return false;
    tile[last] = ceil_div(ceil_div(tile[last], 2), lanes) * lanes;
    return true;
  }
  // Halve the longest axis without windows.
  bool halve_free(const Geometry& g) {
    const int last = (int)g.rank - 1;
    const int64 least = 8 * lanes;
    int longest = -1;
    for (int a = 0; a < last; ++a)
      if (g.kernel_size[a] == 1 && tile[a] > 1 && (longest < 0 || tile[a] > tile[longest])) longest = a;
    if (g.kernel_size[last] == 1 && tile[last] >= 2 * least && (longest < 0 || tile[last] > 16 * tile[longest]))
      tile[last] = ceil_div(ceil_div(tile[last], 2), least) * least;
    else if (longest >= 0) tile[longest] = ceil_div(tile[longest], 2);
    else return false;
    return true;
  }
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

// Offsets in the scratch of the taps of one channel, in the order of their numbers.
inline void tap_offsets(const Geometry& g, const Tiling& t, int64* offsets) {
  const int last = (int)g.rank - 1;
  const TapOrder order(g);
  int64 index[max_rank] = {};
  const int64 window = g.window_size();
  for (int64 n = 0; n < window; ++n) {
    int64 offset = 0;
    for (int a = 0; a < last; ++a) offset += g.dilation[a] * g.step(a, index[a]) * t.pitch[a];
    const int64 along = g.dilation[last] * g.step(last, index[last]);
    offsets[n] = offset + along % t.phases * t.phase_length + along / t.phases;
    order.advance(g, index);
  }
}

// The numbers by which winners name the taps of all channels, in the same order.
template <class I> inline void tap_numbers(const Geometry& g, I* numbers) {
  const TapOrder order(g);
  int64 index[max_rank] = {};
  const int64 window = g.window_size();
  for (int64 n = 0; n < g.in_channels * window; ++n) {
    int64 number = g.first_tap + n / window * g.tap_steps[0];
    for (int a = 0; a < g.rank; ++a) number += index[a] * g.tap_steps[a + 1];
    numbers[n] = (I)number;
    order.advance(g, index);
  }
}

// row[begin .. end - 1] = every `step`-th element from `from` on; the rest of the row = outside.
template <class S>
inline void fill_row(Real* row, const S* from, int64 step, int64 begin, int64 end, int64 length, Real outside) {
  for (int64 q = 0; q < begin; ++q) row[q] = outside;
  if (step == 1) {
    for (int64 q = begin; q < end; ++q) row[q] = (Real)load(from[q - begin]);
  } else if (step == 2) {
    for (int64 q = begin; q < end; ++q) row[q] = (Real)load(from[2 * (q - begin)]);
  } else {
    for (int64 q = begin; q < end; ++q, from += step) row[q] = (Real)load(*from);
  }
  for (int64 q = end; q < length; ++q) row[q] = outside;
}

// Fill one channel's scratch with the part of `image` that the tile at output position `origin`
// sees; image is the channel's first element, strides are in elements, one per spatial axis.
template <class S>
inline void fill_channel(const Geometry& g, const Tiling& t, const int64* origin, const S* image,
                         const int64* strides, Real* scratch, Real outside) {
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
    Real* row = scratch + phase * length;
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

// Add one channel's scratch to the places of `gradient` that fill_channel reads from; strides: of its spatial
// axes.
inline void unfill_channel(const Geometry& g, const Tiling& t, const int64* origin, const Real* scratch,
                           Real* gradient, const int64* strides) {
  const int last = (int)g.rank - 1;
  int64 index[max_rank] = {}, rows = 1;
  for (int a = 0; a < last; ++a) rows *= t.extent[a];
  const int64 first = origin[last] * g.stride[last] - g.pad_begin[last];
  const int64 size = g.image_size[last], phases = t.phases, length = t.phase_length;
  for (int64 r = 0; r < rows; ++r, scratch += phases * length) {
    int64 offset = 0;
    bool inside = true;
    for (int a = 0; a < last; ++a) {
      const int64 position = origin[a] * g.stride[a] - g.pad_begin[a] + index[a];
      inside = inside && position >= 0 && position < g.image_size[a];
      offset += position * strides[a];
    }
    for (int64 phase = 0; inside && phase < phases; ++phase) {
      const int64 start = first + phase;
      const int64 begin = start >= 0 ? 0 : ceil_div(-start, phases);
      const int64 end = start >= size ? 0 : smaller_of(length, ceil_div(size - start, phases));
      const int64 step = phases * strides[last];
      Real* to = gradient + offset + start * strides[last];
      const Real* from = scratch + phase * length;
      if (step == 1)
        for (int64 q = begin; q < end; ++q) to[q] += from[q];
      else
        for (int64 q = begin; q < end; ++q) to[q * step] += from[q];
    }
    for (int a = last - 1; a >= 0 && ++index[a] == t.extent[a]; --a) index[a] = 0;
  }
}

// The mask of a channel's scratch: all bits set at positions inside the image.
inline void fill_mask(const Geometry& g, const Tiling& t, const int64* origin, MaskLane* mask) {
  // As the bits of Real, from an image that is `inside` everywhere: one fill_channel to compile serves both.
  Real inside;
  memset(&inside, -1, sizeof(Real));
  const int64 strides[max_rank] = {};
  fill_channel(g, t, origin, &inside, strides, (Real*)mask, Real(0));
}

// Whether all positions of the tile's windows lie in the image.
inline bool inside_image(const Geometry& g, const int64* origin, const int64* size) {
  for (int a = 0; a < g.rank; ++a) {
    const int64 first = origin[a] * g.stride[a] - g.pad_begin[a];
    const int64 reach = (size[a] - 1) * g.stride[a] + (g.kernel_size[a] - 1) * g.dilation[a];
    if (first < 0 || first + reach >= g.image_size[a]) return false;
  }
  return true;
}

// The n-th tile: its first output and its size.
inline void locate_tile(const Geometry& g, const Tiling& t, int64 n, int64* origin, int64* size) {
  for (int a = (int)g.rank - 1; a >= 0; --a) {
    origin[a] = n % t.count[a] * t.tile[a];
    size[a] = smaller_of(t.tile[a], g.out_size[a] - origin[a]);
    n /= t.count[a];
  }
}

}  // namespace semiconv
