// Integers by their widths, and the arithmetic of sizes.
#pragma once
#include "portable.cuh"

namespace semiconv {

using int8 = signed char;
using uint8 = unsigned char;
using int16 = short;
using uint16 = unsigned short;
using int32 = int;
using uint32 = unsigned int;
using int64 = long long;
using uint64 = unsigned long long;

constexpr int max_rank = 8;  // axes that the structs of one call have room for; MAX_RANK in Python

// Of sizes: b > 0, and no sum overflows.
SEMICONV_INLINE int64 ceil_div(int64 a, int64 b) { return (a + b - 1) / b; }
SEMICONV_INLINE int64 smaller_of(int64 a, int64 b) { return a < b ? a : b; }
SEMICONV_INLINE int64 larger_of(int64 a, int64 b) { return a > b ? a : b; }
// The same in another type, ceil_div<int32>(a, b), for GPUs, which divide 64 bits slowly.
template <class I> SEMICONV_INLINE I ceil_div(I a, I b) { return (a + b - 1) / b; }
template <class I> SEMICONV_INLINE I smaller_of(I a, I b) { return a < b ? a : b; }

}  // namespace semiconv
