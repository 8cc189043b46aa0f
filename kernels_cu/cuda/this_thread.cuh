// What is made again at each use, so that nothing that follows from it occupies registers across loops over terms.
#pragma once
#include "../integers.cuh"

namespace semiconv {

// The numbers of this block and thread, which are read at each call (volatile).
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
// A number as it is: the compiler does not know what it was made of, and makes what follows from it where it is asked
// for.
SEMICONV_FN int64 as_it_is(int64 number) {
  asm volatile("" : "+l"(number));
  return number;
}
#else
SEMICONV_FN uint32 this_block() { return blockIdx.x; }
SEMICONV_FN uint32 this_thread() { return threadIdx.x; }
SEMICONV_FN int64 as_it_is(int64 number) { return number; }
#endif

}  // namespace semiconv
