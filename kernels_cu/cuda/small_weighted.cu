// Weighted sums over small windows in double precision, without shared memory.
//
// Needs SEMICONV_STORAGE, SEMICONV_KERNEL (the function's name), SEMICONV_OUT (the output's storage type),
// SEMICONV_DOWN (rows) and SEMICONV_ACROSS (columns of taps in a plane of the window), SEMICONV_ROWS (outputs of a
// thread, below each other), SEMICONV_SYMMETRY (1 or -1: opposite taps are joined, else 0), SEMICONV_ROTATED (whether
// the last tap is added first), SEMICONV_NEGLIGIBLE (weights up to this size are left out; below 0: none is) and
// SEMICONV_CONSTANT (whether a constant lies beyond any border). Taps that are joined or rotated lie along one axis.
//
// Neighbouring threads have neighbouring elements of a row. A thread converts an element once for all its outputs;
// what outputs beside each other see the cache has. Each output adds its taps in the window's order.
#include "../filters.cuh"

namespace semiconv {

// Twin of semiconv_cupy/ndimage/structs.py. A row has `width` elements, and positions that are `unit` elements apart.
// `strips`: below each other, those of a plane being `of_column`.
struct SmallWeighted {
  int32 depth, height, width, positions;
  int32 planes;  // of the window
  int32 before[3];
  int32 unit, strips, of_column;
  int32 narrow;  // whether most warps have a thread at a border
};

using Out = SEMICONV_OUT;
constexpr int down = SEMICONV_DOWN, across = SEMICONV_ACROSS, outputs = SEMICONV_ROWS;
constexpr int lines = outputs + down - 1;  // rows that the outputs see
constexpr bool holed = SEMICONV_NEGLIGIBLE >= 0, rotated = SEMICONV_ROTATED;
constexpr bool with_constant = SEMICONV_CONSTANT;
// Blocks that a multiprocessor holds at a time: registers suffice for so many. What is tested or rotated takes more of
// them; for sm_120, where doubles have few units, the compiler keeps more numbers at a time.
constexpr bool takes_more = holed || rotated || with_constant;
constexpr int plain_blocks = lines * across > 18 || lines > 16 ? 3 : 4;
constexpr int long_plane = sizeof(Storage) == 8 ? 36 : 48;
constexpr int tested_blocks =
    lines * across > long_plane || lines > 24 ? 2 : lines * across > 18 || lines > 14 ? 3 : 4;
constexpr int resident_blocks = (takes_more ? tested_blocks : plain_blocks) - (architecture >= 1000);

// A weight, or 0 if it is none.
SEMICONV_FN double usable(double weight) {
  return holed && !(fabs(weight) > SEMICONV_NEGLIGIBLE) ? 0 : weight;
}

SEMICONV_FN void add(double& sum, double seen, double weight) {
  if constexpr (holed)
    if (bit_cast<uint64>(weight) >> 32 == 0) return;  // a 0 of `usable`, without the units of doubles
  sum += seen * weight;
}

// `element_at` of numbers of 32 bits.
SEMICONV_FN int32 shown_at(int32 size, int32 before, const int64* beyond, int32 place) {
  if ((uint32)place < (uint32)size) return place;
  return (int32)beyond[before + (place < 0 ? place : place - size)];
}

// Where a thread's outputs see elements of a plane, -1: the constant. INSIDE: all between the borders.
template <bool INSIDE> struct View {
  int64 rows[lines];  // their first elements
  int32 columns[across];

  SEMICONV_FN View(const SmallWeighted& s, const int64* beyond, int32 y, int32 column) {
    const int64* table = beyond + (s.planes - 1);
    const int32 last = s.height + down - 2 - s.before[1];  // beyond what outputs see, tables end
#pragma unroll
    for (int i = 0; i < lines; ++i) {
      const int32 place = y - s.before[1] + i;
      const int32 row = INSIDE ? place : shown_at(s.height, s.before[1], table, place < last ? place : last);
      rows[i] = (int64)row * s.width;
    }
    table += down - 1;
    const int32 position = INSIDE ? 0 : column / s.unit, within = column - position * s.unit;
#pragma unroll
    for (int k = 0; k < across; ++k) {
      const int32 place = position + k - s.before[2];
      const int32 shown = INSIDE ? place : shown_at(s.positions, s.before[2], table, place);
      columns[k] = with_constant && !INSIDE && shown < 0 ? -1 : shown * s.unit + within;
    }
  }

  SEMICONV_FN void load_line(double (&seen)[across], const Storage* plane, int i, double outside) const {
    const Storage* from = plane + rows[i];
#pragma unroll
    for (int k = 0; k < across; ++k) {
      if (INSIDE || !with_constant || (rows[i] >= 0 && columns[k] >= 0)) seen[k] = (double)load(from[columns[k]]);
      else seen[k] = outside;
    }
  }
};

// The taps of a line: in their order, with the last one first, or the centre and pairs of opposite ones from the
// outermost on.
template <int TAPS> SEMICONV_FN void add_line(double& sum, const double* seen, const double* weight) {
  if constexpr (SEMICONV_SYMMETRY != 0) {
    constexpr int half = TAPS / 2;
    sum = seen[half] * weight[half];
#pragma unroll
    for (int n = 0; n < half; ++n) sum += (seen[n] + SEMICONV_SYMMETRY * seen[TAPS - 1 - n]) * weight[n];
  } else {
    if (rotated) add(sum, seen[TAPS - 1], weight[TAPS - 1]);
#pragma unroll
    for (int n = 0; n < TAPS - rotated; ++n) add(sum, seen[n], weight[n]);
  }
}

// Adds a plane of taps, row by row of them: few weights, and few rows of what outputs see, take registers at a time.
template <bool INSIDE>
SEMICONV_FN void add_plane(double (&sum)[outputs], const View<INSIDE>& view, const Storage* plane,
                           const double* weights, double outside) {
  double seen[lines][across];
#pragma unroll
  for (int i = 0; i < (across == 1 ? lines : outputs - 1); ++i) view.load_line(seen[i], plane, i, outside);
  if constexpr (across == 1) {
    double weight[down], column[lines];
#pragma unroll
    for (int i = 0; i < lines; ++i) column[i] = seen[i][0];
#pragma unroll
    for (int n = 0; n < down; ++n) weight[n] = usable(weights[n]);
#pragma unroll
    for (int r = 0; r < outputs; ++r) add_line<down>(sum[r], column + r, weight);
  } else {
#pragma unroll
    for (int tap = 0; tap < down; ++tap) {
      view.load_line(seen[tap + outputs - 1], plane, tap + outputs - 1, outside);
      double weight[across];
#pragma unroll
      for (int n = 0; n < across; ++n) weight[n] = usable(weights[tap * across + n]);
#pragma unroll
      for (int r = 0; r < outputs; ++r) add_line<across>(sum[r], seen[tap + r], weight);
    }
  }
}

// The outputs of a thread of plane z.
template <bool INSIDE>
SEMICONV_FN void find(const SmallWeighted& s, const View<INSIDE>& view, const Storage* volume, const int64* beyond,
                      int32 z, const double* weights, double outside, double (&sum)[outputs]) {
#pragma unroll 1
  for (int32 tap = 0; tap < s.planes; ++tap, weights += down * across) {
    const int32 plane = shown_at(s.depth, s.before[0], beyond, z - s.before[0] + tap);
    if (!with_constant || plane >= 0) {
      add_plane(sum, view, volume + (int64)plane * s.height * s.width, weights, outside);
    } else {
      for (int n = 0; n < down * across; ++n)
#pragma unroll
        for (int r = 0; r < outputs; ++r) add(sum[r], outside, usable(weights[n]));
    }
  }
}

}  // namespace semiconv

// Grid: blocks side by side; below each other, along two axes. beyond: for planes, rows and columns, as of
// `element_at`.
extern "C" __global__ void __launch_bounds__(128, semiconv::resident_blocks)
SEMICONV_KERNEL(const semiconv::SmallWeighted s, const semiconv::Storage* __restrict__ source,
                semiconv::Out* __restrict__ out, const long long* __restrict__ beyond,
                const double* __restrict__ weights, double outside) {
  using namespace semiconv;
  const int64 column = (int64)blockIdx.x * blockDim.x + threadIdx.x;
  const int64 strip = ((int64)blockIdx.z * gridDim.y + blockIdx.y) * blockDim.y + threadIdx.y;
  if (column >= s.width || strip >= s.strips) return;
  const uint32 n = (uint32)strip, plane = n / (uint32)s.of_column;
  const uint32 image = s.depth == 1 ? plane : plane / (uint32)s.depth;
  const int32 y = (int32)(n - plane * s.of_column) * outputs, z = (int32)(plane - image * s.depth);
  const int64 row = (int64)plane * s.height + y;
  const Storage* volume = source + (int64)image * s.depth * s.height * s.width;
  Out* to = out + row * s.width + column;
  const int64* const tables = (const int64*)beyond;
  const int32 x = (int32)column, top = y - s.before[1], left = x - s.before[2] * s.unit;
  double sum[outputs] = {};
  if (!s.narrow && top >= 0 && top + lines <= s.height && left >= 0 && left + (across - 1) * s.unit < s.width)
    find(s, View<true>(s, tables, y, x), volume, tables, z, weights, outside, sum);
  else
    find(s, View<false>(s, tables, y, x), volume, tables, z, weights, outside, sum);
#pragma unroll
  for (int r = 0; r < outputs; ++r)
    if (y + r < s.height) to[(int64)r * s.width] = Converted<Out>::from(sum[r]);
}
