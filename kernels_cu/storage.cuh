// What memory holds, and its conversion to and from the numbers of arithmetic.
//
// Needs (from the launcher): SEMICONV_STORAGE, one of the names of types here and in integers.cuh.
// Defines Storage (what memory holds), Real (what arithmetic uses), load and store between them;
// IEEE half and bfloat16 without any library header.
#pragma once
#include "integers.cuh"

namespace semiconv {

struct float16 {
  unsigned short bits;
};
struct bfloat16 {
  unsigned short bits;
};
using float32 = float;
using float64 = double;
struct boolean {
  unsigned char bits;
};

// Real: the type of arithmetic on a storage type, of the same width where that is possible.
template <class S> struct RealOf { using type = S; };
template <> struct RealOf<float16> { using type = float; };
template <> struct RealOf<bfloat16> { using type = float; };
template <> struct RealOf<boolean> { using type = unsigned char; };

using Storage = SEMICONV_STORAGE;
using Real = RealOf<Storage>::type;

template <class T> SEMICONV_FN T load(T stored) { return stored; }
SEMICONV_FN unsigned char load(boolean stored) { return stored.bits != 0; }
SEMICONV_FN float load(bfloat16 stored) { return bit_cast<float>((uint32)stored.bits << 16); }
SEMICONV_FN float load(float16 stored) {
#if defined(SEMICONV_GPU)
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(stored.bits));
  return value;
#else
  // Shift the half's exponent and mantissa into a float's place; a multiplication by 2^112
  // corrects the exponent bias and normalises subnormals; infinities and NaN get the full exponent.
  const uint32 magnitude = (uint32)(stored.bits & 0x7fff) << 13;
  uint32 bits = bit_cast<uint32>(bit_cast<float>(magnitude) * bit_cast<float>(0x77800000u));
  bits |= magnitude >= 0x0f800000u ? 0x7f800000u : 0u;
  return bit_cast<float>(bits | (uint32)(stored.bits & 0x8000) << 16);
#endif
}

template <class S> struct Store {
  template <class T> static SEMICONV_FN S from(T value) { return value; }
};
template <> struct Store<boolean> {
  static SEMICONV_FN boolean from(unsigned char value) { return boolean{(unsigned char)(value != 0)}; }
};
template <> struct Store<bfloat16> {
  static SEMICONV_FN bfloat16 from(float value) {
    const uint32 bits = bit_cast<uint32>(value);
    const uint32 rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
    return bfloat16{(unsigned short)(nan ? (bits >> 16) | 0x40u : rounded)};
  }
};
template <> struct Store<float16> {
  static SEMICONV_FN float16 from(float value) {
#if defined(SEMICONV_GPU)
    float16 stored;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(stored.bits) : "f"(value));
    return stored;
#else
    const uint32 bits = bit_cast<uint32>(value);
    const uint32 sign = (bits >> 16) & 0x8000u;
    const uint32 magnitude = bits & 0x7fffffffu;
    // Subnormal halves: adding 0.5 lets the float unit round to the half's last place.
    const uint32 small =
        bit_cast<uint32>(bit_cast<float>(magnitude) + 0.5f) - 0x3f000000u;
    // Normal halves: rebias the exponent, round to nearest even on the 13 bits that go.
    const uint32 normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
    const uint32 large = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
    const uint32 half = magnitude < 0x38800000u ? small : magnitude < 0x47800000u ? normal : large;
    return float16{(unsigned short)(sign | half)};
#endif
  }
};
template <class T> SEMICONV_FN Storage store(T value) { return Store<Storage>::from(value); }

}  // namespace semiconv
