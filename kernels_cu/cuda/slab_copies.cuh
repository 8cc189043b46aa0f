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
  SEMICONV_FN Source operator()(int32 p) const { return Source(g, place_of_block(g, division), slab_of(p).offset()); }
};

// The planes of taps of a plane of outputs; p counts their slabs.
struct Planes {
  const Geometry& g;
  const Place& place;
  const Storage *image, *krn;  // the first input channel of the group; the first kernel
  int32 outer_taps, slab_count;
  const Storage *&plane_image, *&plane_krn;  // the same of the plane that find() found

  // The first slab from p on whose plane lies inside the image along the outer axes.
  SEMICONV_FN int32 find(int32 p) const {
    for (; p < slab_count; ++p) {
      int32 rest = p / slabs % outer_taps;
      const int32 channel = p / slabs / outer_taps;
      int64 image_at = channel * g.img_strides[1], krn_at = channel * g.krn_strides[1];
      bool inside = true;
      for (int a = outer - 1; a >= 0; --a) {
        const int32 index = rest % SEMICONV_KERNEL_SIZE[a];
        rest /= SEMICONV_KERNEL_SIZE[a];
        const int64 step = mirrored ? SEMICONV_KERNEL_SIZE[a] - 1 - index : index;
        const int64 position = (int64)place.outer_position[a] * SEMICONV_STRIDES[a] - g.pad_begin[a] +
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
  const Planes& planes;
  const int &thread, &team;
  Patch (*const patches)[teams][depth];
  Weights (*const weights)[teams][depth];
  const uint32& vectors;       // whether whole chunks of the image are copied
  const int32& last_channel;   // the last of the block's channels that has an output
  const int64& first_kernel;   // in a plane, the weights of the block's first output
  const int64& whole_first;    // these three are the same for all slabs where a plane is one slab
  const Source::Route& whole_route;
  const WeightRoute& whole_weights;

  // visit(n, at) for this thread's share of a slab's weights.
  template <class F> SEMICONV_FN void visit_weights(int32 p, F&& visit) const {
    const WeightRoute route = slabs == 1 ? whole_weights : WeightRoute(g, slab_of(p).rows, last_channel, thread);
    route.visit(thread, visit);
  }
  static SEMICONV_FN void fill_outside(const Source& source, Patch& patch) {
    source.fill_outside(patch.of, store(semifield_zero<Real>()));
  }
  // Starts the copies of the step that begins with p, the slab that planes.find() found.
  SEMICONV_FN void start(int32 p, int side) const {
    const int count = planes.of_step(p);
    auto& patches_here = patches[side][team];
    if (slabs > 1 && !integer) fill_outside(source_of(p), patches_here[0]);
    const Storage* corner = planes.plane_image + (slabs == 1 ? whole_first : source_of(p).first);
    if (vectors) Source::copy_chunks(g, corner, count, slabs == 1 ? whole_route : source_of(p).route(g), patches_here);
    else source_of(p).copy_elements(g, corner, count, patches_here);
    const Destination to(weights[side][team]);
    const Storage* from = planes.plane_krn + first_kernel + slab_of(p).first * along_y(g.krn_strides + 2, 0);
    visit_weights(p, [&](int n, int32 at) {
#pragma unroll
      for (int d = 0; d < depth; ++d)
        if (d < count) copy_weight(to, weights[side][team][d], d, n, from + at + d * g.krn_strides[1]);
    });
  }
};

}  // namespace semiconv
