// Launches that the device itself skips: a kernel reads flags that an earlier kernel wrote, and
// returns at once where none is set. The host decides nothing and so waits for nothing.
//
//   a fast kernel    writes one flag a block: "my outputs need the careful kernel"
//   the careful one  is launched in any case and begins with `if (!launch_is_needed(...)) return;`
#pragma once
#include "../functions.cuh"

namespace semiconv {

// Whether any flag is set; true where there are no flags (null). All threads of a block call it.
SEMICONV_FN bool launch_is_needed(const int* flags, int64 flag_count) {
  if (!flags) return true;
  int any = 0;
  for (int64 n = threadIdx.x; n < flag_count; n += blockDim.x) any |= flags[n];
  return __syncthreads_or(any);
}
// Sets this block's flag if one of its threads says so. All threads of a block call it.
SEMICONV_FN void write_flag(int* flags, bool says_so) {
  const int any = __syncthreads_or(says_so);
  if (threadIdx.x == 0) flags[blockIdx.x] = any;
}

}  // namespace semiconv
