// Memory that frees itself, and the scratch that a thread keeps between calls.
#pragma once
#include "integers.cuh"
#include "platform.hpp"

namespace semiconv {

// What a call returns.
enum Status { success = 0, out_of_memory = 1 };

// The scratch of one thread, kept between calls so that small calls allocate nothing.
class Workspace {
  void* memory = nullptr;
  size_t size = 0;

 public:
  ~Workspace() { free_lines(memory); }
  // nullptr where the machine has not so much memory.
  void* reserve(size_t bytes) {
    if (bytes > size) {
      free_lines(memory);
      size = 0;
      bytes = (bytes + 4095) / 4096 * 4096;
      memory = allocate_lines(bytes);
      if (memory) size = bytes;
    }
    return memory;
  }
  void release_beyond(size_t bytes) {
    if (size <= bytes) return;
    free_lines(memory);
    memory = nullptr;
    size = 0;
  }
};
constexpr size_t kept_bytes = size_t(8) << 20;  // of a thread's scratch between calls

// An array that frees itself; data is nullptr where the machine had not so much memory.
template <class T> struct Buffer {
  T* data = nullptr;
  Buffer() = default;
  Buffer(const Buffer&) = delete;
  ~Buffer() { free(data); }
  bool allocate(int64 count) {
    data = (T*)malloc((size_t)count * sizeof(T) + 1);
    return data != nullptr;
  }
};

// The same, aligned to a cache line, with room for one register of up to 64 bytes behind its end.
template <class T> struct AlignedBuffer {
  T* data = nullptr;
  AlignedBuffer() = default;
  AlignedBuffer(const AlignedBuffer&) = delete;
  ~AlignedBuffer() { free_lines(data); }
  bool allocate(int64 count) {
    const size_t bytes = ((size_t)count * sizeof(T) + 127) / 64 * 64;
    data = (T*)allocate_lines(bytes);
    return data != nullptr;
  }
};

}  // namespace semiconv
