// Neighbourhoods whose positions beyond the border are looked up: the border mode is a table, not code.
//
// Needs SEMICONV_STORAGE. Defines the tiles of the outputs of a call (Mapped in structs.hpp), the scratch copy
// of what a tile sees, and the loop that reduces a list of taps over a tile. Included by the filters: keys,
// structure, correlate.
#pragma once
#include "simd.hpp"
#include "memory.hpp"
#include "parallel.hpp"
#include "structs.hpp"

namespace semiconv {

// How outputs are cut into tiles, and the scratch of one tile.
struct MappedTiles {
  int64 tile[max_rank], count[max_rank], tiles;    // outputs per tile, tiles per axis, in all
  int64 extent[max_rank], pitch[max_rank], positions;  // of the scratch; pitch in elements
  int64 row;                                             // readable elements of a scratch row

  static constexpr int64 budget = 256 * 1024;     // bytes: half of a common core's L2
  static constexpr int64 most = 8 * 1024 * 1024;  // a core's part of L3
  static constexpr int64 repeated = 4;            // most positions for each output, unless memory is short

  // bytes: of scratch per position.
  MappedTiles(const Mapped& m, int64 bytes, int lanes, int threads) {
    for (int a = 0; a < m.rank; ++a) tile[a] = m.size[a];
    measure(m, lanes);
    while (positions * bytes > budget && cut(m, lanes, positions * bytes <= most)) continue;
    while (threads > 1 && tiles < 4 * threads && cut(m, lanes, true)) continue;
  }
  void locate(int64 n, const Mapped& m, int64* origin, int64* outputs) const {
    for (int a = (int)m.rank - 1; a >= 0; --a) {
      origin[a] = n % count[a] * tile[a];
      outputs[a] = smaller_of(tile[a], m.size[a] - origin[a]);
      n /= count[a];
    }
  }

 private:
  // Make tiles smaller; thrifty: not if they then had more than `repeated` positions for each output.
  bool cut(const Mapped& m, int lanes, bool thrifty) {
    const MappedTiles before = *this;
    if (!halve(m, lanes)) return false;
    measure(m, lanes);
    int64 outputs = 1;
    for (int a = 0; a < m.rank; ++a) outputs *= tile[a];
    if (!thrifty || positions <= repeated * outputs) return true;
    *this = before;
    return false;
  }
  // Halve the axis on which tiles overlap least; the last one stays at least four registers long.
  bool halve(const Mapped& m, int lanes) {
    int best = -1;
    double most = 0;
    for (int a = 0; a < m.rank; ++a) {
      const bool last = a == m.rank - 1;
      if (tile[a] < 2 || (last && tile[a] < 8 * lanes)) continue;
      const double worth = (double)tile[a] / (double)(m.window[a] + (last ? 4 * lanes : 0));
      if (worth > most) {
        most = worth;
        best = a;
      }
    }
    if (best < 0) return false;
    tile[best] = ceil_div(tile[best], 2);
    if (best == m.rank - 1) tile[best] = ceil_div(tile[best], lanes) * lanes;
    return true;
  }
  void measure(const Mapped& m, int lanes) {
    tiles = 1;
    positions = 1;
    for (int a = (int)m.rank - 1; a >= 0; --a) {
      count[a] = ceil_div(m.size[a], tile[a]);
      tiles *= count[a];
      extent[a] = tile[a] + m.window[a] - 1;
      pitch[a] = positions;
      if (a == m.rank - 1) {
        row = ceil_div(tile[a], lanes) * lanes + m.window[a] - 1;
        positions = ceil_div(row + lanes, lanes) * lanes;
      } else {
        positions *= extent[a];
      }
    }
  }
};

// Elements in memory whose type only a function knows: `size` bytes each.
struct Elements {
  const char* first;
  int64 size;
  Elements operator+(int64 n) const { return {first + n * size, size}; }
};
// Copies n elements that lie together to the numbers of a scratch.
template <class T> using Conversion = void (*)(const void* from, T* to, int64 n);

template <int SIZE> inline void gather(const char* from, int64 stride, char* to, int64 n) {
  for (int64 i = 0; i < n; ++i) memcpy(to + i * SIZE, from + i * stride * SIZE, SIZE);
}
// Of n elements `stride` apart.
template <class T> inline void convert_apart(Elements from, int64 stride, T* to, int64 n, Conversion<T> convert) {
  if (stride == 1) return convert(from.first, to, n);
  constexpr int64 most = 64, largest = 8;
  char together[most * largest];
  for (int64 begin = 0; begin < n; begin += most, from = from + most * stride) {
    const int64 count = smaller_of(most, n - begin);
    switch (from.size) {
      case 1: gather<1>(from.first, stride, together, count); break;
      case 2: gather<2>(from.first, stride, together, count); break;
      case 4: gather<4>(from.first, stride, together, count); break;
      default: gather<largest>(from.first, stride, together, count);
    }
    convert(together, to + begin, count);
  }
}

// Store the first n lanes, `stride` apart. (Not inlined: a loop over lanes would keep the registers of all
// results in memory.)
template <class S, class V>
__attribute__((noinline)) void store_lanes_apart(S* to, int64 stride, V lanes, int n) {
  S buffer[sizeof(V) / sizeof(S)];
  store_vector(buffer, lanes);
  for (int i = 0; i < n; ++i) to[i * stride] = buffer[i];
}
template <class S, class V> SEMICONV_FN void store_apart(S* to, int64 stride, V lanes, int n) {
  if (stride == 1 && n == (int)(sizeof(V) / sizeof(S))) store_vector(to, lanes);
  else store_lanes_apart(to, stride, lanes, n);
}
// Store the first n lanes of STRIPS registers; only a single one may have lanes that are not stored.
template <int STRIPS, class S, class V>
SEMICONV_FN void store_strips(S* to, int64 stride, const V* strips, int n) {
  constexpr int width = sizeof(V) / sizeof(S);
  const int of_each = STRIPS > 1 ? width : n;
  if (stride == 1) {  // the addresses are constants apart
#pragma GCC unroll 8
    for (int s = 0; s < STRIPS; ++s) store_apart(to + s * width, 1, strips[s], of_each);
  } else {
#pragma GCC unroll 8
    for (int s = 0; s < STRIPS; ++s) store_apart(to + s * width * stride, stride, strips[s], of_each);
  }
}

// Copy what the tile at `origin` sees into its scratch; positions that show no element become `outside`.
// Compiled once for all that share a scratch's type.
template <class T>
__attribute__((noinline)) void fill_mapped(const Mapped& m, const MappedTiles& t, const int64* origin,
                                           Elements source, T* scratch, T outside, Conversion<T> convert) {
  const int last = (int)m.rank - 1;
  int64 index[max_rank] = {}, rows = 1;
  for (int a = 0; a < last; ++a) rows *= t.extent[a];
  const int64 apart = m.stride[last];
  const int64 end = m.size[last] + m.window[last] - 1;  // of the extended axis
  const int64 first = origin[last], stop = smaller_of(first + t.row, end);
  const int64 body = smaller_of(larger_of(first, m.before[last]), stop);
  const int64 body_end = larger_of(body, smaller_of(stop, m.before[last] + m.size[last]));
  for (int64 r = 0; r < rows; ++r) {
    int64 at = 0;
    bool inside = true;
    for (int a = 0; a < last; ++a) {
      const int64 p = origin[a] + index[a];
      const int64 element = p < m.size[a] + m.window[a] - 1 ? m.element(a, p) : -1;
      inside = inside && element >= 0;
      at += element * m.stride[a];
    }
    T* row = scratch + r * t.pitch[larger_of(last - 1, 0)];
    if (last == 0) row = scratch;
    if (inside) {
      const Elements from = source + at;
      T* const within = row + (m.before[last] - first);  // where element 0 would be
      convert_apart(from + (body - m.before[last]) * apart, apart, row + (body - first), body_end - body,
                    convert);
      const auto gather = [&](int64 begin, int64 finish) {
        T* to = row + (begin - first);
        if (m.unit == 1) {
          for (int64 p = begin; p < finish; ++p, ++to) {
            const int64 element = m.element(last, p), place = element + m.before[last];
            if (element < 0) *to = outside;
            else if (place >= body && place < body_end) *to = within[element];
            else convert((from + element * apart).first, to, 1);
          }
          return;
        }
        each_beyond(m.size[last], m.before[last], m.beyond[last], m.unit, begin, finish,
                    [&](int64 element, int64 n) {
                      if (element >= 0) convert_apart(from + element * apart, apart, to, n, convert);
                      else
                        for (int64 i = 0; i < n; ++i) to[i] = outside;
                      to += n;
                    });
      };
      gather(first, body);
      gather(body_end, stop);
    } else {
      for (int64 p = first; p < stop; ++p) row[p - first] = outside;
    }
    for (int64 q = stop - first; q < t.row; ++q) row[q] = outside;  // in the last register only
    for (int a = last - 1; a >= 0 && ++index[a] == t.extent[a]; --a) index[a] = 0;
  }
}

template <int N> struct Count { static constexpr int value = N; };

// How the outputs of two rows, one below the other, share what they load, as the pairs of strips.hpp do: within
// planes of `taps` taps the lower row sees at tap t - lag what the upper one sees at tap t.
struct SharedTaps {
  int64 taps = 0, lag = 0;  // taps 0: they share nothing

  SharedTaps() = default;
  // pitch: from a row of the scratch to the next.
  SharedTaps(const int64* offsets, int64 count, int64 pitch) {
    while (lag < count && offsets[lag] != offsets[0] + pitch) ++lag;
    if (lag == count) return;
    int64 plane = lag;
    while (plane < count && offsets[plane] == offsets[plane - lag] + pitch) ++plane;
    if (count % plane) return;
    for (int64 t = 0; t < count; ++t)
      if (t % plane >= lag && offsets[t] != offsets[t - lag] + pitch) return;
    taps = plane;
  }
};

// Reduce STRIPS registers of outputs over all taps. Their windows begin at `window` in the scratch, the
// first output is `to`. A Reducer has
//   Lane, Value              the numbers of the scratch, and a register of results
//   start(window)            the value before the first tap
//   begin()                  that tap: 0, or 1 where start() has taken tap 0
//   step(value, window, tap) the value after one more tap
//   shared                   how two rows share what they load, where they may; then also
//   element(window, tap)     what a tap sees
//   take(value, element, tap)  the value after a tap that sees `element`
// put(to, apart, values, Count<STRIPS>, n) takes finished registers, of which n lanes are outputs, `apart` elements
// from each other; only a single register may have lanes that are no outputs.
template <int STRIPS, class Reducer, class Put>
SEMICONV_FN void reduce_strips(const Reducer& reducer, int64 taps,
                               const typename Reducer::Lane* window, int64 to, int64 apart,
                               int64 outputs, const Put& put) {
  constexpr int width = lanes_of<typename Reducer::Lane>;
  typename Reducer::Value values[STRIPS];
#pragma GCC unroll 8
  for (int s = 0; s < STRIPS; ++s) values[s] = reducer.start(window + s * width);
  for (int64 tap = reducer.begin(); tap < taps; ++tap) {
#pragma GCC unroll 8
    for (int s = 0; s < STRIPS; ++s) values[s] = reducer.step(values[s], window + s * width, tap);
  }
  put(to, apart, values, Count<STRIPS>{}, (int)smaller_of(STRIPS * width, outputs));
}

// The same of STRIPS registers of each of two rows, `pitch` and `to_pitch` apart: where both see an element, it
// is loaded once.
template <int STRIPS, class Reducer, class Put>
SEMICONV_FN void reduce_pair(const Reducer& reducer, int64 taps, const typename Reducer::Lane* window,
                             int64 pitch, int64 to, int64 to_pitch, int64 apart, int64 outputs,
                             const Put& put) {
  constexpr int width = lanes_of<typename Reducer::Lane>;
  const int64 plane = reducer.shared.taps, lag = reducer.shared.lag;
  typename Reducer::Value upper[STRIPS], lower[STRIPS];
#pragma GCC unroll 8
  for (int s = 0; s < STRIPS; ++s) upper[s] = lower[s] = reducer.start(window);
  const auto alone = [&](auto* values, const typename Reducer::Lane* from, int64 begin,
                         int64 end) __attribute__((always_inline)) {
    for (int64 tap = begin; tap < end; ++tap) {
#pragma GCC unroll 8
      for (int s = 0; s < STRIPS; ++s) values[s] = reducer.step(values[s], from + s * width, tap);
    }
  };
  for (int64 begin = 0; begin < taps; begin += plane) {
    const int64 end = begin + plane;
    alone(upper, window, begin, begin + lag);
    for (int64 tap = begin + lag; tap < end; ++tap) {
#pragma GCC unroll 8
      for (int s = 0; s < STRIPS; ++s) {
        const auto element = reducer.element(window + s * width, tap);
        upper[s] = reducer.take(upper[s], element, tap);
        lower[s] = reducer.take(lower[s], element, tap - lag);
      }
    }
    alone(lower, window + pitch, end - lag, end);
  }
  const int n = (int)smaller_of(STRIPS * width, outputs);
  put(to, apart, upper, Count<STRIPS>{}, n);
  put(to + to_pitch, apart, lower, Count<STRIPS>{}, n);
}

template <class Reducer> constexpr bool may_share(...) { return false; }
template <class Reducer> constexpr bool may_share(decltype(&Reducer::take)) { return true; }

// Reduce a tile row by row, or two rows at once, in groups of 8, 4, 2 and single registers.
template <class Reducer, class Put>
inline void reduce_tile(const Mapped& m, const MappedTiles& t, const int64* origin,
                        const int64* outputs, const Reducer& reducer, int64 taps,
                        const typename Reducer::Lane* scratch, const Put& put) {
  constexpr int width = lanes_of<typename Reducer::Lane>;
  const int last = (int)m.rank - 1;
  const int64 apart = m.stride[last];
  int64 index[max_rank] = {}, rows = 1;
  for (int a = 0; a < last; ++a) rows *= outputs[a];
  const auto next = [&] {
    for (int a = last - 1; a >= 0 && ++index[a] == outputs[a]; --a) index[a] = 0;
  };
  for (int64 r = 0; r < rows; ++r) {
    const typename Reducer::Lane* from = scratch;
    int64 to = 0, rest = outputs[last];
    for (int a = 0; a < m.rank; ++a) {
      to += (origin[a] + index[a]) * m.stride[a];
      from += index[a] * t.pitch[a];
    }
    if constexpr (may_share<Reducer>(nullptr)) {
      if (reducer.shared.taps && index[last - 1] + 1 < outputs[last - 1]) {
        const auto reduce = [&](auto strips) __attribute__((always_inline)) {
          constexpr int count = decltype(strips)::value;
          reduce_pair<count>(reducer, taps, from, t.pitch[last - 1], to, m.stride[last - 1], apart, rest, put);
          from += count * width;
          to += count * width * apart;
          rest -= count * width;
        };
        while (rest >= 4 * width) reduce(Count<4>{});
        if (rest >= 2 * width) reduce(Count<2>{});
        while (rest > 0) reduce(Count<1>{});
        next();
        next();
        ++r;
        continue;
      }
    }
    const auto reduce = [&](auto strips) __attribute__((always_inline)) {
      constexpr int count = decltype(strips)::value;
      reduce_strips<count>(reducer, taps, from, to, apart, rest, put);
      from += count * width;
      to += count * width * apart;
      rest -= count * width;
    };
    while (rest >= 8 * width) reduce(Count<8>{});
    if (rest >= 4 * width) reduce(Count<4>{});
    if (rest >= 2 * width) reduce(Count<2>{});
    while (rest > 0) reduce(Count<1>{});
    next();
  }
}

// Run work(scratch, origin, outputs) for every tile, on several threads; false: not enough memory.
template <class T, class Work>
inline bool for_each_tile(const Mapped& m, const MappedTiles& t, int64 scratch_size, int threads,
                          Work work) {
  int failed = 0;
  in_parallel(t.tiles, threads, [&](Items& tiles) {
    AlignedBuffer<T> scratch;
    if (!scratch.allocate(scratch_size)) {
      set_flag(failed, 1);
      return;
    }
    for (int64 n; tiles.take(n);) {
      int64 origin[max_rank], outputs[max_rank];
      t.locate(n, m, origin, outputs);
      work(scratch.data, origin, outputs);
    }
  });
  return !failed;
}

}  // namespace semiconv
