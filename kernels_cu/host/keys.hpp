// Keys: the numbers that flat filters compare in place of stored elements; NaN is never selected.
//
// Needs SEMICONV_STORAGE (and SEMICONV_INTEGER for integers and bool). A key is the element itself, but
// for halves: an extremum needs no arithmetic, and the bits of a half become an int16 of the same order
// if the lower 15 of a negative number are flipped. clean_key() turns NaN into the value that never wins.
//   raw: as stored      key: after clean_key(), until stored_key() turns it back
#pragma once
#include "mapped.hpp"

namespace semiconv {

template <class S> struct KeyOf { using type = S; };
template <> struct KeyOf<float16> { using type = int16; };
template <> struct KeyOf<bfloat16> { using type = int16; };
template <> struct KeyOf<boolean> { using type = uint8; };
using Key = KeyOf<Storage>::type;
using Keys = VectorOf<Key>;
constexpr int key_lanes = lanes_of<Key>;
constexpr bool halves = Same<Storage, float16>::value || Same<Storage, bfloat16>::value;
// Infinity as the key of a half; larger keys are NaN, and so are those below -infinity.
constexpr int16 half_infinity = Same<Storage, float16>::value ? 0x7c00 : 0x7f80;

template <bool MINIMUM> SEMICONV_FN Key worst_key() {
  if constexpr (halves) return MINIMUM ? half_infinity : (int16)(-half_infinity - 1);
  else if constexpr (Same<Storage, boolean>::value) return MINIMUM ? 1 : 0;
  else return worst<MINIMUM, Key>();
}
template <class V, bool MINIMUM> SEMICONV_FN V spread_worst() {
  return (V)(V{} + worst_key<MINIMUM>());
}
// The key of a stored element; of NaN, the worst key.
template <bool MINIMUM, class V> SEMICONV_FN V clean_key(V stored) {
  const V none = spread_worst<V, MINIMUM>();
  if constexpr (halves) {
    const V key = (V)(stored ^ ((stored >> 15) & (V)(V{} + (int16)0x7fff)));
    const V top = (V)(V{} + half_infinity), bottom = (V)(V{} + (int16)(-half_infinity - 1));
    return (key > top) | (key < bottom) ? none : key;
  } else if constexpr (Limits<Key>::integer) {
    return stored;
  } else {
    return better<MINIMUM>(none, stored);
  }
}
SEMICONV_FN Key clean_key(bool minimum, Key stored) {
  return minimum ? clean_key<true>(stored) : clean_key<false>(stored);
}
template <class V> SEMICONV_FN V stored_key(V key) {
  if constexpr (halves) return (V)(key ^ ((key >> 15) & (V)(V{} + (int16)0x7fff)));
  else return key;
}
SEMICONV_FN Key bits_of(Storage value) { return bit_cast<Key>(value); }

}  // namespace semiconv
