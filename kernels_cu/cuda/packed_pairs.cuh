// Packed<V>: short numbers in a register, one or two of them, to be added and compared.
//
//   V                 a register holds                          computed on where
//   Real              one number                                nothing below serves
//   WideInteger       an integer of 8 or 16 bits in 32          a GPU has no instruction on pairs
//   PairOfIntegers    two integers of 8 bits in 16 bits each    sm_90
//   PairOfHalves<S>   two float16 or two bfloat16               sm_80, sm_90
//
// A sum of two short integers never leaves the range of the wider ones. Included by cuda/numbers.cuh.
#pragma once
#include "../functions.cuh"

namespace semiconv {

// Number: what a lane of V holds; count: lanes of V; pack(a, b) and number(value, lane): in and out.
template <class V> struct Packed {
  using Number = V;
  static constexpr int count = 1;
  static SEMICONV_FN V from(Storage stored) { return (V)load(stored); }
  static SEMICONV_FN V pack(V a, V) { return a; }
  static SEMICONV_FN V number(V value, int) { return value; }
};

struct WideInteger {
  int32 number;
};
template <> struct Packed<WideInteger> {
  using Number = int32;
  static constexpr int count = 1;
  static SEMICONV_FN int32 from(Storage stored) { return (int32)load(stored); }
  static SEMICONV_FN WideInteger pack(int32 a, int32) { return {a}; }
  static SEMICONV_FN int32 number(WideInteger value, int) { return value.number; }
};
SEMICONV_FN WideInteger operator+(WideInteger a, WideInteger b) { return {a.number + b.number}; }
SEMICONV_FN bool operator<(WideInteger a, WideInteger b) { return a.number < b.number; }
SEMICONV_FN bool operator>(WideInteger a, WideInteger b) { return a.number > b.number; }

struct PairOfIntegers {
  uint32 bits;
};
template <> struct Packed<PairOfIntegers> {
  using Number = int32;
  static constexpr int count = 2;
  static SEMICONV_FN int32 from(Storage stored) { return (int32)load(stored); }
  static SEMICONV_FN PairOfIntegers pack(int32 a, int32 b) { return {((uint32)a & 0xffff) | (uint32)b << 16}; }
  static SEMICONV_FN int32 number(PairOfIntegers value, int lane) { return (short)(value.bits >> 16 * lane); }
};

// A sum of two halves rounds once, to nearest even. By way of float it is the same number, since float has
// more than twice their digits (Figueroa, When is double rounding innocuous?, 1995). The extremum of rounded
// numbers is the rounded extremum. The extremum of a number and NaN is the number.
template <class S> struct PairOfHalves {
  uint32 bits;
};
template <class S> struct Packed<PairOfHalves<S>> {
  using Number = S;
  static constexpr int count = 2;
  static SEMICONV_FN S from(S stored) { return stored; }
  static SEMICONV_FN PairOfHalves<S> pack(S a, S b) {
    const uint32 low = a.bits, high = b.bits;
#if defined(SEMICONV_GPU)  // as assembly: a compiler that sees 16-bit registers packs them again at each use
    PairOfHalves<S> both;
    asm("prmt.b32 %0, %1, %2, 0x5410;" : "=r"(both.bits) : "r"(low), "r"(high));
    return both;
#else
    return {low | high << 16};
#endif
  }
  static SEMICONV_FN S number(PairOfHalves<S> value, int lane) {
    return {(unsigned short)(value.bits >> 16 * lane)};
  }
};

// Whether this GPU adds and compares two numbers of a storage type in one instruction.
template <class S> struct ComputedInPairs { static constexpr bool value = false; };
template <> struct ComputedInPairs<uint8> { static constexpr bool value = architecture >= 900; };
template <> struct ComputedInPairs<int8> { static constexpr bool value = architecture >= 900; };
template <> struct ComputedInPairs<float16> { static constexpr bool value = architecture >= 800; };
template <> struct ComputedInPairs<bfloat16> { static constexpr bool value = architecture >= 900; };

// Defines name(T, T) as one instruction; on the CPU as `scalar`, an expression in a and b, of each lane.
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
      const auto a = load(Packed<T>::number(first, lane));    \
      const auto b = load(Packed<T>::number(second, lane));   \
      return Store<Packed<T>::Number>::from(scalar);          \
    };                                                       \
    return Packed<T>::pack(of_lane(0), of_lane(1));             \
  }
#endif
#if !defined(SEMICONV_GPU) || __CUDA_ARCH__ >= 900
SEMICONV_PAIRS(operator+, PairOfIntegers, "add.s16x2", a + b)
template <> SEMICONV_PAIRS(select_greater, PairOfIntegers, "max.s16x2", select_greater(a, b))
template <> SEMICONV_PAIRS(select_less, PairOfIntegers, "min.s16x2", select_less(a, b))
SEMICONV_PAIRS(operator+, PairOfHalves<bfloat16>, "add.rn.bf16x2", a + b)
template <> SEMICONV_PAIRS(select_greater, PairOfHalves<bfloat16>, "max.bf16x2", select_greater(a, b))
template <> SEMICONV_PAIRS(select_less, PairOfHalves<bfloat16>, "min.bf16x2", select_less(a, b))
#endif
#if !defined(SEMICONV_GPU) || __CUDA_ARCH__ >= 800
SEMICONV_PAIRS(operator+, PairOfHalves<float16>, "add.rn.f16x2", a + b)
template <> SEMICONV_PAIRS(select_greater, PairOfHalves<float16>, "max.f16x2", select_greater(a, b))
template <> SEMICONV_PAIRS(select_less, PairOfHalves<float16>, "min.f16x2", select_less(a, b))
#endif
#undef SEMICONV_PAIRS

}  // namespace semiconv
