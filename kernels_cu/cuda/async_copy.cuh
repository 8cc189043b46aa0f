// Copies from global into shared memory that need no registers on their way (cp.async).
//
// Offsets are in bytes. Included by cuda/patch.cuh and cuda/product_panels.cuh.
#pragma once
#include "../chunk.cuh"
#include "../integers.cuh"

namespace semiconv {

// The target of copies into shared memory. From sm_80 on they are asynchronous: the thread goes on, and
// calls await_copies() before it reads its own copies, then a barrier before it reads those of others.
#if defined(SEMICONV_GPU) && __CUDA_ARCH__ >= 800
struct Destination {
  uint32 address;
  SEMICONV_FN explicit Destination(void* shared) {
    asm("{ .reg .u64 to; cvta.to.shared.u64 to, %1; cvt.u32.u64 %0, to; }" : "=r"(address) : "l"(shared));
  }
  SEMICONV_FN void move(int offset) { address += offset; }
  template <class T> SEMICONV_FN void copy(int offset, const T* global) const {
    if constexpr (sizeof(T) > 16) {
      copy(offset, (const Chunk<float, 4>*)global);
      copy(offset + 16, (const Chunk<float, 4>*)global + 1);
    } else if constexpr (sizeof(T) == 16) {
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" :: "r"(address + offset), "l"(global) : "memory");
    } else if constexpr (sizeof(T) >= 4) {
      asm volatile("cp.async.ca.shared.global [%0], [%1], %2;"
                   :: "r"(address + offset), "l"(global), "n"(sizeof(T)) : "memory");
    } else if constexpr (sizeof(T) == 2) {
      const unsigned short bits = bit_cast<unsigned short>(*global);
      asm volatile("st.shared.u16 [%0], %1;" :: "r"(address + offset), "h"(bits) : "memory");
    } else {
      const uint32 bits = bit_cast<unsigned char>(*global);
      asm volatile("st.shared.u8 [%0], %1;" :: "r"(address + offset), "r"(bits) : "memory");
    }
  }
  // The same of whole 16 bytes if `exists`; otherwise zeros are written, and nothing is read.
  template <class T> SEMICONV_FN void copy_or_zero(int offset, const T* global, bool exists) const {
    static_assert(sizeof(T) % 16 == 0, "copied by 16 bytes");
#pragma unroll
    for (int n = 0; n < (int)sizeof(T); n += 16)
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                   :: "r"(address + offset + n), "l"((const char*)global + n), "r"(exists ? 16 : 0) : "memory");
  }
};
SEMICONV_FN void await_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }
#else
struct Destination {
  char* address;
  SEMICONV_FN explicit Destination(void* shared) : address((char*)shared) {}
  SEMICONV_FN void move(int offset) { address += offset; }
  template <class T> SEMICONV_FN void copy(int offset, const T* global) const { *(T*)(address + offset) = *global; }
  template <class T> SEMICONV_FN void copy_or_zero(int offset, const T* global, bool exists) const {
    *(T*)(address + offset) = exists ? *global : T{};
  }
};
SEMICONV_FN void await_copies() {}
#endif

}  // namespace semiconv
