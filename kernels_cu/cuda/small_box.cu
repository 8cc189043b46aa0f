// Minima and maxima over small windows along the last two axes, without shared memory.
//
// Needs SEMICONV_STORAGE, SEMICONV_KERNEL (the function's name), SEMICONV_MINIMUM (true or false), the window's size
// SEMICONV_DOWN (rows) and SEMICONV_ACROSS (columns), SEMICONV_BEFORE, the columns of it before an output, and
// SEMICONV_ROWS and SEMICONV_WORDS, the rows of a strip and its words in each.
//
// A thread finds a strip, up to 16 bytes of a few rows. It asks for all that the strip's windows see before it
// waits for any of it (of long windows for half), so that much is under way; what it sees beside the strip its
// neighbours load, too, and the cache has it:
//
//     row y - 1     [ . | . . . . | . ]     left, words, right
//     row y         [ . |  strip  | . ]
//     row y + 1     [ . |  strip  | . ]
//     row y + 2     [ . | . . . . | . ]
//
// Windows grow along rows, then down columns, by joining two that overlap: of 1, 2, 4 and at last 5 elements. Of
// neighbouring outputs, what both windows see is found once.
// Rows are whole strips, aligned. What lies beyond the border is put in afterwards, element by element, by the few
// threads that see it.
#include "packed_words.cuh"

namespace semiconv {

// Twin of semiconv_cupy/ndimage/structs.py. `before`: rows of the window before an output; `strips`: below each
// other, those of a plane being `of_column`.
struct Strips {
  int64 width;
  int32 height, before, strips, of_column;
};

constexpr int down = SEMICONV_DOWN, wide = SEMICONV_ACROSS, outputs = SEMICONV_ROWS;
constexpr int before = SEMICONV_BEFORE, after = wide - 1 - before;
constexpr int lines = outputs + down - 1;  // rows that the windows see
constexpr int words = SEMICONV_WORDS, columns = words * per_word;
// Blocks that a multiprocessor holds at a time: registers suffice for so many. Older GPUs compare two bytes at a time.
constexpr bool wide_bytes = wide > 3 && per_word == 4 && (architecture < 900 || lines > 4);
constexpr int resident_blocks = lines > 10 || (lines > 6 && wide_bytes && architecture < 900) ? 2
                                : lines > 6 || (wide_bytes && architecture < 900) ? 3
                                : wide_bytes ? 4
                                : wide > 3 && lines > 4 && per_word == 1 ? 4
                                : per_word == 4 && architecture < 900 ? 4
                                : lines <= 4 && architecture >= 900 ? (wide > 3 ? 6 : 8)
                                : per_word > 1 || sizeof(Word) == 8 ? 5 : 6;

// Words beside the strip that hold so many elements, which loads move that are as wide as the strip's, or less.
constexpr int words_beside(int elements) {
  int count = (elements + per_word - 1) / per_word, moved = 1;
  while (moved < count) moved *= 2;
  return count ? moved : 0;
}
constexpr int left = words_beside(before), right = words_beside(after), seen = left + words + right;

// While they are compared, bytes lie in two planes: the even ones, and the odd ones.
constexpr int planes = per_word == 4 ? 2 : 1, lanes = per_word / planes;
// Rows of which all words are in registers at a time. What the longest windows see is too much, also of bytes, which
// are unpacked; narrow strips see more beside them.
constexpr int all_seen = lines * seen * planes;
constexpr int room = per_word == 4 && (down > 5 || wide > 5) ? 72 : words == 4 ? 168 : 144;
constexpr int batches = all_seen > room ? (all_seen + 71) / 72 : 1, at_a_time = (lines + batches - 1) / batches;

struct Row {
  Word word[seen];
};
struct Line {
  Word of[planes][seen];
};
struct Extrema {
  Word of[planes][words];
};

template <class U> SEMICONV_FN Word plane_of(U number, int plane) {
  if constexpr (per_word == 4) return plane ? number.odd : number.even;
  else return number;
}
template <class U = Unpacked> SEMICONV_FN U of_planes(Word even, Word odd) {
  if constexpr (per_word == 4) return {even, odd};
  else return even;
}
template <class W> SEMICONV_FN W best_of(W a, W b) {
  if constexpr (per_word == 4) return best_pair(a, b);
  else return Packing::best(a, b);
}

// ---- loads ---------------------------------------------------------------------------------------

// Loads COUNT words, a power of two or none.
template <int COUNT, class W> SEMICONV_FN void take(W* to, const W* from) {
  constexpr int moved = COUNT < words ? COUNT : words;
#pragma unroll
  for (int first = 0; first < COUNT; first += moved) {
    const auto part = *(const Chunk<W, moved ? moved : 1>*)(from + first);
#pragma unroll
    for (int i = 0; i < moved; ++i) to[first + i] = part.of[i];
  }
}

// Puts an element in the place of element n of a row.
template <class W> SEMICONV_FN void put_element(W* row, int n, Storage element) {
  if constexpr (per_word == 1) {
    row[n] = bit_cast<W>(element);
  } else {
    constexpr int bits = 32 / per_word;
    constexpr uint32 all = ~0u >> (32 - bits);  // this branch is compiled for whole words, too
    uint32 number = 0;
    memcpy(&number, &element, sizeof(Storage));
    W& word = row[n / per_word];
    word = (word & ~(all << n % per_word * bits)) | number << n % per_word * bits;
  }
}

// What a thread's windows see. INSIDE: all of it lies between the first and the last row.
template <bool INSIDE> struct View {
  const Strips& s;
  const Storage* plane;
  const int64* beyond;  // of rows, and behind them of columns
  const int64 column;
  const int32 y;
  const Storage outside;

  // The row that is line i; -1: the constant. Beyond what outputs see, tables end.
  SEMICONV_FN int32 row_of(int i) const {
    const int32 place = y - s.before + i, last = s.height + down - 2 - s.before;
    if constexpr (INSIDE) return place;
    else return (int32)element_at(s.height, s.before, beyond, place < last ? place : last);
  }
  // Where it lies. Multiples of the width are less work than products of two numbers.
  SEMICONV_FN const Storage* line_at(int i, int32 row) const {
    if constexpr (INSIDE) return plane + (y - s.before) * s.width + i * s.width;
    else return plane + row * s.width;
  }
  SEMICONV_FN bool sees_left() const { return left > 0 && column < left * per_word; }
  SEMICONV_FN bool sees_right() const { return right > 0 && column + columns + right * per_word > s.width; }

  // Loads the rows that are lines FIRST, FIRST + 1, ...
  template <int FIRST, int COUNT> SEMICONV_FN void load(Row (&rows)[COUNT]) const {
    Elements elements;
    for (int i = 0; i < per_word; ++i) elements.of[i] = outside;
    const Word constant = bit_cast<Word>(elements);
    const bool has_left = !sees_left(), has_right = !sees_right();
#pragma unroll
    for (int i = 0; i < COUNT; ++i) {
      const int32 row = row_of(FIRST + i);
      const Word* at = (const Word*)(line_at(FIRST + i, row) + column);
#pragma unroll
      for (int k = 0; k < seen; ++k) rows[i].word[k] = constant;
      if (!INSIDE && row < 0) continue;
      if (has_left) take<left>(rows[i].word, at - left);
      take<words>(rows[i].word + left, at);
      if (has_right) take<right>(rows[i].word + left + words, at + words);
    }
    if (!has_left) put_beside<FIRST, before, -before>(rows);
    if (!has_right) put_beside<FIRST, after, columns>(rows);
  }

  // Puts elements that lie beside the strip into the rows; the first is AWAY columns from the strip's.
  template <int FIRST, int ELEMENTS, int AWAY, int COUNT> SEMICONV_FN void put_beside(Row (&rows)[COUNT]) const {
    if constexpr (ELEMENTS > 0) {
      int64 from[ELEMENTS];
#pragma unroll
      for (int k = 0; k < ELEMENTS; ++k)
        from[k] = element_at(s.width, before, beyond + (down - 1), column + AWAY + k);
#pragma unroll
      for (int i = 0; i < COUNT; ++i) {
        const int32 row = row_of(FIRST + i);
#pragma unroll
        for (int k = 0; k < ELEMENTS; ++k)
          put_element(rows[i].word, left * per_word + AWAY + k,
                      row >= 0 && from[k] >= 0 ? line_at(FIRST + i, row)[from[k]] : outside);
      }
    }
  }
};

// ---- windows -------------------------------------------------------------------------------------

// How far a second window begins after one of `reach` elements, so that together they see more, at most `window`.
constexpr int step_of(int reach, int window) { return 2 * reach <= window ? reach : window - reach; }

// The word of which the first lane is element n of a row. Lanes beyond the last word are any.
SEMICONV_FN Word word_at(const Line& line, int n) {
  const Word(&plane)[seen] = line.of[n % planes];
  const int first = n / per_word;
  if constexpr (lanes == 1) return plane[first];
  const int next = first + 1 < seen ? first + 1 : first;
  return n / planes % 2 ? __funnelshift_r(plane[first], plane[next], 16) : plane[first];
}

// Windows of REACH elements that begin at each position become windows of WINDOW elements.
template <int REACH, int WINDOW> SEMICONV_FN void widen(Line& line) {
  if constexpr (REACH < WINDOW) {
    constexpr int step = step_of(REACH, WINDOW);
    const Line old = line;
#pragma unroll
    for (int n = 0; n + step < seen * per_word; ++n)
      if (n % per_word < planes)
        line.of[n % planes][n / per_word] = best_of(old.of[n % planes][n / per_word], word_at(old, n + step));
    widen<REACH + step, WINDOW>(line);
  }
}

// Neighbouring outputs p and p + 1 share all elements of their windows but one each. Where they lie in one word, the
// shared part is that of one output, chosen so that it begins with a word.
SEMICONV_FN Extrema across_of(const Row& row) {
  constexpr int first = left * per_word - before;
  constexpr bool at_once = per_word == 2 && first % 2 == 0;
  Line line;
#pragma unroll
  for (int i = 0; i < seen; ++i) {
    const Unpacked number = Packing::unpack(Packing::to_keys(row.word[i]));
#pragma unroll
    for (int q = 0; q < planes; ++q) line.of[q][i] = plane_of(number, q);
  }
  Line windows = line;
  widen<1, wide - 1>(windows);
  Extrema found;
#pragma unroll
  for (int i = 0; i < words; ++i)
#pragma unroll
    for (int q = 0; q < planes; ++q) {
      const int p = i * per_word + q, even = first + p / 2 * 2, shared = at_once ? even : even + 1;
      const int own = at_once ? even + wide - 1 : p % 2 ? even + wide : even;
      if (wide > 1) found.of[q][i] = best_of(word_at(windows, shared), word_at(line, own));
      else found.of[q][i] = word_at(line, first + p);
    }
  return found;
}

SEMICONV_FN Extrema best_of(const Extrema& a, const Extrema& b) {
  Extrema best;
#pragma unroll
  for (int q = 0; q < planes; ++q)
#pragma unroll
    for (int i = 0; i < words; ++i) best.of[q][i] = best_of(a.of[q][i], b.of[q][i]);
  return best;
}

// The same down columns.
template <int REACH> SEMICONV_FN void lengthen(Extrema (&line)[lines]) {
  if constexpr (REACH < down - 1) {
    constexpr int step = step_of(REACH, down - 1);
#pragma unroll
    for (int n = 0; n + step < lines; ++n) line[n] = best_of(line[n], line[n + step]);
    lengthen<REACH + step>(line);
  }
}

// The extrema across rows FIRST, FIRST + 1, ..., of which as many are loaded at a time as registers have room for.
template <int FIRST, bool INSIDE> SEMICONV_FN void find_lines(const View<INSIDE>& view, Extrema (&line)[lines]) {
  if constexpr (FIRST < lines) {
    constexpr int count = at_a_time < lines - FIRST ? at_a_time : lines - FIRST;
    Row rows[count];
    view.template load<FIRST>(rows);
#pragma unroll
    for (int n = 0; n < count; ++n) line[FIRST + n] = across_of(rows[n]);
    find_lines<FIRST + count>(view, line);
  }
}

template <bool INSIDE> SEMICONV_FN void find(const View<INSIDE>& view, Storage* out) {
  Extrema line[lines], windows[lines];
  find_lines<0>(view, line);
#pragma unroll
  for (int n = 0; n < lines; ++n) windows[n] = line[n];
  lengthen<1>(windows);
#pragma unroll
  for (int n = 0; n < outputs; ++n) {
    if (!INSIDE && view.y + n >= view.s.height) break;
    Extrema found = line[n];
    const int even = n / 2 * 2;
    if (down > 1) found = best_of(windows[even + 1], line[n % 2 ? even + down : even]);
    Chunk<Word, words> part;
#pragma unroll
    for (int i = 0; i < words; ++i)
      part.of[i] = Packing::from_keys(Packing::pack(of_planes(found.of[0][i], found.of[planes - 1][i])));
    *(Chunk<Word, words>*)(out + n * view.s.width) = part;
  }
}

}  // namespace semiconv

// Grid: blocks side by side; below each other, along two axes. beyond: as of flat.cu, for rows and behind them for
// columns.
extern "C" __global__ void __launch_bounds__(128, semiconv::resident_blocks)
SEMICONV_KERNEL(const semiconv::Strips s, const semiconv::Storage* __restrict__ source,
                semiconv::Storage* __restrict__ out, const long long* __restrict__ beyond,
                semiconv::Real outside) {
  using namespace semiconv;
  const int64 column = ((int64)blockIdx.x * blockDim.x + threadIdx.x) * columns;
  const int64 strip = ((int64)blockIdx.z * gridDim.y + blockIdx.y) * blockDim.y + threadIdx.y;
  if (column >= s.width || strip >= s.strips) return;
  const int32 n = (int32)strip, plane = n < s.of_column ? 0 : (uint32)n / s.of_column;
  const int32 y = (n - plane * s.of_column) * outputs, from = y - s.before;
  const int64 first = (int64)plane * s.height;
  const Storage* rows = source + first * s.width;
  Storage* to = out + (first + y) * s.width + column;
  if (from >= 0 && from + lines <= s.height)
    find(View<true>{s, rows, (const int64*)beyond, column, y, store(outside)}, to);
  else
    find(View<false>{s, rows, (const int64*)beyond, column, y, store(outside)}, to);
}
