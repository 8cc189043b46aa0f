// The kernels of a call as lists of taps, converted to Real: one table for all threads.
//
// A list names for each tap of one (kernel, input channel) its offset in the scratch, its value and its
// index. Usually all lists share their offsets and indices. Where a value makes every term the
// semifield's zero (-inf in a dilation: a footprint), its tap is dropped and each list has its own.
#pragma once
#include "tiles.hpp"

namespace semiconv {

// The taps of one (kernel, input channel) that can change a result.
struct Taps {
  const int64* offsets;
  const Real* values;
  const MaskLane* indices;
  int64 count;
};

// How many of `count` weights make every term the semifield's zero.
using CountNeutral = int64 (*)(const Real* weights, int64 count);

class TapTable {
  CountNeutral count_neutral;
  Buffer<int64> offsets, own_offsets;
  Buffer<Real> values, own_values;
  Buffer<MaskLane> indices, own_indices;
  Buffer<Taps> lists;
  int64 channels;

 public:
  bool complete = false;  // false: the machine had no memory
  bool finite = true;     // no value is infinite or NaN
  bool regular = true;    // no tap was dropped

  // Without count_neutral, the lists keep the taps that never matter, and tap t is the t-th of its list.
  TapTable(const Geometry& g, const Tiling& t, const Storage* krn, CountNeutral count_neutral_)
      : count_neutral(count_neutral_), channels(g.in_channels) {
    const int64 window = g.window_size(), pairs = g.kernels * g.in_channels;
    if (!offsets.allocate(window) || !values.allocate(pairs * window) ||
        !indices.allocate(g.in_channels * window) || !lists.allocate(pairs))
      return;
    tap_offsets(g, t, offsets.data);
    tap_numbers(g, indices.data);
    const TapOrder order(g);
    for (int64 pair = 0; pair < pairs; ++pair) {
      const int64 i = pair % g.in_channels;
      const Storage* source =
          krn + g.krn_begin + pair / g.in_channels * g.krn_strides[0] + i * g.krn_strides[1];
      Real* value = values.data + pair * window;
      int64 index[max_rank] = {};
      for (int64 n = 0; n < window; ++n) {
        int64 at = 0;
        for (int a = 0; a < g.rank; ++a) at += index[a] * g.krn_strides[a + 2];
        value[n] = load(source[at]);
        if (!Limits<Real>::integer && !(value[n] - value[n] == 0)) finite = false;
        order.advance(g, index);
      }
      lists.data[pair] = Taps{offsets.data, value, indices.data + i * window, window};
    }
    regular = !count_neutral || count_neutral(values.data, pairs * window) == 0;
    complete = regular || drop_neutral(pairs, window);
  }
  const Taps& of(int64 kernel, int64 channel) const { return lists.data[kernel * channels + channel]; }

 private:
  bool drop_neutral(int64 pairs, int64 window) {
    if (!own_offsets.allocate(pairs * window) || !own_values.allocate(pairs * window) ||
        !own_indices.allocate(pairs * window))
      return false;
    int64 kept = 0;
    for (int64 pair = 0; pair < pairs; ++pair) {
      const Taps all = lists.data[pair];
      const int64 begin = kept;
      for (int64 n = 0; n < window; ++n) {
        if (count_neutral(all.values + n, 1)) continue;
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

}  // namespace semiconv
