// Work on several threads: items that are taken one after the other by whoever comes.
//
// The threads themselves belong to the process, not to a library: threads.cpp holds them, and
// backends/host.py hands its function to every library that it loads (exports.hpp).
#pragma once
#include "integers.cuh"

namespace semiconv {

// run(work, context, threads): work(context) on the caller and on at most threads - 1 others, those
// that come before it is done. Null, until told: the caller alone.
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

// work(items) on each thread, until all have been taken and are done.
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

// What several threads may set.
inline void set_flag(int& flag, int value) { __atomic_store_n(&flag, value, __ATOMIC_RELAXED); }

}  // namespace semiconv
