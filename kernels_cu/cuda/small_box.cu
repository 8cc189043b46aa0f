// Minima and maxima over small windows along the last two axes, without shared memory.
//
// Needs SEMICONV_STORAGE, SEMICONV_KERNEL (the function's name), SEMICONV_MINIMUM (true or false), the window's size
// SEMICONV_DOWN (rows) and SEMICONV_ACROSS (columns), and SEMICONV_BEFORE, the columns of it before an output.
//
// A thread goes down a strip of `columns` outputs. Of each row it loads the strip and what the windows see beside it,
// which its neighbours load, too, so that the cache has it; and it keeps the extrema along the last DOWN - 1 rows:
//
//     row y - 2     [ . . . . . . ]  ->  across[0]
//     row y - 1     [ . . . . . . ]  ->  across[1]
//     row y         [ . . . . . . ]  ->  across now; the best of all three are the outputs of a row
//                     | strip |
//
// Rows are whole strips, aligned. Strips whose windows see the border look every position up.
#include "packed_words.cuh"

namespace semiconv {

// Twin of semiconv_cupy/ndimage/structs.py. `before`: rows of the window before an output; `rows`: of a strip.
struct Strips {
  int64 planes, size[2];
  int32 before, rows;
};

constexpr int down = SEMICONV_DOWN, wide = SEMICONV_ACROSS, before = SEMICONV_BEFORE;
constexpr int words = 4, columns = words * per_word;
// Words of a row beside the strip, of which windows see elements.
constexpr int left = (before + per_word - 1) / per_word, right = (wide - 1 - before + per_word - 1) / per_word;
constexpr int seen = left + words + right;
// Blocks that a multiprocessor holds at a time: registers suffice for so many.
constexpr int resident_blocks = sizeof(Word) == 8 ? 4 : per_word == 4 ? 5 : 6;

struct Row {
  Word word[seen];  // keys
};
using Part = Chunk<Word, 16 / sizeof(Word)>;

// A strip whose windows lie inside of the image.
struct Inside {
  static constexpr int ahead = sizeof(Word) == 8 ? 2 : 4;  // rows that are loaded before the first of them is used
  const Storage* plane;
  int64 width, column;
  SEMICONV_FN Row operator()(int64 y) const {
    const Word* at = (const Word*)(plane + y * width + column) - left;
    Row row;
#pragma unroll
    for (int i = 0; i < left; ++i) row.word[i] = Packing::to_keys(at[i]);
    constexpr int of_part = 16 / sizeof(Word);
#pragma unroll
    for (int i = 0; i < words; i += of_part) {
      const Part part = *(const Part*)(at + left + i);
#pragma unroll
      for (int k = 0; k < of_part; ++k) row.word[left + i + k] = Packing::to_keys(part.of[k]);
    }
#pragma unroll
    for (int i = left + words; i < seen; ++i) row.word[i] = Packing::to_keys(at[i]);
    return row;
  }
};

// The element at an address, in the place of element k of a word.
template <class W> SEMICONV_FN W with_element(W word, int k, const Storage* at) {
  if constexpr (per_word == 1) {
    return *(const W*)at;
  } else {
    constexpr int bits = 32 / per_word;
    const uint32 element = bits == 8 ? *(const uint8*)at : *(const uint16*)at;
    return (word & ~(((1u << bits) - 1) << k * bits)) | element << k * bits;
  }
}

// Any strip. Beyond a window nothing is looked up: tables end there.
struct AtBorder {
  static constexpr int ahead = 1;
  const Storage* plane;
  const int64 *size, *beyond;  // of rows, and behind them of columns
  int64 column;
  int32 above;
  Word outside;
  SEMICONV_FN Row operator()(int64 y) const {
    const int64 from = element_at(size[0], above, beyond, y);
    Row row;
#pragma unroll
    for (int i = 0; i < seen; ++i) {
      Word word = outside;
#pragma unroll 1
      for (int k = 0; k < per_word; ++k) {
        const int place = (i - left) * per_word + k;  // in the strip
        if (place < -before || place >= columns + wide - 1 - before) continue;
        const int64 at = element_at(size[1], before, beyond + (down - 1), column + place);
        if (from >= 0 && at >= 0) word = with_element(word, k, plane + from * size[1] + at);
      }
      row.word[i] = Packing::to_keys(word);
    }
    return row;
  }
};

// The word that begins with element n of a row.
template <class W> SEMICONV_FN W word_from(const W* row, int n) {
  if constexpr (per_word == 1) {
    return row[n];
  } else {
    const int first = n / per_word, bits = n % per_word * (32 / per_word);
    return bits ? row[first] >> bits | row[first + 1] << (32 - bits) : row[first];
  }
}

struct Extrema {
  Unpacked of[words];
};
SEMICONV_FN Extrema across_of(const Row& row) {
  Extrema found;
#pragma unroll
  for (int i = 0; i < words; ++i) {
    const int first = (left + i) * per_word - before;
    found.of[i] = Packing::unpack(word_from(row.word, first));
#pragma unroll
    for (int k = 1; k < wide; ++k)
      found.of[i] = Packing::best(found.of[i], Packing::unpack(word_from(row.word, first + k)));
  }
  return found;
}

// The outputs of rows y .. end - 1 of a strip.
template <class Load>
SEMICONV_FN void go_down(const Strips& s, const Load& load, Storage* out, int64 y, int64 end) {
  Extrema kept[down];  // of the last rows, the oldest first
#pragma unroll
  for (int k = 1; k < down; ++k) kept[k] = across_of(load(y - s.before + k - 1));
  const int64 under = down - 1 - s.before;  // from an output to the last row that its window sees
#pragma unroll 1
  for (constexpr int ahead = Load::ahead; y < end; y += ahead) {
    Row rows[ahead];
#pragma unroll
    for (int n = 0; n < ahead; ++n) rows[n] = load((y + n < end ? y + n : end - 1) + under);
#pragma unroll
    for (int n = 0; n < ahead; ++n) {
      if (y + n >= end) break;
#pragma unroll
      for (int k = 1; k < down; ++k) kept[k - 1] = kept[k];
      kept[down - 1] = across_of(rows[n]);
      Storage* to = out + (y + n) * s.size[1];
      constexpr int of_part = 16 / sizeof(Word);
#pragma unroll
      for (int i = 0; i < words; i += of_part) {
        Part part;
#pragma unroll
        for (int w = 0; w < of_part; ++w) {
          Unpacked best = kept[0].of[i + w];
#pragma unroll
          for (int k = 1; k < down; ++k) best = Packing::best(best, kept[k].of[i + w]);
          part.of[w] = Packing::from_keys(Packing::pack(best));
        }
        *(Part*)((Word*)to + i) = part;
      }
    }
  }
}

}  // namespace semiconv

// Grid: strips of a row, of a column, planes. beyond: as of flat.cu, for rows and behind them for columns.
extern "C" __global__ void __launch_bounds__(128, semiconv::resident_blocks)
SEMICONV_KERNEL(const semiconv::Strips s, const semiconv::Storage* __restrict__ source,
                semiconv::Storage* __restrict__ out, const long long* __restrict__ beyond,
                semiconv::Real outside) {
  using namespace semiconv;
  Elements elements;
  for (int i = 0; i < per_word; ++i) elements.of[i] = store(outside);
  const int64 column = ((int64)blockIdx.x * blockDim.x + threadIdx.x) * columns, height = s.size[0], width = s.size[1];
  if (column >= width) return;
  const bool within = column >= left * per_word && column + (words + right) * per_word <= width;
  for (int64 p = blockIdx.z; p < s.planes; p += gridDim.z)
    for (int64 y = ((int64)blockIdx.y * blockDim.y + threadIdx.y) * s.rows; y < height;
         y += (int64)gridDim.y * blockDim.y * s.rows) {
      const int64 end = smaller_of(y + s.rows, height);
      const Storage* plane = source + p * height * width;
      Storage* to = out + p * height * width + column;
      if (within && y >= s.before && end + down - 1 - s.before <= height)
        go_down(s, Inside{plane, width, column}, to, y, end);
      else
        go_down(s, AtBorder{plane, s.size, (const int64*)beyond, column, s.before, bit_cast<Word>(elements)}, to, y, end);
    }
}
