// What the neighbourhood filters compute for each element, on GPU and host: the element that a position
// beyond the border shows, selections of any type, sums of an element and a structure's value, and
// C's conversion of a double to each storage type.
//
// Needs SEMICONV_STORAGE. Included by host/structs.hpp and cuda/.
#pragma once
#include "functions.cuh"

namespace semiconv {

// The element that a position of an axis shows, -1 for the constant. Positions count from the first of
// `size` elements; `beyond` has an entry for each of the `before` positions ahead of it, then for those
// behind the last element.
SEMICONV_FN int64 element_at(int64 size, int64 before, const int64* beyond, int64 place) {
  if (place >= 0 && place < size) return place;
  return beyond[before + (place < 0 ? place : place - size)];
}
// The same in a row of which neighbouring positions are `unit` elements apart: `size`, `place` and the result
// count elements, `before` and the table positions. What a window sees beyond the border has 31 bits.
SEMICONV_FN int64 element_in_row(int64 size, int64 before, const int64* beyond, int32 unit, int64 place) {
  if (place >= 0 && place < size) return place;
  const int32 past = (int32)(place < 0 ? place : place - size);
  const int32 position = past < 0 ? ~(~past / unit) : past / unit;  // rounded down
  const int64 shown = beyond[before + position];
  return shown < 0 ? shown : shown * unit + (past - position * unit);
}

// The better of two: `right` if it is strictly better, so that a NaN there never wins.
template <bool MINIMUM, class V> SEMICONV_FN V better(V left, V right) {
  if constexpr (MINIMUM) return select_less(left, right);
  else return select_greater(left, right);
}
// The value that wins against no other.
template <bool MINIMUM, class T> SEMICONV_FN T worst() {
  return MINIMUM ? Extreme<T>::highest() : Extreme<T>::lowest();
}

// The type in which sums are exact: twice the bits of integers of 8 to 32 bits. (Sums of 64 bits saturate.)
template <class T> struct SumOf { using type = T; };
template <> struct SumOf<int8> { using type = int16; };
template <> struct SumOf<uint8> { using type = int16; };
template <> struct SumOf<int16> { using type = int32; };
template <> struct SumOf<uint16> { using type = int32; };
template <> struct SumOf<int32> { using type = int64; };
template <> struct SumOf<uint32> { using type = int64; };

// element + value of 64 bits, value being signed; a sum beyond the range becomes its nearer end.
template <class T> SEMICONV_FN T saturating_sum(T element, int64 value) {
  const T sum = (T)((uint64)element + (uint64)value);
  if (value >= 0) return sum < element ? Limits<T>::highest : sum;
  return sum > element ? Limits<T>::lowest : sum;
}

// A sum as a stored number: towards zero, then to the nearer end of the range.
template <class W, class S = Storage, class R = Real> SEMICONV_FN S stored_sum(W sum) {
  if constexpr (!Limits<R>::integer) {
    return store((R)sum);
  } else {
    constexpr R low = Limits<R>::lowest, high = Limits<R>::highest;
    if constexpr (!Limits<W>::integer) {
      if (!(sum > (W)low)) return S(low);
      if (sum >= (W)high) return S(high);
    } else if constexpr (sizeof(W) > sizeof(R)) {
      if (sum < (W)low) return S(low);
      if (sum > (W)high) return S(high);
    }
    return S((R)sum);
  }
}

// C's conversion of a double as x86 does it: towards zero into an integer of 32 bits (of 64 for longer
// types), which becomes its lowest number if it cannot hold the value; then modulo the type's range.
template <class S> struct Converted {
  static SEMICONV_FN S from(double sum) {
    if constexpr (!Limits<S>::integer) {
      return (S)sum;
    } else if constexpr (Limits<S>::lowest == 0) {
      return sum > -1 ? magnitude(sum) : (S)(0 - magnitude(-sum));
    } else {
      return magnitude(sum);
    }
  }
  static SEMICONV_FN S magnitude(double sum) {
    if constexpr (sizeof(S) < 4 || Same<S, int32>::value) {
      return (S)(sum > -2147483649.0 && sum < 2147483648.0 ? (int32)sum : Limits<int32>::lowest);
    } else {
      if (Same<S, uint64>::value && sum >= 9223372036854775808.0 && sum < 18446744073709551616.0)
        return (S)(uint64)sum;
      return (S)(sum >= -9223372036854775808.0 && sum < 9223372036854775808.0
                     ? (int64)sum
                     : Limits<int64>::lowest);
    }
  }
};
template <> struct Converted<boolean> {
  static SEMICONV_FN boolean from(double sum) { return boolean{(unsigned char)(sum >= 1 || sum <= -1)}; }
};
// A double rounded to odd: towards zero, then with the last bit set if that was inexact. Rounding the float
// to a half then gives the same as rounding the double (Boldo and Melquiond 2008).
SEMICONV_FN float rounded_to_odd(double value) {
  const double nearest = (float)value;
  uint32 bits = bit_cast<uint32>((float)value);
  if (nearest < value || nearest > value) {
    if (value < 0 ? nearest < value : nearest > value) --bits;
    bits |= 1;
  }
  return bit_cast<float>(bits);
}
template <> struct Converted<float16> {
  static SEMICONV_FN float16 from(double sum) { return Store<float16>::from(rounded_to_odd(sum)); }
};
template <> struct Converted<bfloat16> {
  static SEMICONV_FN bfloat16 from(double sum) { return Store<bfloat16>::from(rounded_to_odd(sum)); }
};

}  // namespace semiconv
