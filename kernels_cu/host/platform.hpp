// What differs between operating systems: the mark of an export, aligned memory, the end of a thread's
// objects.
#pragma once
#include <stddef.h>
#include <stdlib.h>

#if defined(_WIN32)
#include <malloc.h>
#define SEMICONV_EXPORT extern "C" __declspec(dllexport)
#else
#define SEMICONV_EXPORT extern "C" __attribute__((visibility("default")))
#endif

namespace semiconv {

constexpr size_t line_bytes = 64;  // of a cache, and of the widest register

// `bytes` is a multiple of line_bytes; nullptr where the machine has not so much memory.
inline void* allocate_lines(size_t bytes) {
#if defined(_WIN32)
  return _aligned_malloc(bytes, line_bytes);
#else
  return aligned_alloc(line_bytes, bytes);
#endif
}
inline void free_lines(void* memory) {
#if defined(_WIN32)
  _aligned_free(memory);
#else
  free(memory);
#endif
}

}  // namespace semiconv

// Without a C++ runtime, which calls the destructors of thread_local objects elsewhere, the C library of
// Linux does so. Libraries built for other machines have none, so that they need none there.
#if defined(SEMICONV_WITHOUT_RUNTIME) && defined(__linux__)
extern "C" int __cxa_thread_atexit_impl(void (*destroy)(void*), void* object, void* library);
extern "C" __attribute__((visibility("hidden"), weak)) int __cxa_thread_atexit(
    void (*destroy)(void*), void* object, void* library) {
  return __cxa_thread_atexit_impl(destroy, object, library);
}
#endif
