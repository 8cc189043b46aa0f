// The results of a tile before they are written where the output's rows are not contiguous.
//
// Strips store whole registers in the stage, which lies as the tile does: rows along the last axis. When an
// output channel is done, unload() writes it along the axis that is contiguous in the output, by blocks.
#pragma once
#include "tiles.hpp"
#include "transpose.hpp"

namespace semiconv {

class Stage {
  const Geometry& g;
  int partner = -1;  // the axis along which the output is contiguous

 public:
  const bool used;
  int64 strides[max_rank], size = 1;  // in elements; of one array
  Real* values = nullptr;
  void* residual = nullptr;  // winners as MaskLane, other residuals as arrays of Real

  Stage(const Geometry& g_, const Tiling& t)
      : g(g_), used(g_.out_strides[g_.rank + 1] != 1 && g_.out_size[g_.rank - 1] > 1) {
    const int last = (int)g.rank - 1;
    for (int a = last; a >= 0; --a) {
      strides[a] = size;
      size *= a == last ? ceil_div(t.tile[a], lanes) * lanes : t.tile[a];
      if (a < last && g.out_strides[a + 2] == 1 && g.out_size[a] > 1) partner = a;
    }
    if (!used) size = 0;
  }
  // Where strips store: here, or in the output.
  const int64* to_strides() const { return used ? strides : g.out_strides + 2; }

  // Write the outputs of a tile of this size from `from`; `to` is the place of its first one.
  template <class T, class S> void unload(const int64* tile, const T* from, S* to) const {
    unload(tile, (const char*)from, sizeof(T), (char*)to, sizeof(S), copy_block<T, S>);
  }

 private:
  // n rows of m columns become columns; the source may be read up to `end`.
  using CopyBlock = void (*)(char* to, int64 to_step, const char* from, int64 from_step, int64 n, int64 m,
                             const char* end);
  template <class T, class S>
  static void copy_block(char* to_bytes, int64 to_step, const char* from_bytes, int64 from_step, int64 n, int64 m,
                         const char* end) {
    S* const to = (S*)to_bytes;
    const T* const from = (const T*)from_bytes;
    if constexpr (Same<T, S>::value) {
      copy_transposed(to, to_step, from, from_step, n, m, (const T*)end);
    } else {
      for (int64 j = 0; j < m; ++j)
        for (int64 i = 0; i < n; ++i) to[j * to_step + i] = Store<S>::from(from[i * from_step + j]);
    }
  }
  // The walk over blocks, which is the same for all numbers; sizes of both in bytes.
  __attribute__((noinline)) void unload(const int64* tile, const char* from, int64 from_size, char* to,
                                        int64 to_size, CopyBlock copy) const {
    const int last = (int)g.rank - 1;
    const int64* const out = g.out_strides + 2;
    int64 run = 1, across = 0;  // outputs that are contiguous in the output, and lie so far apart here
    bool merged[max_rank] = {};
    if (partner >= 0) {
      across = strides[partner];
      run = tile[partner];
      merged[partner] = true;
      for (int a = last - 1; a >= 0; --a)
        if (!merged[a] && out[a] == run && strides[a] == run * across) {
          run *= tile[a];
          merged[a] = true;
        }
    }
    int64 rows = 1, index[max_rank] = {};
    const auto extent = [&](int a) { return merged[a] ? 1 : tile[a]; };
    for (int a = 0; a < last; ++a) rows *= extent(a);
    for (int64 r = 0; r < rows; ++r) {
      int64 at = 0, place = 0;
      for (int a = 0; a < last; ++a) {
        at += index[a] * strides[a];
        place += index[a] * out[a];
      }
      copy(to + place * to_size, out[last], from + at * from_size, across, run, tile[last], from + size * from_size);
      for (int a = last - 1; a >= 0 && ++index[a] >= extent(a); --a) index[a] = 0;
    }
  }
};

}  // namespace semiconv
