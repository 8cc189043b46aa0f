// The erosion or dilation by a parabola without end along one axis of an array: lines are copied in, computed in T
// (double, or float where that is exact), and copied out.
//
// One shared object serves all dtypes (SEMICONV_STORAGE is float64). Lines along another axis than the last are
// copied a few columns at a time, so that each line of the cache is used as a whole:
//
//     source (size, inner)    columns 8 .. 15    ->    scratch: 8 lines of `size`    ->    back
//
// `winners` is where the best candidate of each output lies along the axis, -1 where all are infinite. `followers`
// are the winners along other axes that were found before: each output takes over those of its winner.
// Exported by parabolas.cpp and single_parabolas.cpp.
#pragma once
#include "structs.hpp"
#include "envelope.hpp"
#include "columns.hpp"
#include "types.hpp"
#include "exports.hpp"

namespace semiconv {

template <class S, class T> void finish_into(const T* from, void* to, int64 n, bool maximum, int finish) {
  // One loop for each, which is then vectorised. Only integers are rounded up and down, and have no roots.
  constexpr bool integer = Limits<typename RealOf<S>::type>::integer;
  if (integer && finish != to_nearest) {
    for (int64 i = 0; i < n; ++i) ((S*)to)[i] = finished<S>(from[i], maximum, finish);
  } else if (!integer && finish == square_root) {
    for (int64 i = 0; i < n; ++i) ((S*)to)[i] = finished<S>(from[i], false, square_root);
  } else if (maximum) {
    for (int64 i = 0; i < n; ++i) ((S*)to)[i] = finished<S>(from[i], true, to_nearest);
  } else {
    for (int64 i = 0; i < n; ++i) ((S*)to)[i] = finished<S>(from[i], false, to_nearest);
  }
}
template <class T> using Finisher = void (*)(const T*, void*, int64, bool, int);
template <class T> Finisher<T> finisher(int type) {
  if constexpr (sizeof(T) == 4) return type == float32_code ? finish_into<float, T> : finish_into<double, T>;
  switch (type) {
#define SEMICONV_FINISHER(code, S) \
  case code: return finish_into<S, T>;
    SEMICONV_EACH_TYPE(SEMICONV_FINISHER)
#undef SEMICONV_FINISHER
  }
  return nullptr;
}

struct Call {
  Lines lines;
  LineOutputs outputs;
  int64 groups, repeat;  // `repeat` lines in a row have the costs of one group, the next ones of the next
  const char* source;
  char* out;
  int source_type, out_type;
  int32* winners;
  int32* followers;
  int64 follower_count;
  bool maximum, exact;
  int finish;

  int64 width() const { return outputs.end - outputs.begin; }
  // How far apart neighbours of a line lie in the result, in elements.
  int64 out_apart() const { return lines.inner / outputs.row * outputs.pitch; }
};

// How many lines come first alone, so that the columns of all later groups begin with a line of the cache, which
// registers then do not cross.
inline int64 first_columns(const Call& call) {
  const int64 ahead = (64 - (int64)((size_t)call.out % 64)) % 64;
  const bool whole = call.outputs.row % 8 == 0 && call.outputs.pitch % 8 == 0 && call.outputs.row > 16;
  return call.out_type == float64_code && whole && ahead % 8 == 0 ? ahead / 8 : 0;
}
// An array of so many doubles has left a second-level cache when the next pass reads it: stores past the caches
// save a fifth of a pass's time, unless the lines are in the cache anyway, since the array is the source.
constexpr int64 streamed_doubles = int64(1) << 19;
// So many lines are computed together that rows of doubles are one or two lines of the cache.
inline int64 columns_of(const Call& call) { return smaller_of(call.outputs.row, call.lines.size > 8192 ? 8 : 16); }

// `rows` rows of `bytes` bytes, which are a few registers at most.
template <int BYTES> void copy_rows_of(char* to, int64 to_apart, const char* from, int64 from_apart, int64 rows) {
  for (int64 i = 0; i < rows; ++i) memcpy(to + i * to_apart, from + i * from_apart, BYTES);
}
inline void copy_rows(char* to, int64 to_apart, const char* from, int64 from_apart, int64 rows, int64 bytes) {
  if (bytes == 64) return copy_rows_of<64>(to, to_apart, from, from_apart, rows);
  if (bytes == 32) return copy_rows_of<32>(to, to_apart, from, from_apart, rows);
  if (bytes == 16) return copy_rows_of<16>(to, to_apart, from, from_apart, rows);
  for (int64 i = 0; i < rows; ++i) memcpy(to + i * to_apart, from + i * from_apart, bytes);
}

// One thread's lines: copied in, computed in T, copied out.
template <class T> class Worker {
  static constexpr int own_code = sizeof(T) == 4 ? float32_code : float64_code;
  const Call& call;
  const Costs<T>& of_groups;
  const T* costs = nullptr;
  const Reader read;
  const Finisher<T> finish;
  const int64 columns, pitch;
  AlignedBuffer<T> value, result, winner, rows;
  AlignedBuffer<int32> first, last, chosen, followed;
  const int64 source_size, out_size;

 public:
  Worker(const Call& call_, const Costs<T>& costs_)
      : call(call_), of_groups(costs_), read(reader(call_.source_type)), finish(finisher<T>(call_.out_type)),
        columns(columns_of(call_)),
        // An odd number of cache lines, so that equal places of all lines do not share a set of the cache.
        pitch((((call_.lines.size + line_padding<T>) / 8) | 1) * 8 + 16), source_size(itemsize(call_.source_type)),
        out_size(itemsize(call_.out_type)) {}

  bool allocate() {
    const int64 size = call.lines.size, blocks = ceil_div(size, (int64)block_size<T>);
    bool done = value.allocate(columns * pitch) && result.allocate(columns * pitch) && first.allocate(blocks + 1) &&
                last.allocate(blocks + 1);
    if (columns > 1 || call.out_apart() > 1) done = done && rows.allocate(columns * size);
    if (call.winners) done = done && winner.allocate(columns * pitch) && chosen.allocate(columns * size);
    if (call.follower_count) done = done && followed.allocate(columns * size);
    return done;
  }

  // The lines outer and column .. column + count - 1 of a row.
  void compute(int64 outer, int64 row, int64 column, int64 count) {
    const int64 size = call.lines.size, inner = call.lines.inner;
    const int64 begin = outer * size * inner + row * call.outputs.row + column;
    costs = of_groups.centre(outer / call.repeat % call.groups);
    load(begin, count);
    for (int64 c = 0; c < count; ++c) line(c);
    store(outer * call.width() * call.out_apart() + row * call.outputs.pitch + column, count);
    if (!call.winners) return;
    choose(begin, count);
    const int64 plane = call.lines.outer * size * inner;
    for (int64 f = 0; f < call.follower_count; ++f) follow(call.followers + f * plane + begin, count);
  }

 private:
  void load(int64 begin, int64 count) {
    const int64 size = call.lines.size, inner = call.lines.inner;
    const char* from = call.source + begin * source_size;
    if (call.source_type == own_code) {
      if (inner == 1) memcpy(value.data, from, size * sizeof(T));
      else load_columns(value.data, pitch, (const T*)from, inner, size, count);
      return;
    }
    if constexpr (sizeof(T) == 8) {
      if (inner == 1) {
        read(from, value.data, size);
        return;
      }
      char* const stored = (char*)result.data;  // which is not in use yet
      copy_rows(stored, count * source_size, from, inner * source_size, size, count * source_size);
      read(stored, rows.data, size * count);
      load_columns(value.data, pitch, rows.data, count, size, count);
    }
  }
  void store(int64 begin, int64 count) {
    const int64 width = call.width(), apart = call.out_apart();
    char* to = call.out + begin * out_size;
    if (apart == 1) {
      finish(result.data, to, width, call.maximum, call.finish);
      return;
    }
    const bool streams = call.source != call.out && call.lines.outer * width * call.lines.inner > streamed_doubles;
    if constexpr (sizeof(T) == 8) {
      if (call.out_type == float64_code) {
        for (int64 c = 0; c < count; ++c) {
          double* of = result.data + c * pitch;
          if (call.maximum || call.finish == square_root) finish(of, of, width, call.maximum, call.finish);
        }
        if (streams && fits_registers((double*)to, apart))
          stream_columns((double*)to, apart, result.data, pitch, width, count);
        else store_columns((double*)to, apart, result.data, pitch, width, count);
        return;
      }
    } else if (streams && call.finish == square_root && call.out_type == float64_code &&
               fits_registers((double*)to, apart)) {
      stream_roots((double*)to, apart, result.data, pitch, width, count);
      return;
    }
    store_columns(rows.data, count, result.data, pitch, width, count);
    char* const stored = (char*)result.data;  // which is no longer in use
    if (out_size > (int64)sizeof(T)) {
      for (int64 i = 0; i < width; ++i)
        finish(rows.data + i * count, to + i * apart * out_size, count, call.maximum, call.finish);
      return;
    }
    finish(rows.data, stored, width * count, call.maximum, call.finish);
    copy_rows(to, apart * out_size, stored, count * out_size, width, count * out_size);
  }
  void line(int64 c) {
    const int64 size = call.lines.size, begin = call.outputs.begin, width = call.width();
    T* of = value.data + c * pitch;
    T* to = result.data + c * pitch;
    T* by = call.winners ? winner.data + c * pitch : nullptr;
    if (costs[0] > 0) {  // nothing moves: NaN stays, too
      for (int64 i = 0; i < width; ++i) to[i] = call.maximum ? -of[begin + i] : of[begin + i];
      for (int64 i = 0; by && i < width; ++i) by[i] = (T)(begin + i);
      return;
    }
    const Range<T> range = prepare(of, size, call.maximum);
    const T none = Extreme<T>::highest();
    if (range.least == none || range.least == -none) {  // nothing, or one that wins everywhere
      int64 found = range.least == none ? -1 : 0;
      while (found >= 0 && of[found] != range.least) ++found;
      for (int64 i = 0; i < width; ++i) to[i] = range.least;
      for (int64 i = 0; by && i < width; ++i) by[i] = (T)found;
      return;
    }
    const double slack = call.exact ? 0 : near_ties * range.magnitude;
    const Envelope<T> envelope{of, size, costs, range, slack, first.data, last.data};
    const int64 end = call.outputs.end;
    if constexpr (sizeof(T) == 8)
      if (!call.exact) {
        by ? envelope.template compute<false, true>(begin, end, to, by)
           : envelope.template compute<false, false>(begin, end, to, by);
        return;
      }
    by ? envelope.template compute<true, true>(begin, end, to, by)
       : envelope.template compute<true, false>(begin, end, to, by);
  }
  void choose(int64 begin, int64 count) {
    const int64 size = call.lines.size, inner = call.lines.inner;
    const T* from = winner.data;
    if (inner > 1) {
      store_columns(rows.data, count, winner.data, pitch, size, count);
      from = rows.data;
    }
    for (int64 i = 0; i < size * count; ++i) chosen.data[i] = (int32)from[i];
    if (inner == 1) memcpy(call.winners + begin, chosen.data, size * sizeof(int32));
    else
      for (int64 i = 0; i < size; ++i)
        memcpy(call.winners + begin + i * inner, chosen.data + i * count, count * sizeof(int32));
  }
  // Winners along another axis move with those that were chosen along this one.
  void follow(int32* plane, int64 count) {
    const int64 size = call.lines.size, inner = call.lines.inner;
    for (int64 i = 0; i < size; ++i)
      memcpy(followed.data + i * count, plane + i * inner, count * sizeof(int32));
    for (int64 i = 0; i < size; ++i)
      for (int64 c = 0; c < count; ++c) {
        const int32 y = chosen.data[i * count + c];
        plane[i * inner + c] = y < 0 ? -1 : followed.data[y * count + c];
      }
  }
};

// All lines of a call.
template <class T> int run(const Call& call, const double* cost, int threads) {
  const Lines& lines = call.lines;
  Costs<T> costs;
  if (!costs.allocate(cost, lines.size, call.groups)) return out_of_memory;
  const int64 columns = columns_of(call), lead = first_columns(call), row = call.outputs.row;
  const int64 parts = (lead > 0) + ceil_div(row - lead, columns), rows = lines.inner / row;
  // Short lines are shared several at a time.
  const int64 together = larger_of(1, 4096 / (lines.size * columns)), works = lines.outer * rows * parts;
  int status = success;
  in_parallel(ceil_div(works, together), threads, [&](Items& items) {
    Worker<T> worker(call, costs);
    if (!worker.allocate()) {
      set_flag(status, out_of_memory);
      return;
    }
    for (int64 item; items.take(item);)
      for (int64 n = item * together; n < smaller_of(works, (item + 1) * together); ++n) {
        const int64 part = n % parts, column = lead && part ? lead + (part - 1) * columns : part * columns;
        worker.compute(n / parts / rows, n / parts % rows, column,
                       lead && !part ? lead : smaller_of(columns, row - column));
      }
  });
  return status;
}

}  // namespace semiconv
