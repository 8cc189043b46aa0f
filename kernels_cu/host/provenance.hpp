// The gradients of selections: each output sends its gradient to the tap that won.
//
// The residual is the winner's tap index, over all input channels of the group (with channels that
// add: within one channel), and the largest number of its type where no tap won. With (x, tap) known,
// the element of img lies at corner(x) + offset(tap), where the corner is the image position of the
// window's first dilation step: two tables of offsets, one for the C-contiguous grad_img, one for img.
// No scratch is needed, and no term is computed again.
//
// The walk over a tile's outputs is the same for all its output channels and batch elements, so a thread
// plans it once for each tile, as a list of runs:
//
//   rows of 12 outputs and more         shorter rows, here of 3 outputs
//
//     run 0   x x x x x x x x x ...       run 0   x x x
//     run 1   x x x x x x x x x ...               x x x      as many rows, planes, ... as have
//                                                 x x x      about 100 outputs
//     each a base and a stride            run 1   x x x
//                                                 x x x      each a base and a prefix of one table
//
// The outputs come in C order in either case: a gradient's bits do not depend on how they are cut.
//
// Winners are data of the caller: an index that is no tap, or leads outside the image, is skipped.
#pragma once
#include "partition.hpp"

namespace semiconv {

// Where every tap lies relative to the image position of dilation step 0: in a C-contiguous image,
// and in img with its own strides.
inline void image_offsets(const Geometry& g, int64* contiguous, int64* strided) {
  int64 channel = 1;
  for (int a = 0; a < g.rank; ++a) channel *= g.image_size[a];
  const int64 window = g.window_size();
  for (int64 n = 0; n < g.in_channels * window; ++n) {
    int64 rest = n % window, pitch = 1;
    contiguous[n] = n / window * channel;
    strided[n] = n / window * g.img_strides[1];
    for (int a = (int)g.rank - 1; a >= 0; --a) {
      const int64 step = g.step(a, rest % g.kernel_size[a]) * g.dilation[a];
      contiguous[n] += step * pitch;
      strided[n] += step * g.img_strides[a + 2];
      rest /= g.kernel_size[a];
      pitch *= g.image_size[a];
    }
  }
}

// The bounds of one group's part of the image: its number of elements in grad_img, and the lowest and
// highest offset in img with its own strides.
struct Reach {
  int64 elements = 1, lowest = 0, highest = 0;
  explicit Reach(const Geometry& g) {
    const auto extend = [&](int64 size, int64 stride) {
      elements *= size;
      (stride < 0 ? lowest : highest) += (size - 1) * stride;
    };
    extend(g.in_channels, g.img_strides[1]);
    for (int a = 0; a < g.rank; ++a) extend(g.image_size[a], g.img_strides[a + 2]);
  }
};

// Outputs that follow each other in a tile, relative to the tile's plane: places in grad_out, of their
// windows' corners in a C-contiguous image and in img with its own strides.
struct Run {
  int64 from, to, at, count;
};

// Where the outputs of a run lie, relative to its first one: along a row, or by a table.
struct AlongRow {
  int64 stride, img_stride;
  SEMICONV_FN int64 from(int64 n) const { return n; }
  SEMICONV_FN int64 to(int64 n) const { return n * stride; }
  SEMICONV_FN int64 at(int64 n) const { return n * img_stride; }
};
struct ByTable {
  const Run* table;
  SEMICONV_FN int64 from(int64 n) const { return table[n].from; }
  SEMICONV_FN int64 to(int64 n) const { return table[n].to; }
  SEMICONV_FN int64 at(int64 n) const { return table[n].at; }
};

// The outputs of a tile in C order, as runs.
class Walk {
  static constexpr int64 short_row = 12, enough = 64, most = 256;  // outputs; the last two of a run by table
  Run table[most];
  Run* list;
  int64 count = 0, planned = -1;
  bool rows = false;  // each run is one row

 public:
  // How many runs a full tile has at most.
  static int64 most_runs(const Geometry& g, const Tiling& t) {
    int64 rows = 1;
    for (int a = 0; a < g.rank - 1; ++a) rows *= t.tile[a];
    return rows;
  }
  // `memory` has room for most_runs().
  explicit Walk(Run* memory) : list(memory) {}

  void plan(const Geometry& g, const Tiling& t, int64 tile) {
    if (tile == planned) return;
    planned = tile;
    int64 origin[max_rank], size[max_rank];
    locate_tile(g, t, tile, origin, size);
    int axis = (int)g.rank - 1;  // along which runs are cut; the axes behind it are whole
    int64 inner = 1;             // outputs of the axes behind it
    rows = size[axis] >= short_row;
    for (; !rows && axis > 0 && inner * size[axis] < enough; --axis) inner *= size[axis];
    const int64 step = rows ? size[axis] : smaller_of(size[axis], most / inner);
    if (!rows) fill_table(g, size, axis, step);
    list_runs(g, origin, size, axis, step, inner);
  }
  // visit(run, steps) of all runs.
  template <class F> SEMICONV_FN void each(const Geometry& g, F visit) const {
    const int last = (int)g.rank - 1;
    const AlongRow row{g.stride[last], g.stride[last] * g.img_strides[last + 2]};
    if (rows)
      for (int64 r = 0; r < count; ++r) visit(list[r], row);
    else
      for (int64 r = 0; r < count; ++r) visit(list[r], ByTable{table});
  }

 private:
  // Axis by axis from the innermost: what there is so far, once for each further position.
  void fill_table(const Geometry& g, const int64* size, int axis, int64 step) {
    Run pitch{1, 1, 0, 0};
    int64 filled = 1;
    table[0] = Run{0, 0, 0, 0};
    for (int a = (int)g.rank - 1; a >= axis; --a) {
      const int64 positions = a == axis ? step : size[a];
      const Run next{pitch.from, pitch.to * g.stride[a], g.img_strides[a + 2] * g.stride[a], 0};
      for (int64 n = filled; n < filled * positions; ++n) {
        const Run& before = table[n - filled];
        table[n] = Run{before.from + next.from, before.to + next.to, before.at + next.at, 0};
      }
      filled *= positions;
      pitch.from *= g.out_size[a];
      pitch.to *= g.image_size[a];
    }
  }
  void list_runs(const Geometry& g, const int64* origin, const int64* size, int axis, int64 step,
                 int64 inner) {
    int64 index[max_rank] = {};
    count = 0;
    do {
      Run run{0, 0, 0, smaller_of(step, size[axis] - index[axis]) * inner};
      for (int a = 0; a < g.rank; ++a) {
        const int64 output = origin[a] + index[a];
        const int64 corner = output * g.stride[a] - g.pad_begin[a];
        run.from = run.from * g.out_size[a] + output;
        run.to = run.to * g.image_size[a] + corner;
        run.at += corner * g.img_strides[a + 2];
      }
      list[count++] = run;
      index[axis] += step;
      for (int a = axis; a > 0 && index[a] >= size[a]; --a) {
        index[a] = 0;
        ++index[a - 1];
      }
    } while (index[0] < size[0]);
  }
};

// The arrays of one output channel, as pointers to its plane, its group's part of the image, its kernel. img
// and krn may be null where the derivatives of times are constants, a gradient where it is not to be computed.
template <class I> struct Plane {
  const Storage* grad_out;
  const I* winners;
  const Storage *img, *krn;
  Real* grad_img;  // C-contiguous
  double* bins;    // one a tap
  Setting setting;
};

// One run of outputs. `taps`: how many there are, and where they lie from a corner.
template <class I, class Steps>
SEMICONV_FN void scatter_run(const Run run, const Steps steps, const Plane<I> plane,
                             const int64* image_taps, const int64* strided_taps, const int64 taps,
                             const Reach reach) {
  const I* const winners = plane.winners + run.from;
  const Storage* const grad_out = plane.grad_out + run.from;
  (void)strided_taps;
  for (int64 n = 0; n < run.count; ++n) {
    const I tap = winners[steps.from(n)];
    if ((int64)tap >= taps) continue;  // no tap won
    const int64 place = run.to + steps.to(n) + image_taps[tap];
    if ((uint64)place >= (uint64)reach.elements) continue;
    const Real grad = load(grad_out[steps.from(n)]);
#if defined(SEMICONV_CONSTANT_DERIVATIVES)
    const Real a = 0, b = 0;
#else
    const int64 read = run.at + steps.at(n) + strided_taps[tap];
    if (read < reach.lowest || read > reach.highest) continue;
    const Real a = load(plane.img[read]), b = load(plane.krn[tap]);
#endif
    if (plane.grad_img) plane.grad_img[place] += chained(grad, d_times_d_img(a, b, plane.setting));
    if (plane.bins) plane.bins[tap] += chained(grad, d_times_d_krn(a, b, plane.setting));
  }
}

}  // namespace semiconv
