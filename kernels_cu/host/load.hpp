// Fills a tile's scratch from the image, whichever axis of the image is contiguous in memory.
//
//   rows         the scratch's rows are rows of memory: copied by vectors
//   phases       the same with a stride: s phases of a row are the columns of a matrix of s columns
//   transposed   another axis is contiguous (a spatial one, or the channels): blocks of both axes
//   one by one   nothing is contiguous, or memory holds other numbers than the scratch (halves)
//
// Positions that no tap reads, between those of windows that are shorter than their step, are not filled.
#pragma once
#include "tiles.hpp"
#include "transpose.hpp"

namespace semiconv {

// Copy `count` numbers, or set them, by vectors. Vectors may reach beyond the last one: in the scratch, what
// follows is filled later, or not used. The source may be read up to `end`.
SEMICONV_FN void copy_run(Real* to, const Real* from, int64 count, const Real* end) {
  const int64 room = end - from, whole = smaller_of(ceil_div(count, lanes), room > 0 ? room / lanes : 0) * lanes;
  for (int64 q = 0; q < whole; q += lanes) store_vector(to + q, load_vector<Vector>(from + q));
  for (int64 q = whole; q < count; ++q) to[q] = from[q];
}
SEMICONV_FN void set_run(Real* to, int64 count, Vector value) {
  for (int64 q = 0; q < count; q += lanes) store_vector(to + q, value);
}

class TileLoader {
  const Geometry& g;
  const Tiling& t;
  const int last;
  const Real zero;        // of the semifield
  uint64 read[max_rank];  // the positions modulo the stride that a tap reads, as bits; all of them from 64 on
  int partner = none;
  int64 columns;          // phases up to the last one that a tap reads
  int64 reach = 0;        // from an image's first element to the furthest one in memory

  static constexpr int none = -1, channel = -2;  // besides axes

  bool reads(int axis, int64 position) const {
    const int64 stride = g.stride[axis];
    return stride == 1 || stride >= 64 || (read[axis] >> position % stride & 1);
  }
  bool padded(const int64* origin) const {  // or has a row that is longer than the image
    for (int a = 0; a < g.rank; ++a) {
      const int64 first = origin[a] * g.stride[a] - g.pad_begin[a];
      const int64 extent = a == last ? t.phases * t.phase_length : t.extent[a];
      if (first < 0 || first + extent > g.image_size[a]) return true;
    }
    return false;
  }

 public:
  TileLoader(const Geometry& g_, const Tiling& t_, int64 channels, Real zero_)
      : g(g_), t(t_), last((int)g_.rank - 1), zero(zero_) {
    for (int a = 0; a < g.rank; ++a) {
      read[a] = 0;
      for (int64 k = 0; k < g.kernel_size[a] && g.stride[a] < 64; ++k)
        read[a] |= (uint64)1 << k * g.dilation[a] % g.stride[a];
      reach += larger_of(0, (g.image_size[a] - 1) * g.img_strides[a + 2]);
    }
    columns = t.phases;
    while (columns > 1 && !reads(last, columns - 1)) --columns;
    reach += larger_of(0, (g.groups * g.in_channels - 1) * g.img_strides[1]) +
             larger_of(0, (g.batch - 1) * g.img_strides[0]) + 1;
    if (g.img_strides[last + 2] == 1 || !Same<Storage, Real>::value) return;
    if (channels > 1 && g.img_strides[1] == 1) partner = channel;
    for (int a = 0; a < last; ++a)
      if (g.image_size[a] > 1 && g.img_strides[a + 2] == 1) partner = a;
  }
  // The groups that a tile should span so that channels, contiguous in memory, are loaded by blocks.
  static int64 groups_at_once(const Geometry& g) {
    constexpr int64 most = 16;
    const bool apart = g.img_strides[1] == 1 && g.img_strides[g.rank + 1] != 1 && g.in_channels < most;
    return apart && Same<Storage, Real>::value ? smaller_of(g.groups, ceil_div(most, g.in_channels)) : 1;
  }

  // `channels` channels from `image` on, which is an element of the array that begins at `img`.
  template <class S>
  void fill(const int64* origin, const S* img, const S* image, int64 channels, Real* scratch) const {
    if constexpr (Same<S, Real>::value) {
      const Real* const end = img + reach;
      if (partner != none) return fill_transposed(origin, image, channels, scratch, end);
      if (g.img_strides[last + 2] == 1) {
        for (int64 i = 0; i < channels; ++i)
          fill_rows(origin, image + i * g.img_strides[1], scratch + i * t.channel_size, end);
        return;
      }
    }
    for (int64 i = 0; i < channels; ++i)
      fill_channel(g, t, origin, image + i * g.img_strides[1], g.img_strides + 2, scratch + i * t.channel_size,
                   zero);
  }

 private:
  // Rows of one channel, contiguous in memory.
  void fill_rows(const int64* origin, const Real* image, Real* scratch, const Real* image_end) const {
    const Vector outside = broadcast(zero);
    const int64 phases = t.phases, length = t.phase_length, size = g.image_size[last];
    const int64 first = origin[last] * phases - g.pad_begin[last];
    const auto clip = [&](int64 q) { return smaller_of(length, larger_of(0, q)); };
    // From `begin` to `end` all phases lie in the image.
    const int64 begin = clip(ceil_div(larger_of(0, -first), phases));
    const int64 end = larger_of(begin, clip(size - first - columns < 0 ? 0 : (size - first - columns) / phases + 1));
    // The phases of element q of a row that lie in the image.
    struct Phases {
      int64 from, to;
    };
    const auto inside_at = [&](int64 q) {
      const int64 position = first + q * phases;
      if (q < 0 || q >= length) return Phases{0, 0};
      return Phases{larger_of(0, -position), smaller_of(columns, size - position)};
    };
    const Phases before = inside_at(begin - 1), behind = inside_at(end);
    int64 rows = 1, index[max_rank] = {};
    for (int a = 0; a < last; ++a) rows *= t.extent[a];
    Real* row = scratch;
    for (int64 r = 0; r < rows; ++r, row += phases * length) {
      int64 offset = 0;
      bool inside = true, unread = false;
      for (int a = 0; a < last; ++a) {
        const int64 position = origin[a] * g.stride[a] - g.pad_begin[a] + index[a];
        inside = inside && position >= 0 && position < g.image_size[a];
        unread = unread || !reads(a, index[a]);
        offset += position * g.img_strides[a + 2];
      }
      for (int a = last - 1; a >= 0 && ++index[a] == t.extent[a]; --a) index[a] = 0;
      if (unread) continue;
      const Real* const from = image + offset + first;
      if (!inside) set_run(row, phases * length, outside);
      else if (phases == 1) {
        set_run(row, begin, outside);
        copy_run(row + begin, from + begin, end - begin, image_end);
        set_run(row + end, length - end, outside);
      } else {
        if (begin > 0 || end < length) {
          if (length <= 4 * lanes) set_run(row, columns * length, outside);
          else
            for (int64 j = 0; j < columns; ++j) {
              set_run(row + j * length, begin, outside);
              set_run(row + j * length + end, length - end, outside);
            }
          // Of the elements before and behind those, only some phases lie in the image.
          for (int64 j = before.from; j < before.to; ++j) row[j * length + begin - 1] = from[(begin - 1) * phases + j];
          for (int64 j = behind.from; j < behind.to; ++j) row[j * length + end] = from[end * phases + j];
        }
        copy_transposed(row + begin, length, from + begin * phases, phases, end - begin, columns, image_end);
      }
    }
    set_run(scratch + rows * phases * length, lanes, outside);  // read by the last vector, never used
  }

  // The last axis and `partner` at once.
  void fill_transposed(const int64* origin, const Real* image, int64 channels, Real* scratch,
                       const Real* image_end) const {
    if (padded(origin))
      for (int64 i = 0; i < channels; ++i)
        set_run(scratch + i * t.channel_size, t.channel_size, broadcast(zero));
    const int64 phases = t.phases, length = t.phase_length, size = g.image_size[last];
    const int64 used = length - 1;  // no tap reads the last element: it sets rows apart in the cache
    const int64 first = origin[last] * phases - g.pad_begin[last], along = g.img_strides[last + 2];
    int64 from_column = 0, columns_inside = channels, column_pitch = t.channel_size;
    if (partner >= 0) {
      const int64 start = origin[partner] * g.stride[partner] - g.pad_begin[partner];
      from_column = larger_of(0, -start);
      columns_inside = smaller_of(t.extent[partner], g.image_size[partner] - start) - from_column;
      column_pitch = t.pitch[partner];
      image += (start + from_column);
      scratch += from_column * column_pitch;
    }
    if (columns_inside <= 0) return;
    int64 rows = 1, index[max_rank] = {};
    const auto extent = [&](int a) { return a == partner ? 1 : t.extent[a]; };
    for (int a = 0; a < last; ++a) rows *= extent(a);
    const int64 parts = partner == channel ? 1 : channels;
    for (int64 r = 0; r < rows; ++r) {
      int64 offset = 0, to = 0;
      bool skipped = false;
      for (int a = 0; a < last; ++a) {
        if (a == partner) continue;
        const int64 position = origin[a] * g.stride[a] - g.pad_begin[a] + index[a];
        skipped = skipped || position < 0 || position >= g.image_size[a] || !reads(a, index[a]);
        offset += position * g.img_strides[a + 2];
        to += index[a] * t.pitch[a];
      }
      for (int a = last - 1; a >= 0 && ++index[a] >= extent(a); --a) index[a] = 0;
      if (skipped) continue;
      for (int64 part = 0; part < parts; ++part)
        for (int64 phase = 0; phase < columns; ++phase) {
          const int64 start = first + phase;
          const int64 begin = smaller_of(used, start >= 0 ? 0 : ceil_div(-start, phases));
          const int64 end = larger_of(begin, start >= size ? 0 : smaller_of(used, ceil_div(size - start, phases)));
          copy_transposed(scratch + part * t.channel_size + to + phase * length + begin, column_pitch,
                          image + part * g.img_strides[1] + offset + (start + begin * phases) * along,
                          phases * along, end - begin, columns_inside, image_end);
        }
    }
  }
};

}  // namespace semiconv
