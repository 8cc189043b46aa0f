// The threads of the process: one pool for all host libraries. Exports semiconv_run_on_threads,
// which semiconv_cupy/backends/host/functions.py hands to each of them.
//
// Threads sleep between calls. A call wakes them and works itself meanwhile; at its end it waits only for
// threads that have begun to work. So a core that another program uses, or that another library's threads
// spin on, costs the call no more than the help of one thread. One call has the pool at a time; a call from
// another thread works alone. A forked child starts a pool of its own.
#include <pthread.h>

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
  pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
  pthread_cond_t wake = PTHREAD_COND_INITIALIZER, done = PTHREAD_COND_INITIALIZER;
  int started = 0, asleep = 0;
  int places = 0, working = 0;  // threads that may still join, and that have; read without the mutex
  bool busy = false;
  void (*work)(void*) = nullptr;
  void* context = nullptr;

  static int now(const int& count) { return __atomic_load_n(&count, __ATOMIC_RELAXED); }
  static void add(int& count, int value) { __atomic_fetch_add(&count, value, __ATOMIC_RELAXED); }

  void help() {
    pthread_mutex_lock(&mutex);
    for (;;) {
      while (places == 0) {
        pthread_mutex_unlock(&mutex);
        for (int n = 0; n < pauses && now(places) == 0; ++n) pause();
        pthread_mutex_lock(&mutex);
        ++asleep;
        while (places == 0) pthread_cond_wait(&wake, &mutex);
        --asleep;
      }
      add(places, -1);
      add(working, 1);
      pthread_mutex_unlock(&mutex);
      work(context);
      pthread_mutex_lock(&mutex);
      add(working, -1);
      if (working == 0) pthread_cond_signal(&done);
    }
  }
  static void* begin(void* pool) {
    ((Pool*)pool)->help();
    return nullptr;
  }
  bool start() {
    pthread_t thread;
    if (pthread_create(&thread, nullptr, begin, this)) return false;
    pthread_detach(thread);
    return true;
  }

 public:
  void run(void (*work_)(void*), void* context_, int threads) {
    pthread_mutex_lock(&mutex);
    if (busy) {
      pthread_mutex_unlock(&mutex);
      work_(context_);
      return;
    }
    busy = true;
    work = work_;
    context = context_;
    while (started < threads - 1 && start()) ++started;
    add(places, threads - 1);
    for (int n = 0; n < asleep && n < threads - 1; ++n) pthread_cond_signal(&wake);
    pthread_mutex_unlock(&mutex);
    work_(context_);
    for (int n = 0; n < pauses && now(working); ++n) pause();
    pthread_mutex_lock(&mutex);
    add(places, -places);
    while (working) pthread_cond_wait(&done, &mutex);
    busy = false;
    pthread_mutex_unlock(&mutex);
  }
};

Pool* pool = nullptr;
pthread_once_t once = PTHREAD_ONCE_INIT;
// Never destroyed: at the end of the process threads still sleep in it. A forked child has a new pool, as
// it has none of its parent's threads.
void renew() { pool = new Pool; }
void begin() {
  renew();
  pthread_atfork(nullptr, nullptr, renew);
}

}  // namespace

extern "C" __attribute__((visibility("default"))) void semiconv_run_on_threads(
    void (*work)(void*), void* context, int threads) {
  pthread_once(&once, begin);
  pool->run(work, context, threads);
}
