// The limits of this CPU, on all its threads: copies, and chains of a semifield's arithmetic.
// Each function returns the amount of work, so that the compiler cannot leave any of it out.
#include <cstdint>
#include <cstring>

#define EXPORT extern "C" __attribute__((visibility("default")))
#if defined(__AVX512F__)
constexpr int vector_bytes = 64;
#elif defined(__AVX2__)
constexpr int vector_bytes = 32;
#else
constexpr int vector_bytes = 16;
#endif
constexpr int chains = 10;  // enough to hide the latency, and few enough to leave registers for the constants

template <class T> struct Lanes {
  typedef T Vector __attribute__((vector_size(vector_bytes)));
};

struct PlusMax {
  template <class V> static V step(V acc, V y, V z) {
    acc = acc + y;
    return acc > z ? acc : z;
  }
};
struct TimesPlus {
  template <class V> static V step(V acc, V y, V z) { return acc * y + z; }
};

// Returns the number of terms: rounds * chains * lanes on each thread.
template <class Step, class T> double run(long rounds) {
  using V = typename Lanes<T>::Vector;
  double done = 0, kept = 0;
#pragma omp parallel reduction(+ : done, kept)
  {
    V acc[chains], y = V{} + T(rounds % 3), z = V{} + T(rounds % 5);
    for (int c = 0; c < chains; ++c) acc[c] = V{} + T(c);
    for (long n = 0; n < rounds; ++n) {
#pragma GCC unroll 16
      for (int c = 0; c < chains; ++c) acc[c] = Step::step(acc[c], y, z);
      asm volatile("" : "+r"(n));  // keeps the compiler from merging rounds
    }
    for (int c = 0; c < chains; ++c) kept += double(acc[c][0]);
    done += double(rounds) * chains * (vector_bytes / sizeof(T));
  }
  return kept == 0.5 ? 0 : done;
}

EXPORT double pairs_float32(long rounds) { return run<PlusMax, float>(rounds); }
EXPORT double pairs_float64(long rounds) { return run<PlusMax, double>(rounds); }
EXPORT double pairs_uint8(long rounds) { return run<PlusMax, uint8_t>(rounds); }
EXPORT double pairs_int16(long rounds) { return run<PlusMax, int16_t>(rounds); }
EXPORT double pairs_int32(long rounds) { return run<PlusMax, int32_t>(rounds); }
EXPORT double products_float32(long rounds) { return run<TimesPlus, float>(rounds); }
EXPORT double products_float64(long rounds) { return run<TimesPlus, double>(rounds); }

// Copies, and returns the number of bytes read and written.
EXPORT double copy(char* target, const char* source, long bytes) {
  constexpr long part = 1 << 16;
#pragma omp parallel for schedule(static)
  for (long begin = 0; begin < bytes; begin += part)
    std::memcpy(target + begin, source + begin, begin + part < bytes ? part : bytes - begin);
  return 2.0 * bytes;
}
