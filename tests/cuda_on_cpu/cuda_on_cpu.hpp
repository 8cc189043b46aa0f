// CUDA C++ names for a kernel source that g++ compiles: put in front of the source by device.py,
// after translate.py has rewritten the __shared__ declarations. The machinery is in runtime.cpp.
//
// Only what NVRTC has without any header, so that a source which compiles here and not there is
// found by the NVRTC tests, not hidden by generosity here.
#pragma once

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <type_traits>
#include <utility>

#include "runtime.hpp"

#define SEMICONV_CUDA_ON_CPU 1

#define __global__
#define __device__
#define __host__
#define __constant__
#define __grid_constant__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __builtin_align__(bytes) __attribute__((aligned(bytes)))
#define __launch_bounds__(...)  // translate.py has put a check into the body
#define __builtin_assume(condition) ((condition) ? (void)0 : __builtin_unreachable())
#define __builtin_unreachable() ::cuda_on_cpu::fail("line %d: __builtin_unreachable()", __LINE__)
// A default argument: the line of the call.
#define CUDA_ON_CPU_LINE int line = __builtin_LINE()

constexpr int warpSize = 32;

// ---- registration of kernels (the calls are written by translate.py) ----------------------------

namespace cuda_on_cpu {

template <class T> constexpr Parameter parameter() {
  if constexpr (std::is_pointer_v<T>) {
    using P = std::remove_pointer_t<T>;
    unsigned long long pointee = 0;
    if constexpr (!std::is_void_v<P>) pointee = sizeof(P);
    return {sizeof(T), pointee, std::is_const_v<P> ? 'c' : 'p'};
  } else if constexpr (std::is_same_v<T, bool>) {
    return {sizeof(T), 0, 'b'};
  } else if constexpr (std::is_integral_v<T>) {
    return {sizeof(T), 0, std::is_signed_v<T> ? 'i' : 'u'};
  } else if constexpr (std::is_floating_point_v<T>) {
    return {sizeof(T), 0, 'f'};
  } else {
    static_assert(std::is_trivially_copyable_v<T>, "a kernel's parameter is copied as bytes");
    return {sizeof(T), 0, 's'};
  }
}

inline const Entry* entries = nullptr;
#if defined(__SANITIZE_THREAD__)
constexpr bool watched = true;
#else
constexpr bool watched = false;
#endif

// Of __launch_bounds__(threads, blocks): the threads.
template <class... Rest> constexpr long long first(long long threads, Rest...) { return threads; }

template <class F> struct Kernel;
template <class... P> struct Kernel<void(P...)> {
  static constexpr Parameter parameters[sizeof...(P) + 1] = {parameter<std::remove_cv_t<P>>()...};
  template <void (*function)(P...), size_t... I>
  static void run(void** arguments, std::index_sequence<I...>) {
    function(*static_cast<std::remove_cv_t<P>*>(arguments[I])...);
  }
  template <void (*function)(P...)> static void run(void** arguments) {
    run<function>(arguments, std::index_sequence_for<P...>());
  }
};

template <class F, F* function> struct Registration {
  Entry entry;
  explicit Registration(const char* name)
      : entry{name, sizeof(Kernel<F>::parameters) / sizeof(Parameter) - 1, Kernel<F>::parameters,
              Kernel<F>::template run<function>, entries, watched} {
    entries = &entry;
  }
};

}  // namespace cuda_on_cpu

#define CUDA_ON_CPU_TEXT2(...) #__VA_ARGS__
#define CUDA_ON_CPU_TEXT(...) CUDA_ON_CPU_TEXT2(__VA_ARGS__)
#define CUDA_ON_CPU_JOIN2(a, b) a##b
#define CUDA_ON_CPU_JOIN(a, b) CUDA_ON_CPU_JOIN2(a, b)
#define CUDA_ON_CPU_REGISTER(name)                                                      \
  static const ::cuda_on_cpu::Registration<decltype(name), name> CUDA_ON_CPU_JOIN(      \
      cuda_on_cpu_registration_, __COUNTER__)(CUDA_ON_CPU_TEXT(name));

extern "C" __attribute__((visibility("default"))) const cuda_on_cpu::Entry* cuda_on_cpu_entries() {
  return cuda_on_cpu::entries;
}

// ---- vector types ------------------------------------------------------------------------------

#define CUDA_ON_CPU_VECTORS(T, name, align2, align4)                                             \
  struct name##1 { T x; };                                                                       \
  struct alignas(align2) name##2 { T x, y; };                                                    \
  struct name##3 { T x, y, z; };                                                                 \
  struct alignas(align4) name##4 { T x, y, z, w; };                                              \
  inline name##1 make_##name##1(T x) { return {x}; }                                             \
  inline name##2 make_##name##2(T x, T y) { return {x, y}; }                                     \
  inline name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; }                             \
  inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
CUDA_ON_CPU_VECTORS(signed char, char, 2, 4)
CUDA_ON_CPU_VECTORS(unsigned char, uchar, 2, 4)
CUDA_ON_CPU_VECTORS(short, short, 4, 8)
CUDA_ON_CPU_VECTORS(unsigned short, ushort, 4, 8)
CUDA_ON_CPU_VECTORS(int, int, 8, 16)
CUDA_ON_CPU_VECTORS(long long, longlong, 16, 16)
CUDA_ON_CPU_VECTORS(unsigned long long, ulonglong, 16, 16)
CUDA_ON_CPU_VECTORS(float, float, 8, 16)
CUDA_ON_CPU_VECTORS(double, double, 16, 16)
#undef CUDA_ON_CPU_VECTORS
struct uint1 { unsigned x; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
inline uint1 make_uint1(unsigned x) { return {x}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint3 make_uint3(unsigned x, unsigned y, unsigned z) { return {x, y, z}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

// ---- barriers and warps ------------------------------------------------------------------------

inline void __syncthreads(CUDA_ON_CPU_LINE) {
  cuda_on_cpu::block_barrier(cuda_on_cpu::Reduction::none, 0, line);
}
inline int __syncthreads_count(int predicate, CUDA_ON_CPU_LINE) {
  return cuda_on_cpu::block_barrier(cuda_on_cpu::Reduction::count, predicate, line);
}
inline int __syncthreads_and(int predicate, CUDA_ON_CPU_LINE) {
  return cuda_on_cpu::block_barrier(cuda_on_cpu::Reduction::conjunction, predicate, line);
}
inline int __syncthreads_or(int predicate, CUDA_ON_CPU_LINE) {
  return cuda_on_cpu::block_barrier(cuda_on_cpu::Reduction::disjunction, predicate, line);
}

inline void __syncwarp(unsigned mask = 0xffffffffu, CUDA_ON_CPU_LINE) {
  cuda_on_cpu::warp_operation(cuda_on_cpu::WarpOperation::synchronise, mask, line, 0,
                              cuda_on_cpu::lane());
}
inline unsigned __ballot_sync(unsigned mask, int predicate, CUDA_ON_CPU_LINE) {
  return (unsigned)cuda_on_cpu::warp_operation(cuda_on_cpu::WarpOperation::ballot, mask, line,
                                               predicate != 0, cuda_on_cpu::lane());
}
inline int __any_sync(unsigned mask, int predicate, CUDA_ON_CPU_LINE) {
  return __ballot_sync(mask, predicate, line) != 0;
}
inline int __all_sync(unsigned mask, int predicate, CUDA_ON_CPU_LINE) {
  return __ballot_sync(mask, !predicate, line) == 0;
}
template <class T> unsigned __match_any_sync(unsigned mask, T value, CUDA_ON_CPU_LINE);  // below
// The lanes that have not ended: a program may not assume more than that, nor less.
inline unsigned __activemask() { return cuda_on_cpu::unfinished_lanes(); }

namespace cuda_on_cpu {
template <class T> T shuffle(unsigned mask, T value, unsigned source, int line) {
  static_assert(std::is_arithmetic_v<T> && (sizeof(T) == 4 || sizeof(T) == 8),
                "CUDA shuffles numbers of 4 or 8 bytes");
  unsigned long long bits = 0;
  memcpy(&bits, &value, sizeof value);
  bits = warp_operation(WarpOperation::shuffle, mask, line, bits, source);
  memcpy(&value, &bits, sizeof value);
  return value;
}
inline void check_width(int width, int line) {
  if (width < 1 || width > 32 || (width & (width - 1)))
    fail("line %d: the width of a shuffle must be a power of two up to 32, got %d", line, width);
}
}  // namespace cuda_on_cpu

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, CUDA_ON_CPU_LINE) {
  cuda_on_cpu::check_width(width, line);
  const unsigned first = cuda_on_cpu::lane() & ~(width - 1u);
  return cuda_on_cpu::shuffle(mask, value, first + (source & (width - 1u)), line);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, CUDA_ON_CPU_LINE) {
  cuda_on_cpu::check_width(width, line);
  const unsigned me = cuda_on_cpu::lane(), place = me & (width - 1u);
  return cuda_on_cpu::shuffle(mask, value, delta > place ? me : me - delta, line);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, CUDA_ON_CPU_LINE) {
  cuda_on_cpu::check_width(width, line);
  const unsigned me = cuda_on_cpu::lane(), room = width - 1u - (me & (width - 1u));
  return cuda_on_cpu::shuffle(mask, value, delta > room ? me : me + delta, line);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32, CUDA_ON_CPU_LINE) {
  cuda_on_cpu::check_width(width, line);
  const unsigned me = cuda_on_cpu::lane(), other = me ^ lane_mask;
  // Earlier groups may be read, later ones not: then a lane gets its own value.
  return cuda_on_cpu::shuffle(mask, value, other > (me | (width - 1u)) ? me : other, line);
}

template <class T> unsigned __match_any_sync(unsigned mask, T value, int line) {
  unsigned same = 0;
  for (unsigned lane = 0; lane < 32; ++lane) {
    if (!(mask >> lane & 1)) continue;
    if (cuda_on_cpu::shuffle(mask, value, lane, line) == value) same |= 1u << lane;
  }
  return same;
}

// ---- memory ------------------------------------------------------------------------------------

// One OS thread runs everything and fibers switch only at barriers: plain memory access is atomic.
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __threadfence_system() {}

template <class T> T __ldg(const T* address) { return *address; }
template <class T> T __ldcs(const T* address) { return *address; }
template <class T> T __ldcg(const T* address) { return *address; }
template <class T> T __ldca(const T* address) { return *address; }
template <class T> void __stcs(T* address, std::common_type_t<T> value) { *address = value; }
template <class T> void __stcg(T* address, std::common_type_t<T> value) { *address = value; }

namespace cuda_on_cpu {
template <class T, class... Of> constexpr bool one_of = (std::is_same_v<T, Of> || ...);
using u32 = unsigned;
using i64 = long long;
using u64 = unsigned long long;
}  // namespace cuda_on_cpu

#define CUDA_ON_CPU_ATOMIC(name, result, ...)                                                \
  template <class T> T name(T* address, std::common_type_t<T> value) {                       \
    using namespace cuda_on_cpu;                                                             \
    static_assert(one_of<T, __VA_ARGS__>, #name " has no overload for this type in CUDA");   \
    const T old = *address;                                                                  \
    *address = (result);                                                                     \
    return old;                                                                              \
  }
namespace cuda_on_cpu {
// Integers wrap, as the hardware does.
template <class T> T wrapping_add(T a, T b) {
  if constexpr (std::is_integral_v<T>)
    return (T)((std::make_unsigned_t<T>)a + (std::make_unsigned_t<T>)b);
  else
    return a + b;
}
}  // namespace cuda_on_cpu
CUDA_ON_CPU_ATOMIC(atomicAdd, wrapping_add<T>(old, value), int, u32, u64, float, double)
CUDA_ON_CPU_ATOMIC(atomicSub, wrapping_add<T>(old, 0u - value), int, u32)
CUDA_ON_CPU_ATOMIC(atomicExch, value, int, u32, u64, float)
CUDA_ON_CPU_ATOMIC(atomicMin, value < old ? value : old, int, u32, i64, u64)
CUDA_ON_CPU_ATOMIC(atomicMax, old < value ? value : old, int, u32, i64, u64)
CUDA_ON_CPU_ATOMIC(atomicAnd, old & value, int, u32, u64)
CUDA_ON_CPU_ATOMIC(atomicOr, old | value, int, u32, u64)
CUDA_ON_CPU_ATOMIC(atomicXor, old ^ value, int, u32, u64)
CUDA_ON_CPU_ATOMIC(atomicInc, old >= value ? 0 : old + 1, u32)
CUDA_ON_CPU_ATOMIC(atomicDec, old == 0 || old > value ? value : old - 1, u32)
#undef CUDA_ON_CPU_ATOMIC
template <class T>
T atomicCAS(T* address, std::common_type_t<T> compare, std::common_type_t<T> value) {
  static_assert(cuda_on_cpu::one_of<T, int, unsigned, unsigned long long, unsigned short>,
                "atomicCAS has no overload for this type in CUDA");
  const T old = *address;
  if (old == compare) *address = value;
  return old;
}

[[noreturn]] inline void __trap(CUDA_ON_CPU_LINE) {
  cuda_on_cpu::fail("line %d: __trap()", line);
}

// ---- bits and conversions ----------------------------------------------------------------------

namespace cuda_on_cpu {
template <class To, class From> To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}
// float to integer as the hardware does it: saturated, NaN to 0 (32 bits) or the lowest (64 bits).
template <class To, class From> To saturated(From rounded) {
  constexpr From limit = (From)((To)1 << (sizeof(To) * 8 - 2)) * 2;  // 2^31 or 2^63
  if (isnan(rounded)) return sizeof(To) == 8 ? (To)((u64)1 << 63) : (To)0;
  if (rounded >= limit) return (To)(((u64)1 << (sizeof(To) * 8 - 1)) - 1);
  if (rounded < -limit) return (To)((u64)1 << (sizeof(To) * 8 - 1));
  return (To)rounded;
}
}  // namespace cuda_on_cpu

inline int __float_as_int(float a) { return cuda_on_cpu::bits_as<int>(a); }
inline unsigned __float_as_uint(float a) { return cuda_on_cpu::bits_as<unsigned>(a); }
inline float __int_as_float(int a) { return cuda_on_cpu::bits_as<float>(a); }
inline float __uint_as_float(unsigned a) { return cuda_on_cpu::bits_as<float>(a); }
inline long long __double_as_longlong(double a) { return cuda_on_cpu::bits_as<long long>(a); }
inline double __longlong_as_double(long long a) { return cuda_on_cpu::bits_as<double>(a); }
inline int __float2int_rn(float a) { return cuda_on_cpu::saturated<int>(rintf(a)); }
inline int __float2int_rz(float a) { return cuda_on_cpu::saturated<int>(truncf(a)); }
inline int __float2int_ru(float a) { return cuda_on_cpu::saturated<int>(ceilf(a)); }
inline int __float2int_rd(float a) { return cuda_on_cpu::saturated<int>(floorf(a)); }
inline int __double2int_rn(double a) { return cuda_on_cpu::saturated<int>(rint(a)); }
inline int __double2int_rz(double a) { return cuda_on_cpu::saturated<int>(trunc(a)); }
inline long long __float2ll_rn(float a) { return cuda_on_cpu::saturated<long long>(rintf(a)); }
inline long long __double2ll_rn(double a) { return cuda_on_cpu::saturated<long long>(rint(a)); }
inline float __int2float_rn(int a) { return (float)a; }
inline float __double2float_rn(double a) { return (float)a; }

inline int __popc(unsigned a) { return __builtin_popcount(a); }
inline int __popcll(unsigned long long a) { return __builtin_popcountll(a); }
inline int __clz(int a) { return a ? __builtin_clz((unsigned)a) : 32; }
inline int __clzll(long long a) { return a ? __builtin_clzll((unsigned long long)a) : 64; }
inline int __ffs(int a) { return __builtin_ffs(a); }
inline int __ffsll(long long a) { return __builtin_ffsll(a); }
inline unsigned __brev(unsigned a) {
  unsigned reversed = 0;
  for (int i = 0; i < 32; ++i) reversed |= (a >> i & 1u) << (31 - i);
  return reversed;
}
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
  const unsigned long long bytes = (unsigned long long)b << 32 | a;
  unsigned result = 0;
  for (int i = 0; i < 4; ++i) {
    const unsigned chosen = selector >> 4 * i & 15;
    const unsigned byte = (unsigned)(bytes >> 8 * (chosen & 7)) & 255;
    // The selector's highest bit replicates the byte's.
    result |= (chosen & 8 ? (byte & 128 ? 255u : 0u) : byte) << 8 * i;
  }
  return result;
}
// Of two halves of 16 bits, each.
#define CUDA_ON_CPU_PAIRS(name, T, result)                            \
  inline unsigned name(unsigned left, unsigned right) {               \
    unsigned both = 0;                                                \
    for (int i = 0; i < 32; i += 16) {                                \
      const T a = (T)(left >> i), b = (T)(right >> i);                \
      both |= (unsigned)(unsigned short)(result) << i;                \
    }                                                                 \
    return both;                                                      \
  }
CUDA_ON_CPU_PAIRS(__vmaxs2, short, a < b ? b : a)
CUDA_ON_CPU_PAIRS(__vmins2, short, b < a ? b : a)
CUDA_ON_CPU_PAIRS(__vmaxu2, unsigned short, a < b ? b : a)
CUDA_ON_CPU_PAIRS(__vminu2, unsigned short, b < a ? b : a)
CUDA_ON_CPU_PAIRS(__vcmpgts2, short, a > b ? 0xffff : 0)
CUDA_ON_CPU_PAIRS(__vcmplts2, short, a < b ? 0xffff : 0)
#undef CUDA_ON_CPU_PAIRS
inline int __mulhi(int a, int b) { return (int)((long long)a * b >> 32); }
inline unsigned __umulhi(unsigned a, unsigned b) {
  return (unsigned)((unsigned long long)a * b >> 32);
}
inline long long __mul64hi(long long a, long long b) { return (long long)((__int128)a * b >> 64); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return (unsigned long long)((unsigned __int128)a * b >> 64);
}
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
  return (unsigned)(((unsigned long long)high << 32 | low) << (shift & 31) >> 32);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
  return (unsigned)(((unsigned long long)high << 32 | low) >> (shift & 31));
}

// ---- mathematics: <math.h> has the common names, these are CUDA's own ---------------------------

#define CUDA_ON_CPU_MINMAX(T)                           \
  inline T min(T a, T b) { return b < a ? b : a; }      \
  inline T max(T a, T b) { return a < b ? b : a; }
CUDA_ON_CPU_MINMAX(int)
CUDA_ON_CPU_MINMAX(unsigned)
CUDA_ON_CPU_MINMAX(long)
CUDA_ON_CPU_MINMAX(unsigned long)
CUDA_ON_CPU_MINMAX(long long)
CUDA_ON_CPU_MINMAX(unsigned long long)
#undef CUDA_ON_CPU_MINMAX
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }

inline float rsqrtf(float a) { return 1 / sqrtf(a); }
inline double rsqrt(double a) { return 1 / ::sqrt(a); }
inline float __saturatef(float a) { return fminf(fmaxf(a, 0.f), 1.f); }
inline float __expf(float a) { return expf(a); }
inline float __exp10f(float a) { return exp10f(a); }
inline float __logf(float a) { return logf(a); }
inline float __log2f(float a) { return log2f(a); }
inline float __log10f(float a) { return log10f(a); }
inline float __powf(float a, float b) { return powf(a, b); }
inline float __sinf(float a) { return sinf(a); }
inline float __cosf(float a) { return cosf(a); }
inline float __tanf(float a) { return tanf(a); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __fsqrt_rn(float a) { return sqrtf(a); }
inline float __frcp_rn(float a) { return 1 / a; }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dsub_rn(double a, double b) { return a - b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline double __fma_rn(double a, double b, double c) { return fma(a, b, c); }
inline double __dsqrt_rn(double a) { return ::sqrt(a); }
inline double __drcp_rn(double a) { return 1 / a; }
