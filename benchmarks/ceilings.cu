// The issue limit of this GPU: independent chains of a semifield's arithmetic, and nothing else.
//
// Macros: SEMICONV_KERNEL, the kernel's name; VALUE, the type; STEP(acc, y, z), one term.
constexpr int chains = 16, rounds = 4096;

// Two float16 in one register, written in PTX because NVRTC may lack the header for them.
__device__ inline unsigned pairs_of_halves(unsigned acc, unsigned y, unsigned z) {
  asm("add.f16x2 %0, %0, %1;" : "+r"(acc) : "r"(y));
  asm("max.f16x2 %0, %0, %1;" : "+r"(acc) : "r"(z));
  return acc;
}

extern "C" __global__ void __launch_bounds__(256) SEMICONV_KERNEL(VALUE* out, VALUE y, VALUE z) {
  VALUE acc[chains];
#pragma unroll
  for (int c = 0; c < chains; ++c) acc[c] = out[c];
#pragma unroll 4
  for (int n = 0; n < rounds; ++n)
#pragma unroll
    for (int c = 0; c < chains; ++c) acc[c] = STEP(acc[c], y, z);
#pragma unroll
  for (int c = 0; c < chains; ++c) out[threadIdx.x + 256 * c] = acc[c];
}
