// Work on several threads: each takes the next item when it is done with the one before.
//
// The threads belong to the process, not to a library: threads.cpp holds them, and
// backends/host/functions.py hands its function to every library that it loads (exports.hpp).
#pragma once
#include "integers.cuh"

namespace semiconv {

// run(work, context, threads): work(context) on the caller's thread and on at most threads - 1 others,
// those that wake up before it is done. Null until semiconv_use_threads: the caller works alone.
using RunOnThreads = void (*)(void (*work)(void*), void* context, int threads);
static RunOnThreads run_on_threads = nullptr;

class Items {
  int64 next = 0;
  const int64 count;

 public:
  explicit Items(int64 count_) : count(count_) {}
  // Whether there was another item.
  bool take(int64& item) {
    item = __atomic_fetch_add(&next, 1, __ATOMIC_RELAXED);
    return item < count;
  }
};

// Call work(items) on up to `threads` threads; returns when all items are done.
template <class Work> inline void in_parallel(int64 count, int64 threads, const Work& work) {
  Items items(count);
  if (threads > count) threads = count;
  if (threads <= 1 || !run_on_threads) {
    work(items);
    return;
  }
  struct Call {
    const Work& work;
    Items& items;
  } call{work, items};
  run_on_threads([](void* context) { ((Call*)context)->work(((Call*)context)->items); }, &call,
                 (int)threads);
}

// Set a flag that several threads may set.
inline void set_flag(int& flag, int value) { __atomic_store_n(&flag, value, __ATOMIC_RELAXED); }

}  // namespace semiconv
