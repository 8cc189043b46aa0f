// Exports semiconv_cpu_level: which of the levels of semiconv_cupy/backends/host/prebuilt.py this CPU has,
// counted from 1. Compiled for the lowest one, as it runs before the level is known.
//
// The levels of x86-64 are those of its psABI (x86-64 psABI, "Micro-architecture levels"). A level counts
// only if the system saves its registers, which XCR0 says.
#include "platform.hpp"

#if defined(__x86_64__)
#include <cpuid.h>

namespace {

struct Registers {
  unsigned a = 0, b = 0, c = 0, d = 0;
};

Registers cpuid(unsigned leaf) {
  Registers r;
  if (__get_cpuid_max(leaf & 0x80000000u, nullptr) >= leaf) __cpuid_count(leaf, 0, r.a, r.b, r.c, r.d);
  return r;
}

bool has(unsigned bits, unsigned wanted) { return (bits & wanted) == wanted; }

// XCR0: the parts of registers that the system saves.
unsigned saved_registers() {
  unsigned low, high;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return low;
}

}  // namespace

SEMICONV_EXPORT int semiconv_cpu_level() {
  const Registers basic = cpuid(1), more = cpuid(7), extended = cpuid(0x80000001u);
  // CMPXCHG16B, POPCNT, SSE3, SSE4.1, SSE4.2, SSSE3; LAHF
  const unsigned v2 = bit_CMPXCHG16B | bit_POPCNT | bit_SSE3 | bit_SSE4_1 | bit_SSE4_2 | bit_SSSE3;
  if (!has(basic.c, v2) || !has(extended.c, bit_LAHF_LM)) return 1;
  const unsigned v3 = bit_AVX | bit_F16C | bit_FMA | bit_MOVBE | bit_OSXSAVE;
  if (!has(basic.c, v3) || !has(more.b, bit_AVX2 | bit_BMI | bit_BMI2) || !has(extended.c, bit_LZCNT))
    return 2;
  const unsigned saved = saved_registers();
  if (!has(saved, 0x06)) return 2;  // the registers of SSE and AVX
  const unsigned v4 = bit_AVX512F | bit_AVX512BW | bit_AVX512CD | bit_AVX512DQ | bit_AVX512VL;
  return has(more.b, v4) && has(saved, 0xe6) ? 4 : 3;  // and those of AVX-512
}

#else

SEMICONV_EXPORT int semiconv_cpu_level() { return 1; }

#endif
