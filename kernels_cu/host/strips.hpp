// Strips: a tile's outputs as vectors, and pairs of groups of strips that share what they load.
//
// A strip is one register of neighbouring outputs of a row. Two outputs `apart` rows from each other see
// the same rows of the image, at different taps: with stride s and dilation d, output row y sees image
// row s y + d k at kernel row k, so that row y + apart sees at kernel row k what row y saw at kernel row
// k + s apart / d. The second group is that far behind, which is `lag` taps. Of 3 x 3 taps, stride 1:
//
//     image row   kernel row of output row y   kernel row of output row y + 1
//         0                  0
//         1                  1                            0
//         2                  2                            1
//         3                                               2
//
// One load serves both rows: 4 rows are read instead of 6, of larger kernels about half. `apart` is the
// smallest distance at which s apart is a multiple of d. The first group leads; where the kernel is
// mirrored, taps go by from the other end, and the second one leads. The rows are those of any axis but the
// last. Where only the last axis has windows, the same holds for stretches of one row, `apart` being a
// multiple of a group's width.
//
// A window whose rows lie outside the image needs no taps there. Along the axis whose taps lie furthest
// apart, those that a row of outputs sees inside are one stretch of the list of taps: first .. last - 1.
// What both groups of a pair see is inside for both, or for none.
#pragma once
#include "tiles.hpp"

namespace semiconv {

// A vector of outputs of a row.
struct Strip {
  int64 from, to;   // where its windows begin in the scratch; its place in the tile's results
  int32 count;      // lanes that are outputs
  int32 adjoining;  // whole strips from this one on to the row's end, itself included
  int64 row;        // which TapRange has the taps that can lie inside the image
};

// Taps first .. last - 1 of the list.
struct TapRange {
  int64 first, last;
};

// Which taps of a row of outputs can lie inside the image, by the outermost axis of the list of taps.
class InsideTaps {
  const Geometry& g;
  int64 each = 1;  // taps of one position on the axis

 public:
  int axis;     // -1: the list is not cut
  int64 count;  // taps of a channel

  InsideTaps(const Geometry& g_, bool cuts) : g(g_), axis(-1), count(g_.window_size()) {
    const TapOrder order(g);
    const int outermost = order.outermost(g);
    if (!cuts || outermost < 0 || outermost == g.rank - 1) return;
    axis = outermost;
    each = order.apart(g, axis);
  }
  // How many ranges a tile of this size has: one for each of its rows, counted along the axis.
  int64 rows(const int64* size) const { return axis < 0 ? 1 : size[axis]; }
  TapRange of(int64 output) const {
    if (axis < 0) return {0, count};
    const int64 taps = g.kernel_size[axis], dilation = g.dilation[axis], size = g.image_size[axis];
    const int64 start = output * g.stride[axis] - g.pad_begin[axis];
    int64 begin = start >= 0 ? 0 : smaller_of(taps, ceil_div(-start, dilation));
    int64 end = start >= size ? 0 : smaller_of(taps, ceil_div(size - start, dilation));
    if (g.mirrored) {
      const int64 mirrored_begin = taps - end;
      end = taps - begin;
      begin = mirrored_begin;
    }
    return {begin * each, larger_of(begin, end) * each};
  }
};

// How two groups of `width` adjoining strips share their loads (above). The list of taps is one of blocks of
// `taps` taps, in which the pair's axis is the outermost one; pairs share within a block.
struct Pairing {
  int64 taps = 0, lag = 0;
  int64 apart = 0;         // outputs between the groups, on `axis`
  int64 from = 0, to = 0;  // from the first group to the second: in the scratch, in the results
  int64 numbers = 0;       // between the leader's tap and the follower's, as winners name them
  int axis = 0;
  int width = 0;           // 0: no pairs
  bool second_leads = false;
  int64 rows = 0;          // from the TapRange of the first group to that of the second

  Pairing() = default;
  // to_strides: of the tile's results, one a spatial axis.
  Pairing(const Geometry& g, const Tiling& t, const int64* to_strides, int strips, int cut_axis) {
    const int last = (int)g.rank - 1;
    double best = 0;  // the part of the taps that is shared
    for (int a = last; a >= 0; --a) {
      const int64 stride = g.stride[a], dilation = g.dilation[a];
      const int64 stretch = a < last ? 1 : (int64)strips * lanes;  // least outputs between the groups
      int64 steps = stride * stretch, common = dilation;
      while (common) {
        const int64 rest = steps % common;
        steps = common;
        common = rest;
      }
      const int64 distance = stretch * (dilation / steps), behind = distance * stride / dilation;
      const double shared = 1 - (double)behind / (double)g.kernel_size[a];
      if (shared <= best || 2 * distance > t.tile[a]) continue;
      best = a < last ? shared : 0.01;  // rather rows than stretches of one row
      axis = a;
      apart = distance;
      lag = behind;
    }
    if (best == 0) return;
    const int64 each = TapOrder(g).apart(g, axis);
    numbers = lag * g.tap_steps[axis + 1];
    taps = g.kernel_size[axis] * each;
    lag *= each;
    from = axis < last ? apart * g.stride[axis] * t.pitch[axis] : apart;
    to = apart * to_strides[axis];
    second_leads = g.mirrored;
    width = strips;
    rows = axis == cut_axis ? apart : 0;
  }
};

// How many strips a full tile has at most.
inline int64 strips_of(const Geometry& g, const Tiling& t) {
  int64 strips = ceil_div(t.tile[g.rank - 1], lanes);
  for (int a = 0; a < g.rank - 1; ++a) strips *= t.tile[a];
  return strips;
}

// How the strips of a tile are cut.
struct Cut {
  const int64* to_strides;  // of the tile's results, one a spatial axis
  const Pairing& pairing;
  const InsideTaps& taps;
  bool masks;  // whether strips whose windows reach beyond the image are kept apart
  int spare;
};

// The strips of a tile. A pair is known by the first strip of its first group; `data` has the strips
// that belong to no pair, `edges` those that need a mask.
struct Strips {
  Strip *heads, *data, *edges;
  TapRange* ranges;
  int64 pairs, count, edge_count;

  // All strips in `data`, with all taps; `to` counts elements of the output channel.
  void cut(const Geometry& g, const Tiling& t, const int64* origin, const int64* size, int spare) {
    const Pairing none;
    TapRange all;
    ranges = &all;
    cut(g, t, origin, size, Cut{g.out_strides + 2, none, InsideTaps(g, false), false, spare});
    int64 offset = 0;
    for (int a = 0; a < g.rank; ++a) offset += origin[a] * g.out_strides[a + 2];
    for (int64 j = 0; j < count + spare; ++j) data[j].to += offset;
  }
  // `to` counts from the tile's first result. Behind the last strips of `data` and `edges` follow `spare`
  // copies of it: a loop over N strips may run past the end, and drops what it computes there.
  void cut(const Geometry& g, const Tiling& t, const int64* origin, const int64* size, const Cut& how) {
    const int last = (int)g.rank - 1;
    const Pairing& pairing = how.pairing;
    const int64 apart = pairing.apart, step = how.to_strides[last];
    const int64 group = (int64)pairing.width * lanes, least = group - lanes;  // the last may be cut
    int64 index[max_rank] = {}, rows = 1, inside_from = 0, inside_to = size[last];
    for (int a = 0; a < last; ++a) rows *= size[a];
    if (how.masks) inside_outputs(g, origin[last], size[last], inside_from, inside_to);
    pairs = count = edge_count = 0;
    const int cut_axis = how.taps.axis;
    for (int64 n = 0; n < how.taps.rows(size); ++n)
      ranges[n] = how.taps.of(cut_axis < 0 ? 0 : origin[cut_axis] + n);
    for (int64 r = 0; r < rows; ++r) {
      Strip strip{};
      bool inside = true;
      for (int a = 0; a < last; ++a) {
        strip.to += index[a] * how.to_strides[a];
        strip.from += index[a] * g.stride[a] * t.pitch[a];
        const int64 first = (origin[a] + index[a]) * g.stride[a] - g.pad_begin[a];
        const int64 reach = (g.kernel_size[a] - 1) * g.dilation[a];
        if (how.masks && a != cut_axis && (first < 0 || first + reach >= g.image_size[a])) inside = false;
      }
      if (cut_axis >= 0) strip.row = index[cut_axis];
      const auto at = [&](int64 x) {
        Strip found = strip;
        found.from += x;
        found.to += x * step;
        found.count = (int32)smaller_of(lanes, size[last] - x);
        return found;
      };
      int64 x = 0;
      const auto singles = [&](int64 begin, int64 end, Strip* to, int64& n) {
        for (x = begin; x < end; x += lanes) {
          to[n] = at(x);
          to[n++].adjoining = (int32)((smaller_of(end, size[last]) - x) / lanes);
        }
      };
      // In rows of masks, from the first whole strip inside to the last one.
      int64 begin = 0, end = size[last];
      if (how.masks) {
        begin = inside ? ceil_div(inside_from, lanes) * lanes : end;
        end = inside_to < size[last] ? inside_to / lanes * lanes : size[last];
        if (begin >= end) begin = end = size[last];
        singles(0, smaller_of(begin, size[last]), edges, edge_count);
      }
      if (begin < end || !how.masks) {
        x = begin;
        bool paired = false;
        if (group && pairing.axis < last) {
          const int64 place = index[pairing.axis] % (2 * apart);
          const int64 other = place < apart ? index[pairing.axis] + apart : index[pairing.axis] - apart;
          paired = index[pairing.axis] - place + 2 * apart <= size[pairing.axis];
          if (how.masks && paired && pairing.axis != cut_axis) {
            // The other row is inside, too?
            const int a = pairing.axis;
            const int64 first = (origin[a] + other) * g.stride[a] - g.pad_begin[a];
            paired = first >= 0 && first + (g.kernel_size[a] - 1) * g.dilation[a] < g.image_size[a];
          }
          if (paired)
            for (; end - x > least; x += group)
              if (place < apart) {
                heads[pairs] = at(x);
                heads[pairs++].count = (int32)smaller_of(lanes, size[last] - x - least);
              }
        } else if (group) {
          // apart is a multiple of group.
          for (; end - x - 2 * apart >= 0; x += 2 * apart)
            for (int64 q = x; q < x + apart; q += group) heads[pairs++] = at(q);
        }
        singles(x, end, data, count);
        if (how.masks) singles(end, size[last], edges, edge_count);
      }
      for (int a = last - 1; a >= 0 && ++index[a] == size[a]; --a) index[a] = 0;
    }
    for (int64 j = count; count && j < count + how.spare; ++j) data[j] = data[count - 1];
    for (int64 j = edge_count; edge_count && j < edge_count + how.spare; ++j) edges[j] = edges[edge_count - 1];
  }

 private:
  // The outputs of a row, from its tile's first one on, whose windows lie inside the image on the last axis.
  static void inside_outputs(const Geometry& g, int64 origin, int64 size, int64& from, int64& to) {
    const int last = (int)g.rank - 1;
    const int64 stride = g.stride[last], start = origin * stride - g.pad_begin[last];
    const int64 reach = (g.kernel_size[last] - 1) * g.dilation[last];
    from = start >= 0 ? 0 : ceil_div(-start, stride);
    const int64 room = g.image_size[last] - 1 - reach - start;
    to = room < 0 ? 0 : smaller_of(size, room / stride + 1);
    from = smaller_of(from, size);
  }
};

}  // namespace semiconv
