// Exports semiconv_parabolas, the erosion or dilation by a parabola without end along one axis, and
// semiconv_nearest, the distances to the nearest element that is not set, along the last axis; called by
// semiconv_cupy/ndimage/host/lines.py.
//
// One shared object serves all dtypes (SEMICONV_STORAGE is float64): lines are computed in double. Lines along
// another axis than the last are copied a few columns at a time, so that each line of the cache is used as a whole:
//
//     source (size, inner)    columns 8 .. 15    ->    scratch: 8 lines of `size`    ->    back
//
// `winners` is where the best candidate of each output lies along the axis, -1 where all are infinite. `followers`
// are the winners along other axes that were found before: each output takes over those of its winner.
#include "structs.hpp"
#include "envelope.hpp"
#include "columns.hpp"
#include "types.hpp"
#include "exports.hpp"

using namespace semiconv;

namespace {

template <class S> void finish_into(const double* from, void* to, int64 n, bool maximum, int finish) {
  // One loop for each, which is then vectorised.
  if (finish == square_root)
    for (int64 i = 0; i < n; ++i) ((S*)to)[i] = finished<S>(from[i], false, square_root);
  else if (finish != to_nearest)
    for (int64 i = 0; i < n; ++i) ((S*)to)[i] = finished<S>(from[i], maximum, finish);
  else if (maximum)
    for (int64 i = 0; i < n; ++i) ((S*)to)[i] = finished<S>(from[i], true, to_nearest);
  else
    for (int64 i = 0; i < n; ++i) ((S*)to)[i] = finished<S>(from[i], false, to_nearest);
}
using Finisher = void (*)(const double*, void*, int64, bool, int);
Finisher finisher(int type) {
  switch (type) {
#define SEMICONV_FINISHER(code, S) \
  case code: return finish_into<S>;
    SEMICONV_EACH_TYPE(SEMICONV_FINISHER)
#undef SEMICONV_FINISHER
  }
  return nullptr;
}

struct Call {
  Lines lines;
  int64 groups, repeat;  // `repeat` lines in a row have the costs of one group, the next ones of the next
  const char* source;
  char* out;
  int source_type, out_type;
  int32* winners;
  int32* followers;
  int64 follower_count;
  bool maximum, exact;
  int finish;
};

// How many lines come first alone, so that the columns of all later groups begin with a line of the cache, which
// registers then do not cross.
int64 first_columns(const Lines& lines, const void* out, int out_type) {
  const int64 ahead = (64 - (int64)((size_t)out % 64)) % 64;
  return out_type == 12 && lines.inner % 8 == 0 && lines.inner > 16 && ahead % 8 == 0 ? ahead / 8 : 0;
}
// An array of so many doubles has left a second-level cache when the next pass reads it: stores past the caches
// save a fifth of a pass's time, unless the lines are in the cache anyway, since the array is the source.
constexpr int64 streamed_doubles = int64(1) << 19;
// So many lines are computed together that rows of doubles are one or two lines of the cache.
int64 columns_of(const Lines& lines) { return smaller_of(lines.inner, lines.size > 8192 ? 8 : 16); }

// One thread's lines: copied in, computed, copied out.
class Worker {
  const Call& call;
  const Costs& of_groups;
  const double* costs = nullptr;
  const Reader read;
  const Finisher finish;
  const int64 columns, pitch;
  AlignedBuffer<double> value, result, winner, rows;
  AlignedBuffer<int32> first, last, chosen, followed;
  const int64 source_size, out_size;

 public:
  Worker(const Call& call_, const Costs& costs_)
      : call(call_), of_groups(costs_), read(reader(call_.source_type)), finish(finisher(call_.out_type)),
        columns(columns_of(call_.lines)),
        // An odd number of cache lines, so that equal places of all lines do not share a set of the cache.
        pitch((((call_.lines.size + line_padding) / 8) | 1) * 8 + 16), source_size(itemsize(call_.source_type)),
        out_size(itemsize(call_.out_type)) {}

  bool allocate() {
    const int64 size = call.lines.size, blocks = ceil_div(size, block_size);
    bool done = value.allocate(columns * pitch) && result.allocate(columns * pitch) && first.allocate(blocks + 1) &&
                last.allocate(blocks + 1);
    if (columns > 1) done = done && rows.allocate(columns * size);
    if (call.winners) done = done && winner.allocate(columns * pitch) && chosen.allocate(columns * size);
    if (call.follower_count) done = done && followed.allocate(columns * size);
    return done;
  }

  // The lines outer and column .. column + count - 1.
  void compute(int64 outer, int64 column, int64 count) {
    const int64 size = call.lines.size, inner = call.lines.inner;
    const int64 begin = outer * size * inner + column;
    costs = of_groups.centre(outer / call.repeat % call.groups);
    load(begin, count);
    for (int64 c = 0; c < count; ++c) line(c);
    store(begin, count);
    if (!call.winners) return;
    choose(begin, count);
    const int64 plane = call.lines.outer * size * inner;
    for (int64 f = 0; f < call.follower_count; ++f) follow(call.followers + f * plane + begin, count);
  }

 private:
  void load(int64 begin, int64 count) {
    const int64 size = call.lines.size, inner = call.lines.inner;
    const char* from = call.source + begin * source_size;
    if (inner == 1) {
      read(from, value.data, size);
      return;
    }
    if (call.source_type == 12) {
      load_columns(value.data, pitch, (const double*)from, inner, size, count);
      return;
    }
    for (int64 i = 0; i < size; ++i) read(from + i * inner * source_size, rows.data + i * count, count);
    load_columns(value.data, pitch, rows.data, count, size, count);
  }
  void store(int64 begin, int64 count) {
    const int64 size = call.lines.size, inner = call.lines.inner;
    char* to = call.out + begin * out_size;
    if (inner == 1) {
      finish(result.data, to, size, call.maximum, call.finish);
      return;
    }
    if (call.out_type == 12) {
      for (int64 c = 0; c < count; ++c) {
        double* of = result.data + c * pitch;
        if (call.maximum || call.finish == square_root) finish(of, of, size, call.maximum, call.finish);
      }
      const bool streams = call.source != call.out && call.lines.outer * size * inner > streamed_doubles;
      store_columns((double*)to, inner, result.data, pitch, size, count, streams);
      return;
    }
    store_columns(rows.data, count, result.data, pitch, size, count);
    for (int64 i = 0; i < size; ++i)
      finish(rows.data + i * count, to + i * inner * out_size, count, call.maximum, call.finish);
  }
  void line(int64 c) {
    const int64 size = call.lines.size;
    double* of = value.data + c * pitch;
    double* to = result.data + c * pitch;
    double* by = call.winners ? winner.data + c * pitch : nullptr;
    if (costs[0] > 0) {  // nothing moves: NaN stays, too
      for (int64 i = 0; i < size; ++i) to[i] = call.maximum ? -of[i] : of[i];
      for (int64 i = 0; by && i < size; ++i) by[i] = (double)i;
      return;
    }
    const Range range = prepare(of, size, call.maximum);
    const double none = Extreme<double>::highest();
    if (range.least == none || range.least == -none) {  // nothing, or one that wins everywhere
      int64 found = range.least == none ? -1 : 0;
      while (found >= 0 && of[found] != range.least) ++found;
      for (int64 i = 0; i < size; ++i) to[i] = range.least;
      for (int64 i = 0; by && i < size; ++i) by[i] = (double)found;
      return;
    }
    const Envelope envelope{of, size, costs, range, call.exact ? 0 : near_ties * range.magnitude, first.data, last.data};
    if (by) call.exact ? envelope.compute<true, true>(to, by) : envelope.compute<false, true>(to, by);
    else call.exact ? envelope.compute<true, false>(to, by) : envelope.compute<false, false>(to, by);
  }
  void choose(int64 begin, int64 count) {
    const int64 size = call.lines.size, inner = call.lines.inner;
    const double* from = winner.data;
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

// The distances of one row: in each run of elements that are set, its first half is nearer to the left end.
// `cost` is symmetric, and rises from the left end and falls to the right one in the order of memory.
void nearest_in_row(const uint8* set, int64 size, const double* cost, double* squares, int32* winners, int finish) {
  int64 x = 0, before = -1;
  while (x < size) {
    if (!set[x]) {
      squares[x] = 0;
      if (winners) winners[x] = (int32)x;
      before = x++;
      continue;
    }
    int64 end = x + 1;
    while (end < size && end < x + 8 && set[end]) ++end;  // most runs of noise
    if (end < size && set[end]) {
      const void* const unset = memchr(set + end, 0, size - end);
      end = unset ? (const uint8*)unset - set : size;
    }
    const bool found = end < size;
    // Equally near: the element of least index.
    int64 middle = !found ? end : before < 0 ? x : (before + end) / 2 + 1;
    if (before < 0 && !found) {
      for (int64 i = x; i < end; ++i) squares[i] = Extreme<double>::highest();
      if (winners)
        for (int64 i = x; i < end; ++i) winners[i] = -1;
    } else {
      if (end - x < 16) {
        for (int64 i = x; i < end; ++i) squares[i] = cost[i < middle ? i - before : i - end];
      } else {
        memcpy(squares + x, cost + (x - before), (middle - x) * sizeof(double));
        memcpy(squares + middle, cost + (middle - end), (end - middle) * sizeof(double));
      }
      if (winners) {
        for (int64 i = x; i < middle; ++i) winners[i] = (int32)before;
        for (int64 i = middle; i < end; ++i) winners[i] = (int32)end;
      }
    }
    x = end;
  }
  if (finish == square_root)
    for (int64 i = 0; i < size; ++i) squares[i] = ::sqrt(squares[i]);
}

}  // namespace

// cost: of the distances 0 .. size - 1, of each group; one that begins with infinity leaves its lines as they are.
// winners and followers may be null; finish: one of Finish. exact: sums are exact, as integers are. `out` may be the source where both are doubles. Returns 0, or 1 where memory ran out.
SEMICONV_EXPORT int semiconv_parabolas(const Lines* lines, const double* cost, long long groups, long long repeat,
                                       const void* source, int source_type, void* out, int out_type, int* winners,
                                       int* followers, long long follower_count, int maximum, int finish, int exact,
                                       int threads) {
  const Call call{*lines, groups, repeat, (const char*)source, (char*)out, source_type, out_type, winners, followers,
                  follower_count, maximum != 0, exact != 0, finish};
  Costs costs;
  if (!costs.allocate(cost, lines->size, groups)) return out_of_memory;
  const int64 columns = columns_of(*lines), lead = first_columns(*lines, out, out_type);
  const int64 parts = (lead > 0) + ceil_div(lines->inner - lead, columns);
  // Short lines are shared several at a time.
  const int64 together = larger_of(1, 4096 / (lines->size * columns)), works = lines->outer * parts;
  int status = success;
  in_parallel(ceil_div(works, together), threads, [&](Items& items) {
    Worker worker(call, costs);
    if (!worker.allocate()) {
      set_flag(status, out_of_memory);
      return;
    }
    for (int64 item; items.take(item);)
      for (int64 n = item * together; n < smaller_of(works, (item + 1) * together); ++n) {
        const int64 part = n % parts, column = lead && part ? lead + (part - 1) * columns : part * columns;
        worker.compute(n / parts, column, lead && !part ? lead : smaller_of(columns, lines->inner - column));
      }
  });
  return status;
}

// squares: the costs of the distances; winners (or null): the nearest element that is 0, -1 where there is none.
SEMICONV_EXPORT int semiconv_nearest(const Lines* lines, const double* cost, const void* set, double* squares,
                                     int* winners, int finish, int threads) {
  Costs costs;
  if (!costs.allocate(cost, lines->size)) return out_of_memory;
  const int64 rows = lines->outer, size = lines->size, together = larger_of(1, 16384 / size);
  in_parallel(ceil_div(rows, together), threads, [&](Items& items) {
    for (int64 item; items.take(item);)
      for (int64 r = item * together; r < smaller_of(rows, (item + 1) * together); ++r)
        nearest_in_row((const uint8*)set + r * size, size, costs.centre(), squares + r * size,
                       winners ? winners + r * size : nullptr, finish);
  });
  return success;
}
