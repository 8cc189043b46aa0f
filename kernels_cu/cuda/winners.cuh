// Which tap won, for extrema with a provenance over large windows: by runs of taps.
//
// A comparison that also remembers an index costs several instructions. Hence a thread folds a run of
// neighbouring taps by plain extrema, compares once a run, and remembers the run. When all taps are
// done, the terms of the winning run are computed once more: the first one equal to the output's value
// in the kernel's memory order is the winner, as if every tap had been compared.
//
//   a row of taps (size_x = 7)     k0 k1 k2 k3 | k4 k5 k6          run = 4, runs = 2 of a row
//   winner while taps go by        row * runs + 0 or 1             counts runs, rows of taps over all planes
//   winner that is written         row * size_x + k                counts taps
//
// If the block has only one plane of taps, the patch and the weights are still in shared memory at the
// end (tap_in_patch), and a longer run costs little; else they are loaded from global memory
// (tap_in_image). A term has the same bits both times: nothing is contracted (-fmad=false where a
// multiplication and an addition could be).
#pragma once
#include "weights.cuh"

namespace semiconv {

#if defined(SEMICONV_SELECT)
constexpr bool by_runs = provenance && plain_extremum && size_x() > 2 && (channels > 1 || size_y() * size_x() >= 25);
#else
constexpr bool by_runs = false;
#endif
constexpr bool one_plane = once && outer == 0 && depth == 1;
constexpr int longest = one_plane && !wide ? 6 : 4;
constexpr int runs = (size_x() + longest - 1) / longest;  // of a row
constexpr int run = wide ? 4 : (size_x() + runs - 1) / runs;
static_assert(!by_runs || !wide || segment % run == 0, "a run reaches over two segments");

// The first tap of the run `winner` whose term is `best`, the output's value; -1 where no run won.
// image, kernel: of the output's batch element and group, and of its own weights. (y, x): the output.
template <class V>
SEMICONV_FN int32 tap_in_image(const Geometry& g, const TeamTile& tile, const Storage* image, const Storage* kernel,
                               int32 y, int32 x, V best, int32 winner, const Setting& setting) {
  if (winner < 0) return -1;
  const int32 row = winner / runs, first = winner % runs * run;  // its row of taps, its first tap there
  const int32 ky = row % size_y();
  const int32 line = y * stride_y() - (int32)along_y(g.pad_begin, 0) +
                     (mirrored ? size_y() - 1 - ky : ky) * dilation_y();
  const int32 column = x * stride_x() - (int32)along_x(g.pad_begin) +
                       (mirrored ? size_x() - 1 - first : first) * dilation_x();
  int32 rest = row / size_y();
  for (int a = outer - 1; a >= 0; --a) {
    const int32 index = rest % SEMICONV_KERNEL_SIZE[a];
    rest /= SEMICONV_KERNEL_SIZE[a];
    const int32 step = mirrored ? SEMICONV_KERNEL_SIZE[a] - 1 - index : index;
    image += ((int64)tile.outer_position[a] * SEMICONV_STRIDES[a] - g.pad_begin[a] +
              step * SEMICONV_DILATIONS[a]) * g.img_strides[a + 2];
    kernel += index * g.krn_strides[a + 2];
  }
  image += rest * g.img_strides[1] + line * along_y(g.img_strides + 2, 0);
  kernel += rest * g.krn_strides[1] + ky * along_y(g.krn_strides + 2, 0);
  // All loads before the first comparison: global memory takes long to answer.
  Storage numbers[run], weights[run];
  bool inside[run];
#pragma unroll
  for (int n = 0; n < run; ++n) {
    const int32 image_column = column + (mirrored ? -n : n) * dilation_x();
    const bool taps = size_x() % run == 0 || first + n < size_x();
    inside[n] = taps && (uint32)image_column < (uint32)along_x(g.image_size);
    numbers[n] = image[inside[n] ? image_column * along_x(g.img_strides + 2) : 0];
    weights[n] = kernel[taps ? (first + n) * along_x(g.krn_strides + 2) : 0];
  }
  int32 found = 0;
#pragma unroll
  for (int n = run - 1; n >= 0; --n) {
    const Real term = times((Real)load(numbers[n]), (Real)load(weights[n]), setting);
    if (inside[n] && term == Packed<V>::number(best, 0)) found = n;
  }
  return row * size_x() + first + found;
}

// The same from shared memory, where it holds the only plane. (c, row, x): the output among the
// thread's; inside(row, column) says whether a position of the thread's part of the patch is in the image.
template <class V, class F>
SEMICONV_FN int32 tap_in_patch(const View& view, int c, int row, int x, V best, int32 winner, const Setting& setting,
                               F&& inside) {
  if (winner < 0) return -1;
  const int32 ky = winner / runs, first = winner % runs * run;
  const int32 r = row * stride_y() + (mirrored ? size_y() - 1 - ky : ky) * dilation_y();
  const int32 column = shift + x * stride_x() + (mirrored ? size_x() - 1 - first : first) * dilation_x();
  const Storage* numbers = (const Storage*)(view.patch + row_at(r)) + column;
  const Weight* weights = (const Weight*)(view.weights + ky * weight_chunks) + first * channels + c;
  int32 found = 0;
#pragma unroll
  for (int n = run - 1; n >= 0; --n) {
    const int32 step = (mirrored ? -n : n) * dilation_x();
    if (size_x() % run && first + n >= size_x()) continue;
    if (tests_border && !inside(r, column + step)) continue;
    const Number number = Packed<Value>::from(numbers[step]);
    const Value both = Packed<Value>::pack(number, number);
    const Value term = saturated_value(term_of<false>(both, weights[n * channels], setting));
    if (Packed<V>::number(term, 0) == Packed<V>::number(best, 0)) found = n;
  }
  return ky * size_x() + first + found;
}

}  // namespace semiconv
