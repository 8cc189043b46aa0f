// Launches of which the device decides whether they are wanted: an earlier kernel's blocks left a flag
// each, and the host waits for nothing.
#pragma once
#include "../portable.cuh"

namespace semiconv {

// Whether any flag is set; without flags a launch is always wanted. For all threads of a block.
SEMICONV_FN bool is_wanted(const int* flags, int64 count) {
  if (!flags) return true;
  int any = 0;
  for (int64 n = threadIdx.x; n < count; n += blockDim.x) any |= flags[n];
  return __syncthreads_or(any);
}
// A block's flag, of what its threads found.
SEMICONV_FN void leave_flag(int* flags, bool found) {
  const int any = __syncthreads_or(found);
  if (threadIdx.x == 0) flags[blockIdx.x] = any;
}

}  // namespace semiconv
