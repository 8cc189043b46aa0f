// The geometry of one launch: semiconv_cupy/geometry.py's plan plus the arrays' strides.
//
// Python declares the struct's twin, GeometryStruct; a test compares the layouts. All strides are in
// elements and may be negative; sizes beyond `rank` are not read. A residual lies as the output does.
//
// A work in canonical form may have its axes in another order, and only those taps that can lie in the
// image: out_strides then say where results go, and tap number and strides of the kernel stay those of the
// whole kernel. On a GPU outputs are C-contiguous, and all taps are there.
#pragma once
#include "integers.cuh"
#include "parameters.cuh"

namespace semiconv {

struct Geometry {
  int64 rank, mirrored, shares_kernels;
  int64 batch, groups, in_channels, outputs_per_group, kernels;
  int64 image_size[max_rank], kernel_size[max_rank], out_size[max_rank];
  int64 stride[max_rank], dilation[max_rank], pad_begin[max_rank];
  int64 img_strides[max_rank + 2];  // batch, channel, spatial axes
  int64 krn_strides[max_rank + 2];  // output, input channel, spatial axes
  int64 out_strides[max_rank + 2];  // batch, output channel, spatial axes
  int64 krn_begin, first_tap;       // of the first tap: its place in the kernel, its number
  int64 tap_steps[max_rank + 1];    // how far the numbers of neighbouring taps lie apart: channel, spatial axes
  Parameters parameters;

  SEMICONV_FN int64 step(int axis, int64 index) const {
    return mirrored ? kernel_size[axis] - 1 - index : index;
  }
  SEMICONV_FN int64 kernel_of(int64 group, int64 output) const {  // output: within its group
    return shares_kernels ? output : group * outputs_per_group + output;
  }
  SEMICONV_FN int64 window_size() const {  // taps of one channel
    int64 size = 1;
    for (int a = 0; a < rank; ++a) size *= kernel_size[a];
    return size;
  }
  SEMICONV_FN int64 pixels() const {  // outputs of one channel
    int64 size = 1;
    for (int a = 0; a < rank; ++a) size *= out_size[a];
    return size;
  }
};

}  // namespace semiconv
