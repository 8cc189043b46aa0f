// Division by a number that the launcher knows.
#pragma once
#include "integers.cuh"

namespace semiconv {

// Of numbers below 2^31: n * multiplier / 2^(31 + shift)
// (Granlund and Montgomery, Division by invariant integers using multiplication, 1994).
struct Divisor {
  uint32 divisor, multiplier, shift;
  SEMICONV_FN uint32 quotient(uint32 n) const { return (uint32)(((uint64)n * multiplier) >> (31 + shift)); }
  // Divides n, returns the remainder.
  SEMICONV_FN uint32 take(uint32& n) const {
    const uint32 all = n;
    n = quotient(all);
    return all - n * divisor;
  }
};

}  // namespace semiconv
