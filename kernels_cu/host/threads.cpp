// The threads of the process: one pool for all host libraries. Exports semiconv_run_on_threads,
// which semiconv_cupy/backends/host/functions.py hands to each of them.
//
// Threads sleep between calls. A call wakes them and works itself meanwhile; at its end it waits only for
// threads that have begun to work. So a core that another program uses, or that another library's threads
// spin on, costs the call no more than the help of one thread. One call has the pool at a time; a call from
// another thread works alone. A forked child starts a pool of its own.
#include "os_threads.hpp"
#include "platform.hpp"

using namespace semiconv;

namespace {

inline void pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

class Pool {
  static constexpr int pauses = 2000;  // tens of microseconds of spinning: the next call may follow soon
  Mutex mutex;
  Condition wake, done;
  int started = 0, asleep = 0;
  int places = 0, working = 0;  // threads that may still join, and that have; read without the mutex
  bool busy = false;
  void (*work)(void*) = nullptr;
  void* context = nullptr;

  static int now(const int& count) { return __atomic_load_n(&count, __ATOMIC_RELAXED); }
  static void add(int& count, int value) { __atomic_fetch_add(&count, value, __ATOMIC_RELAXED); }

  void help() {
    mutex.lock();
    for (;;) {
      while (places == 0) {
        mutex.unlock();
        for (int n = 0; n < pauses && now(places) == 0; ++n) pause();
        mutex.lock();
        ++asleep;
        while (places == 0) wake.wait(mutex);
        --asleep;
      }
      add(places, -1);
      add(working, 1);
      mutex.unlock();
      work(context);
      mutex.lock();
      add(working, -1);
      if (working == 0) done.wake_one();
    }
  }
  static void begin(void* pool) { ((Pool*)pool)->help(); }

 public:
  // Not the C++ runtime's, which a library need not have.
  static void* operator new(size_t size) noexcept { return malloc(size); }
  void run(void (*work_)(void*), void* context_, int threads) {
    mutex.lock();
    if (busy) {
      mutex.unlock();
      work_(context_);
      return;
    }
    busy = true;
    work = work_;
    context = context_;
    while (started < threads - 1 && start_thread<begin>(this)) ++started;
    add(places, threads - 1);
    for (int n = 0; n < asleep && n < threads - 1; ++n) wake.wake_one();
    mutex.unlock();
    work_(context_);
    for (int n = 0; n < pauses && now(working); ++n) pause();
    mutex.lock();
    add(places, -places);
    while (working) done.wait(mutex);
    busy = false;
    mutex.unlock();
  }
};

Pool* pool = nullptr;
// Never destroyed: at the end of the process threads still sleep in it. A forked child has a new pool, as
// it has none of its parent's threads.
void renew() { pool = new Pool; }

}  // namespace

SEMICONV_EXPORT void semiconv_run_on_threads(void (*work)(void*), void* context, int threads) {
  once_in_each_process<renew>();
  if (pool) pool->run(work, context, threads);
  else work(context);
}
