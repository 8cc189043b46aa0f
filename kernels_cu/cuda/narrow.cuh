// Short integers in wider ones, one or two to a register, whose sums never leave the range.
//
// Lanes<V> packs numbers into a value type V and takes them out; a plain number is its own lane.
#pragma once
#include "../portable.cuh"

namespace semiconv {

template <class V> struct Lanes {
  using Number = V;
  static constexpr int count = 1;
  static SEMICONV_FN V of(V a, V) { return a; }
  static SEMICONV_FN V number(V value, int) { return value; }
};

struct Word {
  int32 number;
};
template <> struct Lanes<Word> {
  using Number = int32;
  static constexpr int count = 1;
  static SEMICONV_FN Word of(int32 a, int32) { return {a}; }
  static SEMICONV_FN int32 number(Word value, int) { return value.number; }
};
SEMICONV_FN Word operator+(Word a, Word b) { return {a.number + b.number}; }
SEMICONV_FN bool operator<(Word a, Word b) { return a.number < b.number; }
SEMICONV_FN bool operator>(Word a, Word b) { return a.number > b.number; }

// Two of 16 bits, which sm_90 adds and compares in one instruction.
struct Pair {
  uint32 bits;
};
template <> struct Lanes<Pair> {
  using Number = int32;
  static constexpr int count = 2;
  static SEMICONV_FN Pair of(int32 a, int32 b) { return {((uint32)a & 0xffff) | (uint32)b << 16}; }
  static SEMICONV_FN int32 number(Pair value, int lane) { return (short)(value.bits >> 16 * lane); }
};
#if defined(SEMICONV_GPU)
constexpr bool adds_pairs = __CUDA_ARCH__ >= 900;
#else
constexpr bool adds_pairs = true;
#endif
#if defined(SEMICONV_GPU) && __CUDA_ARCH__ >= 900
#define SEMICONV_OF_PAIRS(name, instruction, scalar)                                    \
  SEMICONV_FN Pair name(Pair a, Pair b) {                                               \
    Pair result;                                                                        \
    asm(instruction " %0, %1, %2;" : "=r"(result.bits) : "r"(a.bits), "r"(b.bits));     \
    return result;                                                                      \
  }
#else
#define SEMICONV_OF_PAIRS(name, instruction, scalar)                                    \
  SEMICONV_FN Pair name(Pair first, Pair second) {                                      \
    const auto of_lane = [&](int lane) {                                                \
      const int32 a = Lanes<Pair>::number(first, lane), b = Lanes<Pair>::number(second, lane); \
      return scalar;                                                                    \
    };                                                                                  \
    return Lanes<Pair>::of(of_lane(0), of_lane(1));                                     \
  }
#endif
SEMICONV_OF_PAIRS(operator+, "add.s16x2", a + b)
template <> SEMICONV_OF_PAIRS(select_greater, "max.s16x2", a < b ? b : a)
template <> SEMICONV_OF_PAIRS(select_less, "min.s16x2", b < a ? b : a)
#undef SEMICONV_OF_PAIRS

}  // namespace semiconv
