// How the backward pass is cut among threads, so that their number changes no bit of the result.
//
// Neighbouring tiles of outputs see, and add to, the same elements of the image; every tile adds to the
// same weights of the kernel. No atomics: their order, and so the rounding, would vary.
//
//   the image's gradient: colours           the kernel's gradient: slots
//
//     tiles   0 1 0 1                         slot 0   w0 w1 w2 ...   of tile 0, chunk 0
//             2 3 2 3                         slot 1   w0 w1 w2 ...   of tile 1, chunk 0
//             0 1 0 1                         ...
//                                             sum      added up in this order
//   A window reaches no further than
//   into a direct neighbour of its tile       A chunk is a run of batch elements, which one thread
//   (Tiling::cover_reach), so that tiles      takes in order.
//   of one colour share no element.
//
// Colours follow each other; threads take the (chunk, groups, tile) of one colour as they come. Tiles,
// colours, chunks and slots depend on the geometry alone. Small images of neighbouring groups lie together
// in memory, so that an item has several groups, for each batch element in turn.
#pragma once
#include "forward.hpp"

namespace semiconv {

// The arguments of one call. grad_out and a residual lie as the output does, krn and its gradient as the
// numbers of taps say; for gradients of selections all but img are C-contiguous. img and krn may be null where
// the derivatives of times are constants, a gradient where it is not to be computed.
struct Backward {
  const Storage *grad_out, *img, *krn;
  const void* residual;
  int64 itemsize, plane;  // of the residual: bytes of a winner, elements from one array to the next
  Real *grad_img, *grad_krn;
  const int64* grad_img_strides;  // batch, channel, spatial axes; of an array without gaps
};

// Numbers of chunks, colours and slots.
struct Partition {
  static constexpr int64 most_chunks = 16;
  static constexpr int64 least_pixels = 2048, least_items = 64;  // of an item's groups; of a call
  int64 chunks, colours, slots;
  int64 groups;  // of one item

  Partition(const Geometry& g, const Tiling& t) {
    // Slots take at most half as many numbers as image and outputs, but two chunks are allowed always:
    // one would leave nothing to share.
    int64 image = g.batch * g.groups * g.in_channels;
    for (int a = 0; a < g.rank; ++a) image *= g.image_size[a];
    const int64 outputs = g.batch * g.groups * g.outputs_per_group * g.pixels();
    const int64 weights = g.kernels * g.in_channels * g.window_size();
    const int64 affordable = larger_of(2, (image + outputs) / (2 * weights * t.tiles));
    chunks = smaller_of(smaller_of(larger_of(g.batch, 1), most_chunks), affordable);
    colours = (int64)1 << g.rank;
    slots = chunks * t.tiles * (g.shares_kernels ? g.groups : 1);
    const int64 pixels = g.outputs_per_group * g.pixels();
    groups = larger_of(1, smaller_of(ceil_div(least_pixels, pixels), chunks * g.groups / least_items));
    groups = smaller_of(groups, g.groups);
  }
  int64 first_batch(const Geometry& g, int64 chunk) const { return g.batch * chunk / chunks; }
  int64 slot(const Geometry& g, const Tiling& t, int64 chunk, int64 group, int64 tile) const {
    return (chunk * t.tiles + tile) * (g.shares_kernels ? g.groups : 1) +
           (g.shares_kernels ? group : 0);
  }
};

// Which of the 2^rank colours a tile has: on each axis, whether its number is odd.
inline int64 colour_of(const Geometry& g, const Tiling& t, int64 tile) {
  int64 colour = 0;
  for (int a = (int)g.rank - 1; a >= 0; --a) {
    colour = colour * 2 + tile % t.count[a] % 2;
    tile /= t.count[a];
  }
  return colour;
}

// Run `body` on every tile, colour after colour, then add up the slots. `partials` has room for
// partition.slots times `weights` numbers where call.grad_krn is not null; both gradients are cleared
// first. Each thread has a Body::Worker with memory of body.bytes(); run() adds to call.grad_img and its slot.
template <class Body>
int add_up_tiles(const Geometry& g, const Tiling& tiling, const Partition& partition, const Body& body,
                 const Backward& call, double* partials, int64 weights, int threads) {
  Buffer<int64> same_colour;
  if (!same_colour.allocate(tiling.tiles)) return out_of_memory;
  int64 image_pixels = 1;
  for (int a = 0; a < g.rank; ++a) image_pixels *= g.image_size[a];
  int status = success;

  // One thread where there is little to clear or to add up.
  const auto helpers = [&](int64 numbers) { return numbers < (1 << 18) ? 1 : threads; };
  const auto clear = [&](auto* data, int64 count) {
    constexpr int64 some = 1 << 16;  // numbers of one item
    in_parallel(ceil_div(count, some), helpers(count), [&](Items& items) {
      for (int64 item; items.take(item);)
        memset(data + item * some, 0, smaller_of(some, count - item * some) * sizeof(*data));
    });
  };
  if (call.grad_krn) clear(partials, partition.slots * weights);
  if (call.grad_img) clear(call.grad_img, g.batch * g.groups * g.in_channels * image_pixels);
  for (int64 colour = 0; colour < partition.colours; ++colour) {
    int64 tiles = 0;
    for (int64 tile = 0; tile < tiling.tiles; ++tile)
      if (colour_of(g, tiling, tile) == colour) same_colour.data[tiles++] = tile;
    const int64 blocks = ceil_div(g.groups, partition.groups);  // of groups
    in_parallel(partition.chunks * blocks * tiles, threads, [&](Items& items) {
      thread_local Workspace workspace;
      char* memory = (char*)workspace.reserve(body.bytes() + 1);
      if (!memory) {
        set_flag(status, out_of_memory);
        return;
      }
      typename Body::Worker worker(body, memory);
      for (int64 item; items.take(item);) {
        const int64 tile = same_colour.data[item % tiles], block = item / tiles % blocks;
        const int64 chunk = item / tiles / blocks, first_group = block * partition.groups;
        const int64 end_group = smaller_of(g.groups, first_group + partition.groups);
        for (int64 b = partition.first_batch(g, chunk); b < partition.first_batch(g, chunk + 1); ++b)
          for (int64 group = first_group; group < end_group; ++group)
            worker.run(b, group, tile,
                       call.grad_krn
                           ? partials + partition.slot(g, tiling, chunk, group, tile) * weights
                           : nullptr);
      }
      workspace.release_beyond(kept_bytes);
    });
  }
  if (call.grad_krn) {
    constexpr int64 some = 256;  // weights of one item
    const int64 taps = g.in_channels * g.window_size();
    Buffer<int64> numbers;
    if (!numbers.allocate(taps)) return out_of_memory;
    tap_numbers(g, numbers.data);
    in_parallel(ceil_div(weights, some), helpers(partition.slots * weights), [&](Items& items) {
      for (int64 item; items.take(item);) {
        int64 tap = item * some % taps;
        Real* kernel = call.grad_krn + item * some - tap;
        for (int64 n = item * some; n < smaller_of(weights, (item + 1) * some); ++n) {
          double sum = 0;
          for (int64 slot = 0; slot < partition.slots; ++slot) sum += partials[slot * weights + n];
          kernel[numbers.data[tap]] = (Real)sum;
          if (++tap == taps) {
            tap = 0;
            kernel += taps;
          }
        }
      }
    });
  }
  return status;
}

}  // namespace semiconv
