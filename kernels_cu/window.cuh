// One output's window on the GPU: which taps lie inside the image, and a walk over them.
//
// Needs SEMICONV_RANK, SEMICONV_WINDOW, SEMICONV_STRIDE, SEMICONV_DILATION, SEMICONV_OFFSET as
// cuda/forward.cu explains them. The walk visits taps in the kernel's memory order, any rank.
#pragma once
#include "accumulators.cuh"
#include "geometry.cuh"

namespace semiconv {

using Offset = SEMICONV_OFFSET;
constexpr int rank = SEMICONV_RANK;
constexpr int last_axis = rank - 1;

struct Axes {
  int32 of[rank];
  constexpr SEMICONV_FN int32 operator[](int a) const { return of[a]; }
};
#define SEMICONV_KERNEL_SIZE (Axes SEMICONV_WINDOW)
#define SEMICONV_STRIDES (Axes SEMICONV_STRIDE)
#define SEMICONV_DILATIONS (Axes SEMICONV_DILATION)

SEMICONV_FN int32 window_size() {
  int32 size = 1;
  for (int a = 0; a < rank; ++a) size *= SEMICONV_KERNEL_SIZE[a];
  return size;
}

// Outputs of one channel: Geometry::pixels() of as many axes as the compiler knows.
SEMICONV_FN int64 outputs_of_channel(const Geometry& g) {
  int64 size = 1;
  for (int a = 0; a < rank; ++a) size *= g.out_size[a];
  return size;
}

// The position of one output, and the taps of its window that lie inside the image.
struct Window {
  Offset batch, group, output;  // output: within its group
  Offset position[rank];
  Offset corner[rank];              // image position of dilation step 0
  int32 begin[rank], end[rank];     // kernel indices whose tap is inside the image

  SEMICONV_FN Window(const Geometry& g, Offset n) {
    for (int a = last_axis; a >= 0; --a) {
      const Offset size = (Offset)g.out_size[a];
      position[a] = n % size;
      n /= size;
    }
    const Offset outputs = (Offset)g.outputs_per_group;
    output = n % outputs;
    n /= outputs;
    group = n % (Offset)g.groups;
    batch = n / (Offset)g.groups;
    for (int a = 0; a < rank; ++a) clip(g, a);
  }
  SEMICONV_FN void clip(const Geometry& g, int a) {
    const int32 size = SEMICONV_KERNEL_SIZE[a], d = SEMICONV_DILATIONS[a];
    corner[a] = position[a] * SEMICONV_STRIDES[a] - (Offset)g.pad_begin[a];
    // Steps s with 0 <= corner + d s < image size.
    const Offset room = (Offset)g.image_size[a] - corner[a];
    const Offset from = corner[a] < 0 ? (-corner[a] + d - 1) / d : 0;
    const Offset to = room > 0 ? (room + d - 1) / d : 0;
    const int32 low = from < size ? (int32)from : size;
    const int32 high = to < size ? (int32)to : size;
    begin[a] = g.mirrored ? size - high : low;
    end[a] = g.mirrored ? size - low : high;
  }
  SEMICONV_FN bool empty() const {
    for (int a = 0; a < rank; ++a)
      if (begin[a] >= end[a]) return true;
    return false;
  }
  SEMICONV_FN Offset step(const Geometry& g, int a, int32 index) const {
    return g.mirrored ? SEMICONV_KERNEL_SIZE[a] - 1 - index : index;
  }
  SEMICONV_FN Offset image_offset(const Geometry& g) const {
    return batch * (Offset)g.img_strides[0] +
           group * (Offset)g.in_channels * (Offset)g.img_strides[1];
  }
  SEMICONV_FN Offset kernel_offset(const Geometry& g) const {
    return (Offset)g.kernel_of(group, output) * (Offset)g.krn_strides[0];
  }
  SEMICONV_FN Setting setting(const Geometry& g) const {
    return Setting(g.parameters, g.kernel_of(group, output));
  }

  // visit(image offset, kernel offset, tap index within the channel) for every valid tap.
  template <class F> SEMICONV_FN void walk(const Geometry& g, F&& visit) const {
    walk_axis<0>(g, 0, 0, 0, visit);
  }

 private:
  template <int AXIS, class F>
  SEMICONV_FN void walk_axis(const Geometry& g, Offset image, Offset kernel, int32 tap, F& visit) const {
    if constexpr (AXIS == rank) {
      visit(image, kernel, tap);
    } else {
      for (int32 y = begin[AXIS]; y < end[AXIS]; ++y) {
        const Offset at = corner[AXIS] + step(g, AXIS, y) * SEMICONV_DILATIONS[AXIS];
        walk_axis<AXIS + 1>(g, image + at * (Offset)g.img_strides[AXIS + 2],
                            kernel + y * (Offset)g.krn_strides[AXIS + 2],
                            tap * SEMICONV_KERNEL_SIZE[AXIS] + y, visit);
      }
    }
  }
};

// Accumulate the input channels first .. last - 1 of the window, in two passes if the accumulator has them.
template <class A>
SEMICONV_FN void accumulate(const Geometry& g, const Window& window, A& acc, const Setting& setting,
                            const Storage* image, const Storage* kernel, int32 first, int32 last) {
  const auto term = [&](int32 i, Offset image_at, Offset kernel_at) {
    return times((Real)load(image[i * (Offset)g.img_strides[1] + image_at]),
                 (Real)load(kernel[i * (Offset)g.krn_strides[1] + kernel_at]), setting);
  };
  if constexpr (A::two_pass) {
    for (int32 i = first; i < last; ++i)
      window.walk(g, [&](Offset image_at, Offset kernel_at, int32) {
        acc.observe(term(i, image_at, kernel_at), setting);
      });
    acc.settle(setting);
  }
  const int32 taps = window_size();
  int32 pending = 0;
  for (int32 i = first; i < last; ++i)
    window.walk(g, [&](Offset image_at, Offset kernel_at, int32 tap) {
      acc.add(term(i, image_at, kernel_at), i * taps + tap, setting);
      if (++pending == terms_per_fold) {
        acc.fold();
        pending = 0;
      }
    });
  acc.fold();
}

}  // namespace semiconv
