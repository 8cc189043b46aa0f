// Panels: parts of an operand of a matrix product, copied in the order in which they are read.
//
// An operand's numbers lie anywhere: its own index (rows of the image, columns of the kernel) and the
// contracted one count through levels of any strides (product.cuh). A panel holds WIDTH neighbours of the
// own index for each term, converted to Real:
//
//     operand, terms along the rows        panels of width 2
//       a0 a1 a2 a3                          a0 b0  a1 b1  a2 b2  a3 b3
//       b0 b1 b2 b3                          c0 d0  c1 d1  c2 d2  c3 d3
//       c0 c1 c2 c3
//       d0 d1 d2 d3
#pragma once
#include "simd.hpp"
#include "product.cuh"

namespace semiconv {

// Which array's strides of a level: &Level::img, &Level::krn or &Level::out.
using Stride = int64 Level::*;

// An index that counts through levels, and the offset in one array that belongs to it.
class Walk {
  const Level* levels;
  int64 count, index[max_levels];
  Stride stride;

 public:
  int64 offset = 0;

  Walk(const Level* levels_, int64 count_, Stride stride_, int64 start)
      : levels(levels_), count(count_), stride(stride_) {
    for (int64 l = count - 1; l >= 0; --l) {
      index[l] = start % levels[l].size;
      start /= levels[l].size;
      offset += index[l] * step(l);
    }
  }
  // From here to the end of the innermost level: how many indices, and how far apart they are.
  int64 run() const { return count ? levels[count - 1].size - index[count - 1] : 1; }
  int64 pitch() const { return count ? step(count - 1) : 0; }
  void skip(int64 indices) {  // at most run()
    int64 l = count - 1;
    if (l < 0) return;
    index[l] += indices;
    offset += indices * step(l);
    for (; l > 0 && index[l] == levels[l].size; --l) {
      offset += step(l - 1) - index[l] * step(l);
      index[l] = 0;
      ++index[l - 1];
    }
  }

 private:
  int64 step(int64 level) const { return levels[level].*stride; }
};

// One operand of a product: img or krn.
struct Operand {
  const Storage* data;  // at index 0 of all levels
  const Level *own, *terms;
  int64 own_levels, term_levels;
  Stride stride;
};

// Copy a rectangle of an operand: `count` neighbours, `pitch` apart, of each of `terms` terms.
SEMICONV_FN void copy_rectangle(const Storage* from, int64 pitch, int64 count, int64 term_pitch,
                                int64 terms, Real* to, int64 width) {
  if (pitch == 1) {
    for (int64 t = 0; t < terms; ++t, from += term_pitch, to += width)
      for (int64 i = 0; i < count; ++i) to[i] = load(from[i]);
  } else if (term_pitch == 1) {
    for (int64 i = 0; i < count; ++i, from += pitch)
      for (int64 t = 0; t < terms; ++t) to[t * width + i] = load(from[t]);
  } else {
    for (int64 t = 0; t < terms; ++t, from += term_pitch, to += width)
      for (int64 i = 0; i < count; ++i) to[i] = load(from[i * pitch]);
  }
}

// The panel of `count` <= width neighbours from `first` on, terms first_term .. + terms - 1. Behind `count`
// it repeats the last one: numbers of which any formula has a value.
inline void fill_panel(const Operand& x, int64 first, int64 count, int64 first_term, int64 terms, Real* to,
                       int64 width) {
  if (terms == 0) return;
  Walk own(x.own, x.own_levels, x.stride, first);
  for (int64 i = 0; i < count;) {
    const int64 some = smaller_of(own.run(), count - i);
    Walk term(x.terms, x.term_levels, x.stride, first_term);
    for (int64 t = 0; t < terms;) {
      const int64 few = smaller_of(term.run(), terms - t);
      copy_rectangle(x.data + own.offset + term.offset, own.pitch(), some, term.pitch(), few,
                     to + t * width + i, width);
      term.skip(few);
      t += few;
    }
    own.skip(some);
    i += some;
  }
  if (count < width)
    for (int64 t = 0; t < terms; ++t, to += width)
      for (int64 i = count; i < width; ++i) to[i] = to[count - 1];
}

}  // namespace semiconv
