// Minima and maxima over a window along the last two axes, or along one of them.
//
// Needs SEMICONV_STORAGE, SEMICONV_KERNEL (the function's name), SEMICONV_MINIMUM (true or false), and
//   SEMICONV_DOWN, SEMICONV_ACROSS   outputs along each axis that a thread finds together: at most the
//                                    window, and 1 where the window is 1
//   SEMICONV_SPACED                  1 where neighbouring positions of a row are several elements apart, else 0
// Sizes, windows, tiles and what lies beyond the border are arguments: other ones compile nothing.
//
// The windows of neighbouring outputs overlap. Outputs found together share the middle of their windows,
// which all of them see; each adds what lies before it and behind it (window 5, 4 outputs together):
//
//     words            0  1  2  3  4  5  6  7
//     output 0         [--------m--]                  m: words 3 .. 4, the middle, folded once
//     output 1            [-----m-----]               before it: suffixes 2, 1 .. 2, 0 .. 2
//     output 2               [--m--------]            behind it: prefixes 5, 5 .. 6, 5 .. 7
//     output 3                  [m----------]
//
// Colours lie between each other in a row (`unit` = 3 elements from a pixel to the next):
//
//     elements         r0 g0 b0 r1 g1 b1 r2 g2 b2     output r0 sees r0, r1, r2, ...
//
// A window along rows then counts every `unit`-th word, and so do the outputs that a thread finds together; all
// else treats the elements of a row alike.
//
// A tile and what its windows see is copied into shared memory once (`stacks`: a word holds `per_word` rows,
// one below the other). find_across() finds the windows along rows and writes them as `rows` (a word holds
// `per_word` neighbouring columns), in which find_down() finds the windows down columns, and writes them out.
#include "packed_words.cuh"

namespace semiconv {

// Twin of semiconv_cupy/ndimage/structs.py. Axes are down (rows) and across (columns). A window counts
// positions, all else elements.
struct Flat {
  int64 planes, size[2];
  int32 window[2], before[2];
  int32 unit;     // elements from one position of a row to the next
  int32 tile[2];  // outputs of a block
  int32 aligned;  // whether rows begin where four elements may be moved at once
  // Words of shared memory: from a line to the next, and where the parts begin.
  int32 rows_pitch, stacks_pitch, rows, rows_folds, stacks_folds;
};

constexpr int down = SEMICONV_DOWN, across = SEMICONV_ACROSS;
constexpr bool spaced = SEMICONV_SPACED;
// Outputs of one thread's turn.
constexpr int down_strip = down == 1 || down > 4 ? down : 4, across_strip = across > 4 ? across : 4;
constexpr int most_together = 8;
// Blocks that a multiprocessor holds at a time: as many as registers suffice for without spills.
constexpr bool most = down == most_together || across == most_together;
constexpr int least_blocks =
    architecture >= 1000 || (most && per_word == 4) ? 2
    : architecture < 900 ? 3
    : most || spaced || sizeof(Storage) != 4 || down == 1 || across == 1 ? 4 : 5;

SEMICONV_FN int64 row_at(const Flat& f, const int64* beyond, int64 place) {
  return element_at(f.size[0], f.before[0], beyond, place);
}
SEMICONV_FN int64 column_at(const Flat& f, const int64* beyond, int64 place) {
  return element_in_row(f.size[1], f.before[1], beyond + (f.window[0] - 1), spaced ? f.unit : 1, place);
}

// `a`, or `limit` where `a` is larger. The limit is that of an int32.
SEMICONV_FN int32 at_most(int64 a, int32 limit) { return a < limit ? (int32)a : limit; }

// Squares that a thread loads at a time: as many as there are registers for.
constexpr int squares_at_once = sizeof(Storage) == 8 ? 1 : 4;

// ---- windows along a line of words -------------------------------------------------------------

// found[i]: the best of the words i .. i + window - 1. Their middle is the words TOGETHER - 1 .. window - 1; in
// a long middle, blocks of `most_together` words have been folded to one word before (`folds`).
template <int TOGETHER>
SEMICONV_FN void extrema(const Word* line, int32 apart, const Word* folds, int32 folds_apart,
                         int32 window, Unpacked (&found)[TOGETHER]) {
  Unpacked middle = Packing::unpack(line[(TOGETHER - 1) * apart]);
  found[TOGETHER - 1] = middle;
#pragma unroll
  for (int i = TOGETHER - 2; i >= 0; --i)
    found[i] = Packing::best(found[i + 1], Packing::unpack(line[i * apart]));
  if constexpr (TOGETHER < most_together) {  // the window is less than twice as long
#pragma unroll
    for (int i = TOGETHER; i < 2 * TOGETHER - 1; ++i)
      if (i < window) middle = Packing::best(middle, Packing::unpack(line[i * apart]));
  } else {
    int32 next = TOGETHER;
#pragma unroll spaced ? 1 : 2
    for (; next + TOGETHER <= window; next += TOGETHER)
      middle = Packing::best(middle, Packing::unpack(*(folds += folds_apart)));
#pragma unroll spaced ? 1 : 2
    for (; next < window; ++next) middle = Packing::best(middle, Packing::unpack(line[next * apart]));
  }
  const Word* at = line + window * apart;
  found[0] = Packing::best(found[0], middle);
#pragma unroll
  for (int i = 1; i < TOGETHER; ++i, at += apart) {
    middle = Packing::best(middle, Packing::unpack(*at));
    found[i] = Packing::best(found[i], middle);
  }
}

SEMICONV_FN Word folded(const Word* line, int32 apart) {
  Unpacked value = Packing::unpack(line[0]);
#pragma unroll
  for (int i = 1; i < most_together; ++i) value = Packing::best(value, Packing::unpack(line[i * apart]));
  return Packing::pack(value);
}
template <int TOGETHER> SEMICONV_FN bool needs_folds(int32 window) {
  return TOGETHER == most_together && window >= 2 * most_together;
}

// ---- one tile ----------------------------------------------------------------------------------

struct Tile {
  const Flat& f;
  Word *stacks, *stacks_folds, *rows, *rows_folds;
  const int64 y0, x0;
  const int32 unit;
  const int32 high, wide;  // outputs
  const int32 tall, broad;  // with what their windows see
  const int32 stack_count;
  int32 shift;  // where in a stack the first window begins

  SEMICONV_FN Tile(const Flat& flat, Word* memory, int64 y, int64 x)
      : f(flat), stacks(memory), stacks_folds(memory + flat.stacks_folds), rows(memory + flat.rows),
        rows_folds(memory + flat.rows_folds), y0(y), x0(x), unit(spaced ? flat.unit : 1),
        high(at_most(flat.size[0] - y, flat.tile[0])),
        wide(at_most(flat.size[1] - x, flat.tile[1])), tall(high + flat.window[0] - 1),
        broad(wide + (flat.window[1] - 1) * unit), stack_count(ceil_div<int32>(tall, per_word)), shift(0) {}

  // Copies the tile. If all of it lies inside the image and rows are aligned, squares are loaded from aligned
  // places, `shift` columns before the first window; else every position is looked up.
  SEMICONV_FN void load_all(const Storage* plane, const int64* beyond, Word outside) {
    const int64 top = y0 - f.before[0], left = x0 - f.before[1] * unit;
    const bool inside = top >= 0 && top + stack_count * per_word <= f.size[0] && left >= 0 &&
                        left + broad <= f.size[1];
    if (inside && f.aligned) {
      shift = (int32)(left % 4);
      const Storage* first = plane + top * f.size[1] + left - shift;
      each_square<squares_at_once>([&](int32 y, int32 x) {
        const Storage* at = first + y * f.size[1] + x;
        Square square;
#pragma unroll
        for (int k = 0; k < per_word; ++k, at += f.size[1]) {
          const RowPart part = *(const RowPart*)at;
#pragma unroll
          for (int w = 0; w < row_words; ++w)
            square.word[k * row_words + w] = Packing::to_keys(part.of[w]);
        }
        return square;
      });
      return;
    }
    each_square<1>([&](int32 y, int32 x) {
      int64 column[4];
#pragma unroll
      for (int i = 0; i < 4; ++i)
        column[i] = column_at(f, beyond, left + at_most(x + i, broad - 1));
      Square square;
#pragma unroll
      for (int k = 0; k < per_word; ++k) {
        const int64 row = row_at(f, beyond, top + at_most(y + k, tall - 1));
#pragma unroll
        for (int w = 0; w < row_words; ++w) {
          Elements elements = bit_cast<Elements>(outside);
#pragma unroll
          for (int i = 0; i < per_word; ++i) {
            const int64 at = column[w * per_word + i];
            if (row >= 0 && at >= 0) elements.of[i] = plane[row * f.size[1] + at];
          }
          square.word[k * row_words + w] = Packing::to_keys(bit_cast<Word>(elements));
        }
      }
      return square;
    });
  }

  // A warp takes eight squares of a row, of four rows of squares: no two threads write to one bank. A thread
  // asks for AT_ONCE of them before it waits for the first.
  template <int AT_ONCE, class Load> SEMICONV_FN void each_square(const Load& load) {
    Walk n(ceil_div<int32>(shift + broad, 32), 32);
    while (n.outer * 4 < stack_count) {
      Square squares[AT_ONCE];
      Walk stored = n;
#pragma unroll
      for (int k = 0; k < AT_ONCE; ++k, n.next())
        if (const Place at(*this, n); at.exists) squares[k] = load(at.stack * per_word, at.x);
#pragma unroll
      for (int k = 0; k < AT_ONCE; ++k, stored.next()) {
        const Place at(*this, stored);
        if (!at.exists) continue;
        if constexpr (across == 1) put(squares[k], at.stack, at.x);
        else put_stack(squares[k], at.stack, at.x);
      }
    }
  }
  // Where this thread's square lies.
  struct Place {
    int32 stack, x;
    bool exists;
    SEMICONV_FN Place(const Tile& tile, const Walk& n)
        : stack(n.outer * 4 + (int32)threadIdx.x % 32 / 8), x(n.inner * 32 + (int32)threadIdx.x % 8 * 4),
          exists(stack < tile.stack_count && x < tile.shift + tile.broad) {}
  };
  SEMICONV_FN void put(const Square& square, int32 stack, int32 x) {
    Word* to = rows + stack * per_word * f.rows_pitch + x / per_word;
#pragma unroll
    for (int i = 0; i < 4; ++i) to[i / row_words * f.rows_pitch + i % row_words] = square.word[i];
  }
  // Four stacks of a window's positions, `unit` columns from each other, as elements of rows.
  SEMICONV_FN void put_apart(const Unpacked (&columns)[4], int32 stack, int32 x) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const Elements keys = bit_cast<Elements>(Packing::pack(columns[i]));
#pragma unroll
      for (int k = 0; k < per_word; ++k)
        ((Storage*)(rows + (stack * per_word + k) * f.rows_pitch))[x + i * unit] = keys.of[k];
    }
  }
  SEMICONV_FN void put_stack(const Square& square, int32 stack, int32 x) {
    const Square columns = columns_of<per_word>(square);
    Word* to = stacks + stack * f.stacks_pitch + x;
#pragma unroll
    for (int i = 0; i < 4; ++i) to[i] = columns.word[i];
  }

  // The first column of the nth group of `count` neighbouring positions. Groups of the colours of the same pixels
  // follow each other.
  SEMICONV_FN int32 column_of(int32 n, int32 count) const {
    if constexpr (!spaced) return n * count;
    const int32 pixels = quotient_of_few(n, unit);
    return pixels * count * unit + (n - pixels * unit);
  }

  // Windows along rows: from stacks to rows.
  SEMICONV_FN void find_across() {
    if (needs_folds<across>(f.window[1])) {
      const int32 folds = quotient_of_few(f.tile[1], unit) + f.window[1] - 1;
      for (Walk n(stack_count); n.outer < folds / most_together * unit; n.next())
        stacks_folds[n.outer * stack_count + n.inner] = folded(
            stacks + n.inner * f.stacks_pitch + shift + column_of(n.outer, most_together), unit);
      __syncthreads();
    }
#pragma unroll 1
    for (Walk n(stack_count);; n.next()) {
      const int32 x = column_of(n.outer, across_strip);
      if (x >= wide) break;
      Unpacked found[across_strip / across][across];
#pragma unroll
      for (int i = 0; i < across_strip / across; ++i)
        extrema<across>(stacks + n.inner * f.stacks_pitch + shift + x + i * across * unit, unit,
                        stacks_folds + n.outer * stack_count + n.inner, stack_count * unit,
                        f.window[1], found[i]);
#pragma unroll
      for (int i = 0; i < across_strip; i += 4) {
        Unpacked columns[4];
#pragma unroll
        for (int k = 0; k < 4; ++k) columns[k] = found[(i + k) / across][(i + k) % across];
        if constexpr (spaced) put_apart(columns, n.inner, x + i * unit);
        else put(rows_of<per_word>(columns), n.inner, x + i);
      }
    }
    __syncthreads();
  }

  // Windows down columns: from rows to the output.
  SEMICONV_FN void find_down(Storage* plane) const {
    const int32 words = ceil_div<int32>(wide, per_word);
    if (needs_folds<down>(f.window[0])) {
      const int32 folds = (f.tile[0] + f.window[0] - 1) / most_together;
      for (Walk n(words); n.outer < folds; n.next())
        rows_folds[n.outer * f.rows_pitch + n.inner] =
            folded(rows + n.outer * most_together * f.rows_pitch + n.inner, f.rows_pitch);
      __syncthreads();
    }
    for (Walk n(words); n.outer * down_strip < high; n.next()) {
      const int32 y = n.outer * down_strip, x = n.inner * per_word;
      Storage* to = plane + (y0 + y) * f.size[1] + x0 + x;
#pragma unroll
      for (int i = 0; i < down_strip; i += down) {
        Unpacked found[down];
        extrema<down>(rows + (y + i) * f.rows_pitch + n.inner, f.rows_pitch,
                      rows_folds + n.outer * f.rows_pitch + n.inner, f.rows_pitch, f.window[0],
                      found);
#pragma unroll
        for (int k = 0; k < down; ++k, to += f.size[1])
          if (y + i + k < high)
            store_word(to, Packing::from_keys(Packing::pack(found[k])), wide - x);
      }
    }
  }
  SEMICONV_FN void store_word(Storage* to, Word word, int32 count) const {
    if (per_word == 1 || f.aligned) {
      *(Word*)to = word;
      return;
    }
    const Elements elements = bit_cast<Elements>(word);
#pragma unroll
    for (int i = 0; i < per_word; ++i)
      if (i < count) to[i] = elements.of[i];
  }
};

}  // namespace semiconv

extern "C" __global__ void __launch_bounds__(256, semiconv::least_blocks)
SEMICONV_KERNEL(const semiconv::Flat f, const semiconv::Storage* __restrict__ source,
                semiconv::Storage* __restrict__ out, const long long* __restrict__ beyond,
                semiconv::Real outside) {
  using namespace semiconv;
  extern __shared__ unsigned long long shared_memory[];
  Elements elements;
  for (int i = 0; i < per_word; ++i) elements.of[i] = store(outside);
  const Word constant = bit_cast<Word>(elements);
  const int64 plane_size = f.size[0] * f.size[1];
  for (int64 p = blockIdx.z; p < f.planes; p += gridDim.z)
    for (int64 y = (int64)blockIdx.y * f.tile[0]; y < f.size[0]; y += (int64)gridDim.y * f.tile[0])
      for (int64 x = (int64)blockIdx.x * f.tile[1]; x < f.size[1];
           x += (int64)gridDim.x * f.tile[1]) {
        Tile tile(f, (Word*)shared_memory, y, x);
        tile.load_all(source + p * plane_size, beyond, constant);
        __syncthreads();
        if constexpr (across > 1) tile.find_across();
        tile.find_down(out + p * plane_size);
        __syncthreads();  // the next tile needs the memory
      }
}
