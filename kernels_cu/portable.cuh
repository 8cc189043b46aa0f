// What differs between compilers: qualifiers of functions, bit patterns.
//
// Defines `architecture`, SEMICONV_FN, which shared functions begin with (compiled for the GPU, always inlined),
// SEMICONV_INLINE for functions that the host's compiler may call, SEMICONV_GPU where a compiler for
// GPUs reads the text, and base_address. Mathematics that differs lies in functions.cuh.
#pragma once

#if defined(__CUDACC_RTC__) || defined(__CUDACC__)
#define SEMICONV_GPU 1
#define SEMICONV_FN __device__ __forceinline__
#define SEMICONV_OUTLINED __device__ __noinline__
#define SEMICONV_HOST_OUTLINED SEMICONV_FN
#define SEMICONV_INLINE __device__ __forceinline__
#else
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#define SEMICONV_INLINE inline
#if defined(SEMICONV_CUDA_ON_CPU)
#define SEMICONV_FN inline
#define SEMICONV_OUTLINED
#define SEMICONV_HOST_OUTLINED SEMICONV_FN
#else
#define SEMICONV_FN inline __attribute__((always_inline))
#define SEMICONV_OUTLINED __attribute__((noinline))
#define SEMICONV_HOST_OUTLINED SEMICONV_OUTLINED  // for compile time: called once for many terms
#endif
#endif

namespace semiconv {

// The GPU's compute capability, sm_90 as 900; kernels that run on a CPU take the way of that one.
#if defined(SEMICONV_GPU)
constexpr int architecture = __CUDA_ARCH__;
#else
constexpr int architecture = 900;
#endif

template <class To, class From> SEMICONV_FN To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "bit_cast keeps the size");
  To to;
#if defined(SEMICONV_GPU)
  memcpy(&to, &from, sizeof(To));
#else
  __builtin_memcpy(&to, &from, sizeof(To));
#endif
  return to;
}

// An address that loads and stores count from: without it, NVRTC adds up for each of them anew all that the address is
// made of. It is one of global memory. Of bytes meanwhile: NVRTC 13.0 mixes up addresses of structs here.
template <class T> SEMICONV_FN T* base_address(T* address) {
#if defined(SEMICONV_GPU)
  const char* bytes = (const char*)address;
  asm("" : "+l"(bytes));
  __builtin_assume(__isGlobal(bytes));
  return (T*)bytes;
#else
  return address;
#endif
}

// Whether two types are one.
template <class A, class B> struct Same { static constexpr bool value = false; };
template <class A> struct Same<A, A> { static constexpr bool value = true; };
// A type without const and &.
template <class T> struct Plain { using type = T; };
template <class T> struct Plain<const T&> { using type = T; };
template <class T> struct Plain<T&> { using type = T; };

}  // namespace semiconv
