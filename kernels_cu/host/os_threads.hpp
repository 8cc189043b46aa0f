// Threads, locks and waiting, by the functions of POSIX or of Windows, for threads.cpp.
#pragma once
#if defined(_WIN32)
#include <windows.h>
#else
#include <pthread.h>
#endif

namespace semiconv {

#if defined(_WIN32)

class Mutex {
  SRWLOCK lock_ = SRWLOCK_INIT;
  friend class Condition;

 public:
  void lock() { AcquireSRWLockExclusive(&lock_); }
  void unlock() { ReleaseSRWLockExclusive(&lock_); }
};

class Condition {
  CONDITION_VARIABLE condition = CONDITION_VARIABLE_INIT;

 public:
  void wait(Mutex& mutex) { SleepConditionVariableSRW(&condition, &mutex.lock_, INFINITE, 0); }
  void wake_one() { WakeConditionVariable(&condition); }
};

// A thread that nobody waits for; false where the system has none left.
template <void (*RUN)(void*)> bool start_thread(void* argument) {
  const HANDLE thread = CreateThread(
      nullptr, 0,
      [](void* given) -> DWORD {
        RUN(given);
        return 0;
      },
      argument, 0, nullptr);
  if (thread) CloseHandle(thread);
  return thread != nullptr;
}

// Calls `renew` before it returns for the first time. Windows forks no process.
template <void (*RENEW)()> void once_in_each_process() {
  static INIT_ONCE once = INIT_ONCE_STATIC_INIT;
  InitOnceExecuteOnce(
      &once,
      [](PINIT_ONCE, PVOID, PVOID*) -> BOOL {
        RENEW();
        return TRUE;
      },
      nullptr, nullptr);
}

#else

class Mutex {
  pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
  friend class Condition;

 public:
  void lock() { pthread_mutex_lock(&mutex); }
  void unlock() { pthread_mutex_unlock(&mutex); }
};

class Condition {
  pthread_cond_t condition = PTHREAD_COND_INITIALIZER;

 public:
  void wait(Mutex& mutex) { pthread_cond_wait(&condition, &mutex.mutex); }
  void wake_one() { pthread_cond_signal(&condition); }
};

// A thread that nobody waits for; false where the system has none left.
template <void (*RUN)(void*)> bool start_thread(void* argument) {
  pthread_t thread;
  const auto run = [](void* given) -> void* {
    RUN(given);
    return nullptr;
  };
  if (pthread_create(&thread, nullptr, run, argument)) return false;
  pthread_detach(thread);
  return true;
}

// Calls RENEW before it returns for the first time, and again in each forked child.
template <void (*RENEW)()> void once_in_each_process() {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, [] {
    RENEW();
    pthread_atfork(nullptr, nullptr, RENEW);
  });
}

#endif

}  // namespace semiconv
