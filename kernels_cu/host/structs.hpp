// The structs of the neighbourhood filters' calls on the host. Python declares their twins.
//
// An axis is extended by what its border shows, window - 1 positions in all. Of 5 elements with a window of
// 4 whose `before` is 1, border mode "reflect":
//
//     extended position     0 | 1 2 3 4 5 | 6 7       output x sees the positions x .. x + 3
//     shows element         0 | 0 1 2 3 4 | 4 3       beyond = {0, 4, 3}
#pragma once
#include "filters.cuh"

namespace semiconv {

// Output x of axis a sees the extended positions x .. x + window[a] - 1. The elements of the source are
// those from before[a] on. beyond[a] lists what the positions ahead of them, then those behind them, show:
// an element, or -1 for the constant.
struct Mapped {
  int64 rank;
  int64 size[max_rank], window[max_rank], before[max_rank];
  const int64* beyond[max_rank];

  int64 element(int a, int64 position) const {
    return element_at(size[a], before[a], beyond[a], position - before[a]);
  }
};

// An extremum over boxes of planes of (rows, columns). Axis 0 of window, before and beyond is that of the rows.
struct Box {
  int64 planes, rows, columns;
  int64 window[2], before[2];
  const int64* beyond[2];

  int64 element(int axis, int64 position) const {
    return element_at(axis ? columns : rows, before[axis], beyond[axis], position - before[axis]);
  }
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

}  // namespace semiconv
