// Words of the flat filters: elements of 8 and 16 bits are compared four and two at a time.
//
// Needs SEMICONV_STORAGE, SEMICONV_MINIMUM (true or false). A word holds `per_word` elements as keys, which
// compare like the elements. The key of a floating-point number is itself: the better of a number and NaN is the
// number, and what is NaN at last becomes the value that wins against no other. Where a GPU does not compare halves
// in pairs, they become integers of the same order, and NaN the last of these.
// Included by cuda/flat.cu, cuda/small_box.cu and cuda/footprint.cu.
//
//   elements    in memory (Word)      while it is compared (Unpacked)        one instruction compares
//   >= 32 bits  one element           the same                               one
//   16 bits     b a                   the same                               two
//   8 bits      d c b a               even: c_ a_    odd: d_ b_              two (a byte in the upper half)
#pragma once
#include "../filters.cuh"
#include "../chunk.cuh"
#include "packed_pairs.cuh"

namespace semiconv {

// a / b of numbers of threads, which are so few that the rounding never reaches the next quotient.
SEMICONV_FN int32 quotient_of_few(int32 a, int32 b) { return (int32)__fdividef(a + 0.5f, (float)b); }

// Pairs (inner, outer), inner running fastest, shared out among the threads of a block (dealt = 1) or among
// its warps (dealt = 32).
struct Walk {
  int32 inner, outer;
  const int32 count, outer_step, inner_step;
  SEMICONV_FN explicit Walk(int32 inner_count, int32 dealt = 1)
      : outer(quotient_of_few(threadIdx.x / dealt, inner_count)), count(inner_count),
        outer_step(quotient_of_few(blockDim.x / dealt, inner_count)),
        inner_step((int32)blockDim.x / dealt - outer_step * count) {
    inner = (int32)threadIdx.x / dealt - outer * count;
  }
  SEMICONV_FN void next() {
    inner += inner_step;
    outer += outer_step;
    if (inner >= count) {
      inner -= count;
      ++outer;
    }
  }
};

constexpr bool smallest = SEMICONV_MINIMUM;
constexpr int per_word = sizeof(Storage) < 4 ? 4 / sizeof(Storage) : 1;
constexpr bool halves = Same<Storage, float16>::value || Same<Storage, bfloat16>::value;
constexpr bool has_sign = (Real)-1 < (Real)0;

SEMICONV_FN uint32 best_pair(uint32 a, uint32 b) {
  if (has_sign) return smallest ? __vmins2(a, b) : __vmaxs2(a, b);
  return smallest ? __vminu2(a, b) : __vmaxu2(a, b);
}
// Two elements of 16 bits. PAIRS: halves that this GPU compares as they are.
template <class S, bool PAIRS> struct TwoOf {
  // The infinities, and as keys numbers beyond which there is only NaN.
  static constexpr uint32 top = Same<S, float16>::value ? 0x7c007c00u : 0x7f807f80u;
  // Two halves as integers of the same order. The function is its own inverse.
  static SEMICONV_FN uint32 ordered(uint32 halves) {
    return halves ^ ((halves >> 15 & 0x00010001u) * 0x7fffu);
  }
  static SEMICONV_FN uint32 best(uint32 a, uint32 b) { return best_pair(a, b); }
  static SEMICONV_FN uint32 to_keys(uint32 stored) {
    if (!halves) return stored;
    const uint32 key = ordered(stored), bottom = ~top;
    const uint32 nan = __vcmpgts2(key, top) | __vcmplts2(key, bottom);
    return (key & ~nan) | ((smallest ? top : bottom) & nan);
  }
  static SEMICONV_FN uint32 from_keys(uint32 key) { return halves ? ordered(key) : key; }
};
template <class S> struct TwoOf<S, true> {
  static constexpr uint32 worst = TwoOf<S, false>::top | (smallest ? 0 : 0x80008000u);
  static SEMICONV_FN uint32 best(uint32 a, uint32 b) {
    return better<smallest>(PairOfHalves<S>{a}, PairOfHalves<S>{b}).bits;
  }
  static SEMICONV_FN uint32 to_keys(uint32 stored) { return stored; }
  static SEMICONV_FN uint32 from_keys(uint32 key) { return best(worst, key); }
};

// A word in memory, and how registers hold it while it is compared.
template <int COUNT> struct Words {
  using Word = Real;
  using Unpacked = Real;
  static SEMICONV_FN Unpacked unpack(Word word) { return word; }
  static SEMICONV_FN Word pack(Unpacked value) { return value; }
  static SEMICONV_FN Unpacked best(Unpacked a, Unpacked b) { return better<smallest>(a, b); }
  static SEMICONV_FN Word to_keys(Word stored) { return stored; }
  static SEMICONV_FN Word from_keys(Word key) { return better<smallest>(worst<smallest, Real>(), key); }
};
template <> struct Words<2> : TwoOf<Storage, halves && ComputedInPairs<Storage>::value> {
  using Word = uint32;
  using Unpacked = uint32;
  static SEMICONV_FN Unpacked unpack(Word word) { return word; }
  static SEMICONV_FN Word pack(Unpacked value) { return value; }
};
// Bytes are the upper halves of 16 bits. The lower halves decide only between equal bytes, and may be anything.
template <> struct Words<4> {
  using Word = uint32;
  struct Unpacked {
    uint32 even, odd;
  };
  static SEMICONV_FN Unpacked unpack(Word word) { return {word << 8, word}; }
  static SEMICONV_FN Word pack(Unpacked value) { return __byte_perm(value.even, value.odd, 0x7351); }
  static SEMICONV_FN Unpacked best(Unpacked a, Unpacked b) {
    return {best_pair(a.even, b.even), best_pair(a.odd, b.odd)};
  }
  static SEMICONV_FN Word to_keys(Word stored) { return stored; }
  static SEMICONV_FN Word from_keys(Word word) { return word; }
};
using Packing = Words<per_word>;
using Word = Packing::Word;
using Unpacked = Packing::Unpacked;

// The same word as elements.
struct alignas(sizeof(Word)) Elements {
  Storage of[per_word];
};

// ---- squares: `per_word` rows of four columns -----------------------------------------------------

// Four words, which are either rows (word w of row k is word[k * row_words + w]) or columns (one word each):
// a transposition within registers turns one into the other.
struct Square {
  Word word[4];
};
constexpr int row_words = 4 / per_word;
using RowPart = Chunk<Word, row_words>;

template <int COUNT> SEMICONV_FN Square columns_of(const Square& rows) {
  Square columns = rows;
  if constexpr (COUNT == 2) {
#pragma unroll
    for (int w = 0; w < 2; ++w) {
      columns.word[2 * w] = __byte_perm(rows.word[w], rows.word[w + 2], 0x5410);
      columns.word[2 * w + 1] = __byte_perm(rows.word[w], rows.word[w + 2], 0x7632);
    }
  } else if constexpr (COUNT == 4) {
    const uint32 upper_left = __byte_perm(rows.word[0], rows.word[1], 0x5140);
    const uint32 lower_left = __byte_perm(rows.word[2], rows.word[3], 0x5140);
    const uint32 upper_right = __byte_perm(rows.word[0], rows.word[1], 0x7362);
    const uint32 lower_right = __byte_perm(rows.word[2], rows.word[3], 0x7362);
    columns.word[0] = __byte_perm(upper_left, lower_left, 0x5410);
    columns.word[1] = __byte_perm(upper_left, lower_left, 0x7632);
    columns.word[2] = __byte_perm(upper_right, lower_right, 0x5410);
    columns.word[3] = __byte_perm(upper_right, lower_right, 0x7632);
  }
  return columns;
}
template <int COUNT>
SEMICONV_FN Square rows_of(const typename Words<COUNT>::Unpacked (&columns)[4]) {
  Square rows;
  if constexpr (COUNT == 4) {
    const auto put = [&](int row, uint32 a, uint32 b, uint32 c, uint32 d) {
      const uint32 left = __byte_perm(a, b, 0x7351), right = __byte_perm(c, d, 0x7351);
      rows.word[row] = __byte_perm(left, right, 0x5410);
      rows.word[row + 2] = __byte_perm(left, right, 0x7632);
    };
    put(0, columns[0].even, columns[1].even, columns[2].even, columns[3].even);
    put(1, columns[0].odd, columns[1].odd, columns[2].odd, columns[3].odd);
  } else if constexpr (COUNT == 2) {
#pragma unroll
    for (int w = 0; w < 2; ++w) {
      rows.word[w] = __byte_perm(columns[2 * w], columns[2 * w + 1], 0x5410);
      rows.word[w + 2] = __byte_perm(columns[2 * w], columns[2 * w + 1], 0x7632);
    }
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) rows.word[i] = columns[i];
  }
  return rows;
}

}  // namespace semiconv
