// Patches of the image in shared memory, and the planes of outputs that a block computes from them.
//
// Needs what tile.cuh needs, and
//   SEMICONV_TEAMS   planes of outputs in a block, each with a tile's threads
//   SEMICONV_DEPTH   planes of taps between two barriers
//   SEMICONV_SIDES   places for their patches: 2 where more planes follow
//   SEMICONV_SHIFT   the first column of a tile's windows, modulo `columns`: where patches begin
// Positions, and offsets within a patch, fit into 31 bits; other offsets need not.
#pragma once
#include "tile.cuh"
#include "../chunk.cuh"

namespace semiconv {

constexpr int teams = SEMICONV_TEAMS, depth = SEMICONV_DEPTH, sides = SEMICONV_SIDES;
constexpr int shift = SEMICONV_SHIFT;

constexpr SEMICONV_FN int chunks_for(int elements) { return (elements + columns - 1) / columns; }

// Division of numbers below 2^31 by a number that the launcher knew: n * multiplier / 2^(31 + shift).
struct Divisor {
  uint32 divisor, multiplier, shift;
  // Divides n, returns the remainder.
  SEMICONV_FN uint32 take(uint32& n) const {
    const uint32 all = n;
    n = (uint32)(((uint64)all * multiplier) >> (31 + shift));
    return all - n * divisor;
  }
};

// What a launch divides the numbers of its blocks and slots by.
struct Division {
  Divisor tiles_x, tiles_y, blocks, groups;
};

// A tile's place: its outer output position and first output, and which plane of outputs: batch
// element, group, and block of output channels. An idle plane only keeps a block's others company.
struct Place {
  int32 outer_position[max_rank];
  int32 y, x;
  uint32 batch, group, block;
  bool idle;
};

// The numbers of this block and thread, read anew at each call: what follows from them needs no
// registers across the loops over taps.
#if defined(SEMICONV_GPU)
SEMICONV_FN uint32 this_block() {
  uint32 n;
  asm volatile("mov.u32 %0, %%ctaid.x;" : "=r"(n));
  return n;
}
SEMICONV_FN uint32 this_thread() {
  uint32 n;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(n));
  return n;
}
#else
SEMICONV_FN uint32 this_block() { return blockIdx.x; }
SEMICONV_FN uint32 this_thread() { return threadIdx.x; }
#endif

// A one-dimensional grid counts groups of `teams` planes, outer positions, rows and columns of tiles.
SEMICONV_FN Place place_of_block(const Geometry& g, const Division& division) {
  Place place;
  uint32 n = this_block();
  place.x = (int32)division.tiles_x.take(n) * tile_columns;
  place.y = (int32)division.tiles_y.take(n) * tile_rows;
  for (int a = outer - 1; a >= 0; --a) {
    place.outer_position[a] = (int32)(n % (uint32)g.out_size[a]);
    n /= (uint32)g.out_size[a];
  }
  n = n * teams + this_thread() / threads;
  place.block = division.blocks.take(n);
  place.group = division.groups.take(n);
  place.idle = n >= (uint32)g.batch;
  place.batch = place.idle ? 0 : n;
  return place;
}

// Where copies into shared memory go. They go on while the thread does, on GPUs that can, until
// await_copies(), then a barrier for the other threads' copies.
#if defined(SEMICONV_GPU) && __CUDA_ARCH__ >= 800
struct Destination {
  uint32 address;
  SEMICONV_FN explicit Destination(void* shared) {
    asm("{ .reg .u64 to; cvta.to.shared.u64 to, %1; cvt.u32.u64 %0, to; }" : "=r"(address) : "l"(shared));
  }
  template <class T> SEMICONV_FN void copy(int offset, const T* global) const {
    if constexpr (sizeof(T) > 16) {
      copy(offset, (const Chunk<float, columns>*)global);
      copy(offset + 16, (const Chunk<float, columns>*)global + 1);
    } else if constexpr (sizeof(T) == 16) {
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" :: "r"(address + offset), "l"(global) : "memory");
    } else if constexpr (sizeof(T) >= 4) {
      asm volatile("cp.async.ca.shared.global [%0], [%1], %2;"
                   :: "r"(address + offset), "l"(global), "n"(sizeof(T)) : "memory");
    } else if constexpr (sizeof(T) == 2) {
      const unsigned short bits = bit_cast<unsigned short>(*global);
      asm volatile("st.shared.u16 [%0], %1;" :: "r"(address + offset), "h"(bits) : "memory");
    } else {
      const uint32 bits = bit_cast<unsigned char>(*global);
      asm volatile("st.shared.u8 [%0], %1;" :: "r"(address + offset), "r"(bits) : "memory");
    }
  }
  // The same of whole 16 bytes where `exists`; else zeros, and nothing is read.
  template <class T> SEMICONV_FN void copy_or_zero(int offset, const T* global, bool exists) const {
    static_assert(sizeof(T) % 16 == 0, "copied by 16 bytes");
#pragma unroll
    for (int n = 0; n < (int)sizeof(T); n += 16)
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                   :: "r"(address + offset + n), "l"((const char*)global + n), "r"(exists ? 16 : 0) : "memory");
  }
};
SEMICONV_FN void await_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }
#else
struct Destination {
  char* address;
  SEMICONV_FN explicit Destination(void* shared) : address((char*)shared) {}
  template <class T> SEMICONV_FN void copy(int offset, const T* global) const { *(T*)(address + offset) = *global; }
  template <class T> SEMICONV_FN void copy_or_zero(int offset, const T* global, bool exists) const {
    *(T*)(address + offset) = exists ? *global : T{};
  }
};
SEMICONV_FN void await_copies() {}
#endif

constexpr int32 nowhere = (int32)0x80000000;  // in place of an offset

// A patch of the image, HEIGHT rows of CHUNKS chunks: where it lies, and how a team of threads copies
// it. Positions outside the image are the same for every plane at that place: they are filled once.
template <int HEIGHT, int CHUNKS> struct PatchSource {
  static constexpr int chunks = HEIGHT * CHUNKS, width = CHUNKS * columns;
  static constexpr int of_thread = (chunks + threads - 1) / threads;
  int64 first;                     // elements from the plane's first to the patch's
  int from_y, to_y, from_x, to_x;  // rows and columns of the patch that lie in the image
  bool whole;                      // all do

  // offset: rows from the first that the windows see to the patch's first.
  SEMICONV_FN PatchSource(const Geometry& g, const Place& place, int32 offset) {
    const int32 y = place.y * stride_y() - (int32)along_y(g.pad_begin, 0) + offset;
    const int32 x = place.x * stride_x() - (int32)along_x(g.pad_begin) - shift;
    first = y * along_y(g.img_strides + 2, 0) + x * along_x(g.img_strides + 2);
    const int32 below = (int32)along_y(g.image_size, 1) - y, behind = (int32)along_x(g.image_size) - x;
    from_y = clipped(-y, HEIGHT);
    to_y = clipped(below, HEIGHT);
    from_x = clipped(-x, width);
    to_x = clipped(behind, width);
    // Not told by the clipped numbers: ptxas 13.0 mistakes which side of a minimum its flag names.
    whole = y >= 0 && x >= 0 && below >= HEIGHT && behind >= width;
  }
  static SEMICONV_FN int clipped(int32 n, int most) { return n < 0 ? 0 : n < most ? n : most; }

  SEMICONV_FN bool contains(int row, int column) const {
    return row >= from_y && row < to_y && column >= from_x && column < to_x;
  }

  SEMICONV_FN void fill_outside(Chunk<Storage, columns>* patch, Storage outside) const {
    if (whole) return;
    visit_chunks<1>([&](int, int n, int row, int column) {
#pragma unroll
      for (int x = 0; x < columns; ++x)
        if (!contains(row, column + x)) patch[n].of[x] = outside;
    });
  }
  // Where this thread's chunks lie, from the patch's first element: the same in every plane.
  struct Route {
    int32 at[of_thread];
  };
  SEMICONV_FN Route route(const Geometry& g) const {
    Route found;
    for (int k = 0; k < of_thread; ++k) found.at[k] = nowhere;
    visit_chunks<of_thread>([&](int k, int, int row, int column) {
      if (contains(row, column)) found.at[k] = row * (int32)along_y(g.img_strides + 2, 0) + column;
    });
    return found;
  }
  // Copies the patches of `count` planes that are neighbouring channels, each from `corner` on: whole
  // chunks, where none crosses the image's edge, or the elements that lie in the image.
  template <class P>
  static SEMICONV_FN void copy_chunks(const Geometry& g, const Storage* corner, int count, const Route& route,
                                      P* patches) {
    const Destination to(patches);
#pragma unroll
    for (int k = 0; k < of_thread; ++k) {
      if (route.at[k] == nowhere) continue;
      const int n = threadIdx.x % threads + k * threads;
      const Storage* from = corner + route.at[k];
#pragma unroll
      for (int d = 0; d < depth; ++d)
        if (d < count)
          to.copy(d * sizeof(P) + n * sizeof(Chunk<Storage, columns>), (const Chunk<Storage, columns>*)(from + d * g.img_strides[1]));
    }
  }
  template <class P>
  SEMICONV_FN void copy_elements(const Geometry& g, const Storage* corner, int count, P* patches) const {
    const int32 pitch_y = (int32)along_y(g.img_strides + 2, 0), pitch_x = (int32)along_x(g.img_strides + 2);
    const Destination to(patches);
    visit_chunks<1>([&](int, int n, int row, int column) {
#pragma unroll
      for (int x = 0; x < columns; ++x) {
        if (!contains(row, column + x)) continue;
        const Storage* from = corner + (row * pitch_y + (column + x) * pitch_x);
        for (int d = 0; d < count; ++d)
          to.copy(d * sizeof(P) + (n * columns + x) * sizeof(Storage), from + d * g.img_strides[1]);
      }
    });
  }

  // visit(element) for this thread's share of a patch that was copied from the image.
  template <class F> SEMICONV_FN void visit_inside(const Chunk<Storage, columns>* patch, F&& visit) const {
    visit_chunks<1>([&](int, int n, int row, int column) {
#pragma unroll
      for (int x = 0; x < columns; ++x)
        if (contains(row, column + x)) visit(patch[n].of[x]);
    });
  }

 private:
  // visit(k, n, row, column) for this thread's share of the chunks, the kth of which is the nth of all.
  template <int UNROLL, class F> static SEMICONV_FN void visit_chunks(F&& visit) {
    const int thread = threadIdx.x % threads;
#pragma unroll UNROLL
    for (int k = 0; k < of_thread; ++k) {
      const int n = thread + k * threads;
      if (k * threads + threads <= chunks || n < chunks) visit(k, n, n / CHUNKS, n % CHUNKS * columns);
    }
  }
};

}  // namespace semiconv
