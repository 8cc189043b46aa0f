// The numbers of this block and thread, read again at each call (volatile), so that nothing that follows from
// them occupies registers across loops over terms.
#pragma once
#include "../integers.cuh"

namespace semiconv {

#if defined(SEMICONV_GPU)
SEMICONV_FN uint32 this_block() {
  uint32 n;
  asm volatile("mov.u32 %0, %%ctaid.x;" : "=r"(n));
  return n;
}
SEMICONV_FN uint32 this_thread() {
  uint32 n;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(n));
  return n;
}
#else
SEMICONV_FN uint32 this_block() { return blockIdx.x; }
SEMICONV_FN uint32 this_thread() { return threadIdx.x; }
#endif

}  // namespace semiconv
