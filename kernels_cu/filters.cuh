// What the neighbourhood filters compute per element, for GPU and host: which element a position
// beyond the border shows, selections on any type, sums of an element and a structure's value, and
// C's conversion of a double to each storage type.
//
// Needs SEMICONV_STORAGE. Included by host/mapped.hpp and cuda/neighbourhood.cu, cuda/border.cu,
// cuda/packed_words.cuh.
#pragma once
#include "functions.cuh"

namespace semiconv {

// The element that a place of an axis shows, -1 for the constant. Places count from the first of
// `size` elements; `beyond` has an entry for each of the `before` places ahead of it, then for those
// behind the last element.
SEMICONV_FN int64 element_at(int64 size, int64 before, const int64* beyond, int64 place) {
  if (place >= 0 && place < size) return place;
  return beyond[before + (place < 0 ? place : place - size)];
}


// The better of two; `right` must be strictly better, so that a NaN there never wins.
template <bool MINIMUM, class V> SEMICONV_FN V better(V left, V right) {
  if constexpr (MINIMUM) return select_less(left, right);
  else return select_greater(left, right);
}
// What never wins against anything.
template <bool MINIMUM, class T> SEMICONV_FN T worst() {
  return MINIMUM ? Extreme<T>::highest() : Extreme<T>::lowest();
}

// The type of exact sums. 8 to 32 bits: twice as many; 64 bits: saturating steps.
template <class T> struct SumOf { using type = T; };
template <> struct SumOf<int8> { using type = int16; };
template <> struct SumOf<uint8> { using type = int16; };
template <> struct SumOf<int16> { using type = int32; };
template <> struct SumOf<uint16> { using type = int32; };
template <> struct SumOf<int32> { using type = int64; };
template <> struct SumOf<uint32> { using type = int64; };

// element + value where both have 64 bits and value a sign: beyond the range is its nearer end.
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

// C's conversion of a double on x86, written out: towards zero, then modulo the type's range; what
// no 32-bit (64-bit for the longer types) integer holds becomes that type's lowest.
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
// A double rounded to odd: towards zero, then with the last bit set where that lost anything. What
// has two bits less, as the halves, is rounded from it as from the double itself.
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
