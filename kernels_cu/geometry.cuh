// The geometry of one launch: semiconv_cupy/geometry.py's plan plus the arrays' strides.
//
// Python declares the struct's twin, GeometryStruct; a test compares the layouts. All strides are in
// elements and may be negative; sizes beyond `rank` are not read. The output is C-contiguous.
#pragma once
#include "integers.cuh"

namespace semiconv {

struct Geometry {
  int64 rank, mirrored, shares_kernels;
  int64 batch, groups, in_channels, outputs_per_group, kernels;
  int64 image_size[max_rank], kernel_size[max_rank], out_size[max_rank];
  int64 stride[max_rank], dilation[max_rank], pad_begin[max_rank];
  int64 img_strides[max_rank + 2];  // batch, channel, spatial axes
  int64 krn_strides[max_rank + 2];  // output, input channel, spatial axes

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
