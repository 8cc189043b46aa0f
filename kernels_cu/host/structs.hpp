// The structs of the neighbourhood filters' calls on the host. Python declares their twins.
//
// An axis is extended by what its border shows, window - 1 positions in all. Of 5 elements with a window of
// 4 whose `before` is 1, border mode "reflect":
//
//     extended position     0 | 1 2 3 4 5 | 6 7       output x sees the positions x .. x + 3
//     shows element         0 | 0 1 2 3 4 | 4 3       beyond = {0, 4, 3}
//
// Neighbouring positions of the last axis may be `unit` elements apart: colours, three elements for each
// pixel. Window and border then count in elements, the table still in positions. Of 2 pixels, window 3:
//
//     extended element      0 1 2 | 3 4 5 6 7 8 | 9 10 11     size 6, window 2 * 3 + 1, before 3
//     of pixel              r g b   r g b r g b   r g  b      output x sees x, x + 3, x + 6
//     shows element         0 1 2 | 0 1 2 3 4 5 | 3 4  5      beyond = {0, 1}
#pragma once
#include "filters.cuh"

namespace semiconv {

// The elements that an extended axis shows, run by run: each(element, count) for `count` elements that lie
// together, or for `count` times the constant (element -1). All of them lie beyond the border, on one side.
template <class Each>
inline void each_beyond(int64 size, int64 before, const int64* beyond, int64 unit, int64 begin, int64 end,
                        Each each) {
  int64 place = begin - before;  // from the first element of the source
  int64 position = (place < 0 ? place - unit + 1 : place) / unit, within = place - position * unit;
  const int64 positions = size / unit, ahead = before / unit;
  for (int64 n; place < end - before; place += n, ++position, within = 0) {
    n = smaller_of(unit - within, end - before - place);
    const int64 element = element_at(positions, ahead, beyond, position);
    each(element < 0 ? element : element * unit + within, n);
  }
}

// Output x of axis a sees the extended elements x .. x + window[a] - 1; of the last axis each `unit`-th. The
// elements of the source are those from before[a] on. beyond[a] lists what the positions ahead of them, then
// those behind them, show: a position, or -1 for the constant. Axes come in any order, the vectors run along
// the last one: where rows are short, that is another axis. `stride`: elements from one position of an axis to
// the next, in source and result.
struct Mapped {
  int64 rank;
  int64 size[max_rank], window[max_rank], before[max_rank], stride[max_rank];
  const int64* beyond[max_rank];
  int64 unit;

  // Of an axis whose positions are elements.
  int64 element(int a, int64 position) const {
    return element_at(size[a], before[a], beyond[a], position - before[a]);
  }
  // How far apart the scratch has two neighbouring positions of an axis whose elements are `pitch` apart.
  int64 step(int a, int64 pitch) const { return a == rank - 1 ? unit * pitch : pitch; }
};

// An extremum over boxes of planes of (rows, columns). Axis 0 of window, before and beyond is that of the
// rows; neighbouring positions of a row are `unit` elements apart.
struct Box {
  int64 planes, rows, columns;
  int64 window[2], before[2];
  const int64* beyond[2];
  int64 unit;
};

// One look-up of a footprint: the table of windows of 2^level elements, and the place in the window.
struct Lookup {
  int64 level;
  int64 index[max_rank];
};

// The arrays of a reconstruction, which are copied with `reach` elements around them.
struct Sizes {
  int64 rank;
  int64 size[max_rank], reach[max_rank];
};

// Lines along one axis: `size` elements that are `inner` apart, `inner` lines side by side, `outer` times.
struct Lines {
  int64 outer, size, inner;
};
// Which elements of each line are computed, begin .. end - 1, and where they go: `row` of them lie side by side, and
// `pitch` elements after each row the next one begins.
struct LineOutputs {
  int64 begin, end, row, pitch;
};

}  // namespace semiconv
