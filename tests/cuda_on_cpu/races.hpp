// Finds threads that touch the same shared memory without a barrier between: a part of runtime.cpp.
//
// A kernel that is compiled with -fsanitize=thread says of each access where it is; the calls that ThreadSanitizer
// would get are at the end of this file. Of each byte of shared memory it is kept who wrote it last and who has read
// it since. Two accesses, one of which writes, are in order if they are of one thread, if __syncthreads lies between,
// or, of lanes of one warp, __syncwarp, or several in a row. Shuffles and votes order no memory, here as in CUDA: on
// the CPU they make the lanes wait all the same, so that no order of threads would show what is missing.
//
// Not seen: global memory, and atomic operations (nothing says so of them).
#pragma once

namespace cuda_on_cpu {
namespace {

// What a lane knows of its warp: how many barriers of each lane lie before its own next access.
struct Known {
  unsigned of_lane[warp_size];
};

struct Reads {  // of the lanes of one warp
  unsigned warp, lanes;
  unsigned when[warp_size];
};

struct Byte {
  unsigned epoch;         // of the block; what was seen in an earlier one is in order
  unsigned writer, when;  // the thread, plus one
  unsigned elsewhere;     // a reader of another warp than that of `reads`, plus one
  Reads reads;
};

// Bytes of memory that is shared by the threads of a block.
struct Watched {
  const char* begin = nullptr;
  size_t size = 0;
  Byte* bytes = nullptr;  // zero at first; the system gives pages to those that are touched

  Watched(const void* address, size_t size_)
      : begin(static_cast<const char*>(address)), size(size_),
        bytes(static_cast<Byte*>(calloc(size_ + 1, sizeof(Byte)))) {}
  Watched(Watched&& other) noexcept
      : begin(other.begin), size(other.size), bytes(std::exchange(other.bytes, nullptr)) {}
  Watched(const Watched&) = delete;
  ~Watched() { free(bytes); }
  bool has(const char* address) const { return address >= begin && address < begin + size; }
};

struct Watch {
  bool on = false;
  unsigned epoch = 1;
  std::vector<Known> known;  // of each thread
  std::vector<Watched> memory;

  void start(const void* dynamic, size_t dynamic_bytes, unsigned threads) {
    on = true;
    known.assign(threads, Known{});
    if (dynamic_bytes) memory.emplace_back(dynamic, dynamic_bytes);
  }
  void add(const void* variable, size_t size) {
    if (on) memory.emplace_back(variable, size);
  }
  // All threads of the block have met.
  void block_met() { ++epoch; }
  // The lanes of a mask have met.
  void lanes_met(unsigned first, unsigned mask) {
    if (!on) return;
    Known all = {};
    for (unsigned i = 0; i < warp_size; ++i) {
      if (!(mask >> i & 1)) continue;
      ++known[first + i].of_lane[i];
      for (unsigned k = 0; k < warp_size; ++k)
        all.of_lane[k] = std::max(all.of_lane[k], known[first + i].of_lane[k]);
    }
    for (unsigned i = 0; i < warp_size; ++i)
      if (mask >> i & 1) known[first + i] = all;
  }

  bool in_order(unsigned earlier, unsigned when, unsigned me) const {
    return earlier == me || (earlier / warp_size == me / warp_size && known[me].of_lane[earlier % warp_size] > when);
  }
  // A thread reads or writes a byte: another one that does it at the same time, plus one; 0 if there is none.
  unsigned seen(Byte& byte, unsigned me, bool writes) const {
    const unsigned lane = me % warp_size, warp = me / warp_size;
    if (byte.epoch != epoch) {
      byte.epoch = epoch;
      byte.writer = byte.elsewhere = byte.reads.lanes = 0;
    }
    if (byte.writer && !in_order(byte.writer - 1, byte.when, me)) return byte.writer;
    Reads& reads = byte.reads;
    if (writes) {
      for (unsigned i = 0; i < warp_size; ++i) {
        const unsigned reader = reads.warp * warp_size + i;
        if (reads.lanes >> i & 1 && !in_order(reader, reads.when[i], me)) return reader + 1;
      }
      if (byte.elsewhere) return byte.elsewhere;
      byte.writer = me + 1;
      byte.when = known[me].of_lane[lane];
      reads.lanes = 0;
    } else if (reads.lanes && reads.warp != warp) {
      byte.elsewhere = me + 1;
    } else {
      reads.warp = warp;
      reads.lanes |= 1u << lane;
      reads.when[lane] = known[me].of_lane[lane];
    }
    return 0;
  }
};

}  // namespace

void watched_access(const void* address, size_t size, bool writes);

}  // namespace cuda_on_cpu

#define CUDA_ON_CPU_HOOK(name, parameters, ...) \
  extern "C" __attribute__((visibility("default"))) void name parameters { __VA_ARGS__; }
#define CUDA_ON_CPU_ACCESSES(size)                                                                           \
  CUDA_ON_CPU_HOOK(__tsan_read##size, (void* at), cuda_on_cpu::watched_access(at, size, false))              \
  CUDA_ON_CPU_HOOK(__tsan_write##size, (void* at), cuda_on_cpu::watched_access(at, size, true))              \
  CUDA_ON_CPU_HOOK(__tsan_unaligned_read##size, (void* at), cuda_on_cpu::watched_access(at, size, false))    \
  CUDA_ON_CPU_HOOK(__tsan_unaligned_write##size, (void* at), cuda_on_cpu::watched_access(at, size, true))
CUDA_ON_CPU_ACCESSES(1)
CUDA_ON_CPU_ACCESSES(2)
CUDA_ON_CPU_ACCESSES(4)
CUDA_ON_CPU_ACCESSES(8)
CUDA_ON_CPU_ACCESSES(16)
CUDA_ON_CPU_HOOK(__tsan_read_range, (void* at, long size), cuda_on_cpu::watched_access(at, size, false))
CUDA_ON_CPU_HOOK(__tsan_write_range, (void* at, long size), cuda_on_cpu::watched_access(at, size, true))
CUDA_ON_CPU_HOOK(__tsan_vptr_update, (void**, void*), )
CUDA_ON_CPU_HOOK(__tsan_func_entry, (void*), )
CUDA_ON_CPU_HOOK(__tsan_func_exit, (), )
CUDA_ON_CPU_HOOK(__tsan_init, (), )
