// Flat erosions and dilations over boxes: a window down the columns, then one along the rows.
//
// Arrays are planes of (rows, columns). The outputs are cut into bands, and rows of the source stream
// through a band from top to bottom; every array between is a few rows long and stays in the cache:
//
//     source --step 0--> ring 0 --step 1--> ring 1 ... --last step down--> line --steps across--> out
//
// The steps are those of windows.hpp. Step s + 1 down reads rows 0 .. reach(s + 1) below its own, so that
// ring s holds the last reach(s + 1) + 1 rows of step s; row r lies at r % ring_rows[s]. For a window of 13
// rows, ring 0 holds 10 rows of windows of 4, and out row y is made of its rows y, y + 4, y + 8, y + 9.
//
// Columns are extended by what the border shows, window - 1 of them. In a band they are
//
//     | left: looked up | middle: as they lie in the source | right: looked up |
//
// Step 0 reads the middle where it lies. The left and right parts mostly show columns of the middle, whose
// extrema they copy. Else (wrapped around in several bands, windows longer than the rows) those parts of all
// source rows of the band are gathered into `edges` beforehand, as keys. Of colours, all offsets across are
// multiples of `unit`. A row beyond the border that shows the constant is `nothing`.
#pragma once
#include "windows.hpp"

namespace semiconv {

// Rows first_row .. end_row - 1, columns first_column .. end_column - 1 of the outputs of one plane.
class BoxBand {
  const Box& box;
  const bool minimum;
  const Steps &down, &across;
  const Key* source;
  Key* out;
  const Key outside;
  const int64 first_row, end_row, first_column, end_column;

  // Numbers of extended columns; where the middle begins in a source row; elements of a row of keys.
  int64 left, middle, right, middle_source, width, pitch;
  AlignedBuffer<Key> memory;
  AlignedBuffer<int64> shown;
  bool in_middle = true;  // all that the edges show; then `shown` counts from the first extended column
  Key *edges, *nothing, *line;
  Key* ring[Steps::most];
  int64 ring_rows[Steps::most], produced[Steps::most];

 public:
  BoxBand(const Box& b, bool minimum_, const Steps& d, const Steps& a, const Key* from, Key* to, Key constant,
          int64 y0, int64 y1, int64 x0, int64 x1)
      : box(b), minimum(minimum_), down(d), across(a), source(from), out(to), outside(constant), first_row(y0),
        end_row(y1), first_column(x0), end_column(x1) {
    // The outputs see the extended columns x0 .. x0 + width - 1; the image's are before .. before + columns - 1.
    // With a window longer than the band, all of them may lie on one side of the image: the middle is empty.
    width = x1 - x0 + b.window[1] - 1;
    left = smaller_of(larger_of(b.before[1] - x0, 0), width);
    right = larger_of(x0 + width - larger_of(b.before[1] + b.columns, x0 + left), 0);
    middle = width - left - right;
    middle_source = x0 + left - b.before[1];
    pitch = ceil_div(width + 2 * key_lanes, key_lanes) * key_lanes;
  }
  bool run() {
    const int64 raw_rows = end_row - first_row + box.window[0] - 1;
    int64 rows = 3;  // two lines and `nothing`
    for (int s = 0; s + 1 < down.steps; ++s) {
      ring_rows[s] = down.reach(s + 1) + 1;
      rows += ring_rows[s];
      produced[s] = first_row;
    }
    if (left + right && !list_edges()) return false;
    const int64 edge = in_middle ? 0 : left + right;
    if (!memory.allocate(rows * pitch + raw_rows * edge + 2 * key_lanes)) return false;
    line = memory.data;
    nothing = line + 2 * pitch;
    Key* next = nothing + pitch;
    for (int s = 0; s + 1 < down.steps; ++s, next += ring_rows[s - 1] * pitch) ring[s] = next;
    edges = next;
    for (int64 i = 0; i < pitch; ++i) nothing[i] = outside;
    if (edge) gather_edges(raw_rows);
    // Windows of two rows, one below the other, share one row only: a pair would save no comparison.
    const bool in_pairs = down.steps == 1 && down.count[0] >= 3;
    for (int64 y = first_row; y < end_row; ++y) {
      Key* to = out + y * box.columns + first_column;
      if (in_pairs && y + 1 < end_row) {
        Key* const outs[] = {to, to + box.columns};
        Key* const lines[] = {line, line + pitch};
        if (across.steps == 0) {
          vertical_pair(y, outs, true);
        } else {
          vertical_pair(y, lines, false);
          horizontal(line, outs[0]);
          horizontal(line + pitch, outs[1]);
        }
        ++y;
        continue;
      }
      if (across.steps == 0) {
        vertical(down.steps - 1, y, to, true);
      } else {
        vertical(down.steps - 1, y, line, false);
        horizontal(line, to);
      }
    }
    return true;
  }

 private:
  const Key* raw(int64 extended_row) const {
    const int64 element = element_at(box.rows, box.before[0], box.beyond[0], extended_row - box.before[0]);
    return element < 0 ? nullptr : source + element * box.columns;
  }
  // List which elements of a row the columns at the edges show; a border shows the constant everywhere or nowhere.
  bool list_edges() {
    if (!shown.allocate(left + right)) return false;
    int64* next = shown.data;
    in_middle = true;
    const auto list = [&](int64 begin, int64 end) {
      each_beyond(box.columns, box.before[1], box.beyond[1], box.unit, first_column + begin, first_column + end,
                  [&](int64 element, int64 n) {
                    for (int64 i = 0; i < n; ++i) *next++ = element < 0 ? element : element + i;
                    const int64 at = element - middle_source;
                    in_middle = in_middle && (element < 0 || (at >= 0 && at + n <= middle));
                  });
    };
    list(0, left);
    list(width - right, width);
    if (in_middle && shown.data[0] >= 0)
      for (int64 p = 0; p < left + right; ++p) shown.data[p] += left - middle_source;
    return true;
  }
  void gather_edges(int64 raw_rows) {
    const int64 edge = left + right;
    const Key constant = clean_key(minimum, outside);
    Key* to = edges;
    for (int64 r = 0; r < raw_rows; ++r, to += edge) {
      const Key* row = raw(first_row + r);
      if (!row || shown.data[0] < 0)
        for (int64 p = 0; p < edge; ++p) to[p] = constant;
      else
        for (int64 p = 0; p < edge; ++p) to[p] = clean_key(minimum, row[shown.data[p]]);
    }
  }
  // The edges of a row of step 0 whose middle is there: extrema down a column are those of the column that it shows.
  void copy_edges(Key* to) const {
    const int64* const from = shown.data;
    Key* const behind = to + middle;  // after `left`, too, comes p = left .. left + right - 1
    if (from[0] < 0) {
      const Key constant = clean_key(minimum, outside);
      for (int64 p = 0; p < left; ++p) to[p] = constant;
      for (int64 p = left; p < left + right; ++p) behind[p] = constant;
    } else {
      for (int64 p = 0; p < left; ++p) to[p] = to[from[p]];
      for (int64 p = left; p < left + right; ++p) behind[p] = to[from[p]];
    }
  }
  // to = row y of the windows that step s makes, all extended columns; the rows of step s - 1 that it needs
  // and that are not there are made first. s = -1: the window is one row, which is copied.
  void vertical(int s, int64 y, Key* to, bool to_raw) {
    const Key* parts[most_parts];
    if (s <= 0) {
      const int count = s < 0 ? 1 : down.count[0];
      const auto offset = [&](int p) { return s < 0 ? 0 : down.offset[0][p]; };
      for (int p = 0; p < count; ++p) {
        const Key* row = raw(y + offset(p));
        parts[p] = row ? row + middle_source : nothing;
      }
      if (in_middle) {
        step({minimum, true, to_raw}, count, parts, to + left, middle);
        if (left + right) copy_edges(to);
        return;
      }
      // Keys are stored in whole registers: the left edge before the middle, which it runs into.
      const int64 edge = left + right;
      const Key* edge_parts[most_parts];
      for (int p = 0; p < count; ++p) edge_parts[p] = edges + (y + offset(p) - first_row) * edge;
      if (left) step({minimum, false, false}, count, edge_parts, to, left);
      step({minimum, true, to_raw}, count, parts, to + left, middle);
      for (int p = 0; p < count; ++p) edge_parts[p] += left;
      if (right) step({minimum, false, false}, count, edge_parts, to + left + middle, right);
      return;
    }
    for (; produced[s - 1] <= y + down.reach(s); ++produced[s - 1]) {
      const int64 row = produced[s - 1];
      vertical(s - 1, row, ring[s - 1] + row % ring_rows[s - 1] * pitch, false);
    }
    for (int p = 0; p < down.count[s]; ++p)
      parts[p] = ring[s - 1] + (y + down.offset[s][p]) % ring_rows[s - 1] * pitch;
    step({minimum, false, to_raw}, down.count[s], parts, to, width);
  }
  // Rows y and y + 1 at once, where the window down takes one step.
  void vertical_pair(int64 y, Key* const* to, bool to_raw) {
    const Key *rows[most_parts + 1], *edge_rows[most_parts + 1];
    const int count = down.count[0];
    for (int p = 0; p <= count; ++p) {
      const Key* row = raw(y + p);
      rows[p] = row ? row + middle_source : nothing;
    }
    Key* const middles[] = {to[0] + left, to[1] + left};
    if (in_middle) {
      step_pair(minimum, to_raw, count, rows, middles, middle);
      for (int r = 0; r < 2 && left + right; ++r) copy_edges(to[r]);
      return;
    }
    for (int p = 0; p <= count; ++p) edge_rows[p] = edges + (y + p - first_row) * (left + right);
    for (int r = 0; r < 2 && left; ++r)
      step({minimum, false, false}, count, edge_rows + r, to[r], left);
    step_pair(minimum, to_raw, count, rows, middles, middle);
    for (int p = 0; p <= count; ++p) edge_rows[p] += left;
    for (int r = 0; r < 2 && right; ++r)
      step({minimum, false, false}, count, edge_rows + r, to[r] + left + middle, right);
  }
  // The steps across, in place in `line`; the last one writes to `to`.
  void horizontal(Key* line, Key* to) {
    int64 valid = width;
    for (int s = 0; s < across.steps; ++s) {
      const Key* parts[most_parts];
      for (int p = 0; p < across.count[s]; ++p) parts[p] = line + across.offset[s][p] * box.unit;
      valid -= across.reach(s) * box.unit;
      if (s + 1 == across.steps)
        step({minimum, false, true}, across.count[s], parts, to, end_column - first_column);
      else
        step({minimum, false, false}, across.count[s], parts, line, valid);
    }
  }
};

inline bool box_extremum(const Box& box, const Key* source, Key* out, Key outside, bool minimum, int threads) {
  const Steps down(box.window[0]), across((box.window[1] - 1) / box.unit + 1);
  // A band is as wide as possible while its rings stay in L2. Neighbouring bands compute window - 1 rows and
  // columns twice.
  constexpr int64 budget = 256 * 1024;
  int64 ring_rows = 4;
  for (int s = 1; s < down.steps; ++s) ring_rows += down.reach(s) + 1;
  const int64 widest = larger_of(budget / (ring_rows * (int64)sizeof(Key)) - box.window[1],
                                 larger_of(16 * key_lanes, 2 * box.window[1]));
  const int64 across_bands = ceil_div(box.columns, widest);
  const int64 columns =
      ceil_div(ceil_div(box.columns, across_bands), key_lanes) * key_lanes;
  const int64 column_bands = ceil_div(box.columns, columns);
  // Two bands a thread, but of at least 8 rows and two windows: lower ones mostly repeat their neighbours' rows.
  const int64 two_each = ceil_div(2 * threads, box.planes * column_bands), wanted = threads == 1 ? 1 : two_each;
  const int64 useful = larger_of(smaller_of(wanted, box.rows / larger_of(8, 2 * box.window[0])), 1);
  // The edges of all source rows of a band are gathered in memory: hardly more rows than 256 or 8 windows.
  const int64 gathered = larger_of(256, 8 * box.window[0]);
  int64 row_bands = larger_of(box.window[1] > 1 ? larger_of(useful, box.rows / gathered) : useful, 1);
  const int64 rows = ceil_div(box.rows, row_bands);
  row_bands = ceil_div(box.rows, rows);  // rows were rounded up
  const int64 bands = box.planes * row_bands * column_bands;
  int failed = 0;
  in_parallel(bands, threads, [&](Items& items) {
    for (int64 n; items.take(n);) {
      const int64 x = n % column_bands * columns, y = n / column_bands % row_bands * rows;
      const int64 plane = n / column_bands / row_bands * box.rows * box.columns;
      BoxBand band(box, minimum, down, across, source + plane, out + plane, outside, y,
                   smaller_of(y + rows, box.rows), x, smaller_of(x + columns, box.columns));
      if (!band.run()) set_flag(failed, 1);
    }
  });
  return !failed;
}

}  // namespace semiconv
