// Exports semiconv_nearest, the distances to the nearest element that is not set, along the last axis; called by
// semiconv_cupy/ndimage/host/lines.py.
//
// SEMICONV_STORAGE is float64; results are float32 or float64.
#include "structs.hpp"
#include "envelope.hpp"
#include "types.hpp"
#include "exports.hpp"

using namespace semiconv;

namespace {

// The distances of one row: in each run of elements that are set, its first half is nearer to the left end.
// `cost` is symmetric, and rises from the left end and falls to the right one in the order of memory.
template <class T>
void nearest_in_row(const uint8* set, int64 size, const T* cost, T* squares, int32* winners, int finish) {
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
      for (int64 i = x; i < end; ++i) squares[i] = Extreme<T>::highest();
      if (winners)
        for (int64 i = x; i < end; ++i) winners[i] = -1;
    } else {
      if (end - x < 16) {
        for (int64 i = x; i < end; ++i) squares[i] = cost[i < middle ? i - before : i - end];
      } else {
        memcpy(squares + x, cost + (x - before), (middle - x) * sizeof(T));
        memcpy(squares + middle, cost + (middle - end), (end - middle) * sizeof(T));
      }
      if (winners) {
        for (int64 i = x; i < middle; ++i) winners[i] = (int32)before;
        for (int64 i = middle; i < end; ++i) winners[i] = (int32)end;
      }
    }
    x = end;
  }
  if (finish == square_root)
    for (int64 i = 0; i < size; ++i) squares[i] = (T)::sqrt((double)squares[i]);
}

template <class T>
int nearest(const Lines& lines, const double* cost, const uint8* set, T* squares, int* winners, int finish,
            int threads) {
  Costs<T> costs;
  if (!costs.allocate(cost, lines.size)) return out_of_memory;
  const int64 rows = lines.outer, size = lines.size, together = larger_of(1, 16384 / size);
  in_parallel(ceil_div(rows, together), threads, [&](Items& items) {
    for (int64 item; items.take(item);)
      for (int64 r = item * together; r < smaller_of(rows, (item + 1) * together); ++r)
        nearest_in_row(set + r * size, size, costs.centre(), squares + r * size, winners ? winners + r * size : nullptr,
                       finish);
  });
  return success;
}

}  // namespace

// squares: the costs of the distances, in float32 or float64; winners (or null): the nearest element that is 0, -1
// where there is none.
SEMICONV_EXPORT int semiconv_nearest(const Lines* lines, const double* cost, const void* set, void* squares,
                                     int out_type, int* winners, int finish, int threads) {
  const uint8* of = (const uint8*)set;
  return out_type == float32_code ? nearest(*lines, cost, of, (float*)squares, winners, finish, threads)
                                  : nearest(*lines, cost, of, (double*)squares, winners, finish, threads);
}
