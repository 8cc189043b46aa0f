// Short numbers in registers, to be added and compared: integers in wider ones, whose range no sum
// leaves, one or two to a register, and float16 or bfloat16 in pairs.
//
// Lanes<V> packs numbers into a value type V and takes them out; a plain number is its own lane.
#pragma once
#include "../functions.cuh"

namespace semiconv {

template <class V> struct Lanes {
  using Number = V;
  static constexpr int count = 1;
  static SEMICONV_FN V from(Storage stored) { return (V)load(stored); }
  static SEMICONV_FN V of(V a, V) { return a; }
  static SEMICONV_FN V number(V value, int) { return value; }
};

struct Word {
  int32 number;
};
template <> struct Lanes<Word> {
  using Number = int32;
  static constexpr int count = 1;
  static SEMICONV_FN int32 from(Storage stored) { return (int32)load(stored); }
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
  static SEMICONV_FN int32 from(Storage stored) { return (int32)load(stored); }
  static SEMICONV_FN Pair of(int32 a, int32 b) { return {((uint32)a & 0xffff) | (uint32)b << 16}; }
  static SEMICONV_FN int32 number(Pair value, int lane) { return (short)(value.bits >> 16 * lane); }
};

// Two halves. Their sum rounds once, to nearest even, as it does by way of float, which has more than
// twice their digits (Figueroa, When is double rounding innocuous?, 1995), and the extremum of rounded
// numbers is the rounded extremum. Of a number and NaN, the number is the extremum.
template <class S> struct Halves {
  uint32 bits;
};
template <class S> struct Lanes<Halves<S>> {
  using Number = S;
  static constexpr int count = 2;
  static SEMICONV_FN S from(S stored) { return stored; }
  static SEMICONV_FN Halves<S> of(S a, S b) {
    const uint32 low = a.bits, high = b.bits;
#if defined(SEMICONV_GPU)  // by name: a compiler that sees 16-bit registers packs them at each use anew
    Halves<S> both;
    asm("prmt.b32 %0, %1, %2, 0x5410;" : "=r"(both.bits) : "r"(low), "r"(high));
    return both;
#else
    return {low | high << 16};
#endif
  }
  static SEMICONV_FN S number(Halves<S> value, int lane) {
    return {(unsigned short)(value.bits >> 16 * lane)};
  }
};

// Which storages are computed on in pairs, where sums alone are wanted and their extrema.
#if defined(SEMICONV_GPU)
constexpr int architecture = __CUDA_ARCH__;
#else
constexpr int architecture = 900;
#endif
template <class S> struct InPairs { static constexpr bool value = false; };
template <> struct InPairs<uint8> { static constexpr bool value = architecture >= 900; };
template <> struct InPairs<int8> { static constexpr bool value = architecture >= 900; };
template <> struct InPairs<float16> { static constexpr bool value = architecture >= 800; };
template <> struct InPairs<bfloat16> { static constexpr bool value = architecture >= 900; };

// name(T, T) by one instruction; elsewhere lane by lane, `scalar` of the numbers a and b.
#if defined(SEMICONV_GPU)
#define SEMICONV_PAIRS(name, T, instruction, scalar)                                \
  SEMICONV_FN T name(T a, T b) {                                                    \
    T result;                                                                       \
    asm(instruction " %0, %1, %2;" : "=r"(result.bits) : "r"(a.bits), "r"(b.bits)); \
    return result;                                                                  \
  }
#else
#define SEMICONV_PAIRS(name, T, instruction, scalar)         \
  SEMICONV_FN T name(T first, T second) {                    \
    const auto of_lane = [&](int lane) {                     \
      const auto a = load(Lanes<T>::number(first, lane));    \
      const auto b = load(Lanes<T>::number(second, lane));   \
      return Store<Lanes<T>::Number>::from(scalar);          \
    };                                                       \
    return Lanes<T>::of(of_lane(0), of_lane(1));             \
  }
#endif
#if !defined(SEMICONV_GPU) || __CUDA_ARCH__ >= 900
SEMICONV_PAIRS(operator+, Pair, "add.s16x2", a + b)
template <> SEMICONV_PAIRS(select_greater, Pair, "max.s16x2", select_greater(a, b))
template <> SEMICONV_PAIRS(select_less, Pair, "min.s16x2", select_less(a, b))
SEMICONV_PAIRS(operator+, Halves<bfloat16>, "add.rn.bf16x2", a + b)
template <> SEMICONV_PAIRS(select_greater, Halves<bfloat16>, "max.bf16x2", select_greater(a, b))
template <> SEMICONV_PAIRS(select_less, Halves<bfloat16>, "min.bf16x2", select_less(a, b))
#endif
#if !defined(SEMICONV_GPU) || __CUDA_ARCH__ >= 800
SEMICONV_PAIRS(operator+, Halves<float16>, "add.rn.f16x2", a + b)
template <> SEMICONV_PAIRS(select_greater, Halves<float16>, "max.f16x2", select_greater(a, b))
template <> SEMICONV_PAIRS(select_less, Halves<float16>, "min.f16x2", select_less(a, b))
#endif
#undef SEMICONV_PAIRS

}  // namespace semiconv
