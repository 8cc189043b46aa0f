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
// mirrored, taps go by from the other end, and the second one leads. In one dimension the same holds for
// stretches of one row, `apart` being a multiple of a group's width.
#pragma once
#include "tiles.hpp"

namespace semiconv {

// A vector of outputs of a row.
struct Strip {
  int64 from, to;   // where its windows begin in the scratch; its place in an output channel
  int32 count;      // lanes that are outputs
  int32 adjoining;  // whole strips from this one on to the row's end, itself included
};

// How two groups of `width` adjoining strips share their loads (above). A kernel of more axes is a list
// of planes of `taps` taps; pairs share within a plane.
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
    to = apart * g.out_strides[axis + 2];
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

// The strips of a tile. A pair is known by the first strip of its first group; `data` has the strips
// that belong to no pair.
struct Strips {
  Strip *heads, *data;
  int64 pairs, count;

  // Behind the last strip of `data` follow `spare` copies of it: a loop over N strips may run past the
  // end, and drops what it computes there.
  void cut(const Geometry& g, const Tiling& t, const int64* origin, const int64* size,
           const Pairing& pairing, int spare) {
    const int last = (int)g.rank - 1, axis = larger_of(last - 1, 0);
    const int64 apart = pairing.apart, step = g.out_strides[last + 2];
    int64 index[max_rank] = {}, rows = 1;
    for (int a = 0; a < last; ++a) rows *= size[a];
    pairs = count = 0;
    for (int64 r = 0; r < rows; ++r) {
      int64 from = 0, to = 0;
      for (int a = 0; a < g.rank; ++a) {
        to += (origin[a] + index[a]) * g.out_strides[a + 2];
        if (a < last) from += index[a] * g.stride[a] * t.pitch[a];
      }
      int64 x = 0;
      const auto single = [&](int64 end) {
        for (; x < end; x += lanes)
          data[count++] = Strip{from + x, to + x * step, (int32)smaller_of(lanes, size[last] - x),
                                (int32)((size[last] - x) / lanes)};
      };
      const int64 group = (int64)pairing.width * lanes, least = group - lanes;  // the last may be cut
      if (group && last) {
        const int64 place = index[axis] % (2 * apart);
        if (index[axis] - place + 2 * apart <= size[axis])
          for (; size[last] - x > least; x += group)
            if (place < apart)
              heads[pairs++] = Strip{from + x, to + x * step, (int32)smaller_of(lanes, size[last] - x - least), 0};
      } else if (group) {
        // apart is a multiple of group.
        for (; size[last] - x - 2 * apart >= 0; x += 2 * apart)
          for (int64 q = x; q < x + apart; q += group)
            heads[pairs++] = Strip{from + q, to + q * step, lanes, 0};
      }
      single(size[last]);
      for (int a = last - 1; a >= 0 && ++index[a] == size[a]; --a) index[a] = 0;
    }
    for (int64 j = count; count && j < count + spare; ++j) data[j] = data[count - 1];
  }
};

// The first `count` elements as Real, 0 behind them.
template <class S> SEMICONV_FN Vector load_lanes(const S* from, int count) {
  Real buffer[lanes] = {};
  for (int i = 0; i < count; ++i) buffer[i] = load(from[i]);
  return load_vector<Vector>(buffer);
}

// Store the first `count` lanes, `step` elements from each other.
template <class S, class V> SEMICONV_FN void store_lanes(S* to, V values, int count, int64 step) {
  using T = typename VectorElement<V>::type;
  constexpr int width = sizeof(V) / sizeof(T);
  if constexpr (Same<S, T>::value) {
    if (count == width && step == 1) {
      store_vector(to, values);
      return;
    }
  }
  T buffer[width];
  store_vector(buffer, values);
  for (int i = 0; i < count; ++i) to[i * step] = Store<S>::from(buffer[i]);
}

}  // namespace semiconv
