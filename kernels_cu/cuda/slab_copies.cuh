// A team's walk over the planes of taps, and its copies of their slabs into shared memory.
//
// Needs what weights.cuh needs. forward_tiled.cu says when a slab is copied; here is which slabs there
// are, where they come from, and which share of them each thread copies.
#pragma once
#include "weights.cuh"

namespace semiconv {

static_assert(depth == 1 || (outer == 0 && slabs == 1), "the slabs of one step follow each other by channels");

// A patch's source is made anew for each use: across the taps, only the places of its chunks are kept.
struct SourceOf {
  const Geometry& g;
  const Division& division;
  SEMICONV_FN Source operator()(int32 p) const { return Source(g, tile_of_team(g, division), slab_of(p).offset()); }
};

// The walk over the planes of taps of a plane of outputs; p counts their slabs.
struct SlabWalk {
  const Geometry& g;
  const TeamTile& tile;
  const Storage *image, *krn;  // the first input channel of the group; the first kernel
  int32 outer_taps, slab_count;
  const Storage *&plane_image, *&plane_krn;  // set by find(): the same of the plane that it found

  // The first slab from p on of which the tile's windows see something inside the image: along the outer axes,
  // and of a plane of several slabs along its rows.
  SEMICONV_FN int32 find(int32 p) const {
    plane_image = image, plane_krn = krn;  // registers keep nothing of the last plane
    for (; p < slab_count; ++p) {
      if (slabs > 1) {
        const int32 top = tile.y * stride_y() - (int32)along_y(g.pad_begin, 0) + slab_of(p).offset();
        if (top >= (int32)along_y(g.image_size, 1) || top + patch_height <= 0) continue;
      }
      int32 rest = p / slabs % outer_taps;
      const int32 channel = p / slabs / outer_taps;
      int64 image_at = channel * g.img_strides[1], krn_at = channel * g.krn_strides[1];
      bool inside = true;
      for (int a = outer - 1; a >= 0; --a) {
        const int32 index = rest % SEMICONV_KERNEL_SIZE[a];
        rest /= SEMICONV_KERNEL_SIZE[a];
        const int64 step = mirrored ? SEMICONV_KERNEL_SIZE[a] - 1 - index : index;
        const int64 position = (int64)tile.outer_position[a] * SEMICONV_STRIDES[a] - g.pad_begin[a] +
                               step * SEMICONV_DILATIONS[a];
        inside = inside && position >= 0 && position < g.image_size[a];
        image_at += position * g.img_strides[a + 2];
        krn_at += index * g.krn_strides[a + 2];
      }
      if (!inside) continue;
      plane_image = image + image_at;
      plane_krn = krn + krn_at;
      break;
    }
    return p;
  }
  // Slabs of the step that begins with p.
  SEMICONV_FN int32 of_step(int32 p) const { return slab_count - p < depth ? slab_count - p : depth; }
};

// A team's copies. Members are references, as a lambda's would be: copies of them would cost registers.
struct Copies {
  const Geometry& g;
  const SourceOf& source_of;
  const SlabWalk& walk;
  const int &thread, &team;
  Patch (*const patches)[teams][depth];
  Weights (*const weights)[teams][depth];
  const uint32& piece;         // elements that are copied at once, of which none crosses the image's edge and all
                               // are aligned: `columns`, 2 (if `once`), or 0 for single ones
  const int32& last_channel;   // the last of the block's channels that has an output
  const int64& first_kernel;   // in a plane, the weights of the block's first output
  const Source& first_source;  // of a block that copies once
  const int64& fixed_first;    // these three hold for every slab where a plane is one slab; else they are not read
  const Source::Route& fixed_route;
  const WeightRoute& fixed_weights;
  const Real& zero;  // of positions outside the image

  // visit(n, at) for this thread's share of a slab's weights.
  template <class F> SEMICONV_FN void visit_weights(int32 p, F&& visit) const {
    if constexpr (slabs == 1) fixed_weights.visit(thread, visit);
    else WeightRoute::visit_once(g, slab_of(p).tap_rows, last_channel, thread, visit);
  }
  SEMICONV_FN void fill_outside(const Source& source, Patch& patch) const {
    source.fill_outside<once>(patch.of, store(zero));
  }
  // Before the first copies, of patches whose outside is the same for every slab.
  SEMICONV_FN void fill_first() const {
    if (slabs > 1 || integer) return;
    if constexpr (small_planes) {
      if (first_source.whole) return;
      for (int d = 0; d < depth; ++d) first_source.fill_all(patches[0][team][d].of, store(zero));
      __syncthreads();
    } else {
      for (int side = 0; side < sides; ++side)
        for (int d = 0; d < depth; ++d) fill_outside(once ? first_source : source_of(0), patches[side][team][d]);
    }
  }
  // Starts the copies of the step that begins with p, the slab that walk.find() found.
  SEMICONV_FN void start(int32 p, int side) const {
    const int count = walk.of_step(p);
    auto& patches_here = patches[side][team];
    if (slabs > 1 && !integer) fill_outside(source_of(p), patches_here[0]);
    const Storage* corner = base_address(walk.plane_image + (slabs == 1 ? fixed_first : source_of(p).first));
    if (small_planes || piece == 0 || (once && piece < columns)) {
      // Where copies go on beside the terms, there are no registers for pieces.
      if constexpr (integer || !once) source_of(p).copy_elements(g, corner, count, patches_here);
      else if (small_planes && piece == columns) first_source.copy_pieces<columns>(g, corner, count, patches_here);
      else if (piece == 2) first_source.copy_pieces<2>(g, corner, count, patches_here);
      else first_source.copy_pieces<1>(g, corner, count, patches_here);
    } else if constexpr (slabs == 1) {
      Source::copy_chunks(g, corner, count, fixed_route, patches_here);
    } else {
      source_of(p).copy_chunks_once(g, corner, patches_here);
    }
    const Destination to(weights[side][team]);
    const Storage* from = walk.plane_krn + first_kernel + slab_of(p).first * along_y(g.krn_strides + 2, 0);
    if constexpr (small_planes) from = base_address(from);
    visit_weights(p, [&](int n, int32 at) {
#pragma unroll
      for (int d = 0; d < depth; ++d)
        if (d < count) copy_weight(to, weights[side][team][d], d, n, from + at + d * g.krn_strides[1]);
    });
  }
};

}  // namespace semiconv
