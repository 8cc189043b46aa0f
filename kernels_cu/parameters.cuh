// Parameters: the numbers of a semifield that a launch receives, mu of log or p of root.
//
// semiconv_cupy/structs.py declares the struct's twin. A launch carries it by value; numbers in memory are read
// by the kernels, so that a replayed launch sees new ones.
#pragma once
#include "integers.cuh"

namespace semiconv {

constexpr int most_parameters = 4;  // MOST_PARAMETERS in Python

struct Parameters {
  const void* at;   // numbers of arithmetic, [parameter][channel]; null: `values` has them
  int64 channels;   // of each parameter: 1, or one for each kernel
  double values[most_parameters];

  // A parameter of the kernel `kernel`, counted over all matrices of a product; R is the type of arithmetic.
  template <class R> SEMICONV_FN double of(int parameter, int64 kernel) const {
    if (!at) return values[parameter];
    return (double)((const R*)at)[parameter * channels + (channels > 1 ? kernel % channels : 0)];
  }
};

}  // namespace semiconv
