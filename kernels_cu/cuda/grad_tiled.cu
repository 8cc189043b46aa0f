// The `tiled` gradients: a block takes tiles of the image, with the gradients of all outputs that see a
// tile in shared memory. A term is an image element and a tap; each is visited once, by the thread
// that owns the element, for both gradients. No atomics: two runs give the same bits.
//
// Needs what backward.cuh and tile.cuh need (rows and columns of a thread are those of the image, and
// multiples of the strides), SEMICONV_KERNEL, and
//   SEMICONV_WANTS_IMG, SEMICONV_WANTS_KRN   1 where that gradient is computed
//   SEMICONV_PHASE_Y, _X   the padding's begin modulo the stride, along x modulo 4 strides
//   SEMICONV_SLAB          rows of the window that a block serves: all where grad_img is computed
//   SEMICONV_CHANNELS      1, or the input channels of a block that has bins (see below)
//   SEMICONV_BLOCKS        blocks that a multiprocessor holds at a time: registers are limited to that
//   SEMICONV_WHOLE         1 where a tile holds the image's last two axes; then no place within them is computed anew
//
// For each plane of outputs that sees the tile, its patch is copied into shared memory (grad_patch.cuh).
// Then each thread walks over the rows of outputs that see its elements, and over the taps:
//
//     image tile                   outputs                       per term (element e, tap k of output o)
//     +-----+-----+                +-------------+               flow = grad_out[o] * d result / d term
//     | t0  | t1  |  threads       |  . o o o .  |  seen by e    grad_img[e] += flow * d term / d img
//     |   e |     |                |  . o o o .  |               grad_krn[k] += flow * d term / d krn
//     +-----+-----+                +-------------+
//
//     which gradients    a block's share                          what a thread adds up
//     grad_img alone     one channel, one tile, all planes        own.to_img, written at the end
//     with grad_krn      one plane of taps, many tiles (jobs)     own.to_krn, over all its tiles; a block
//                                                                 writes one partial sum a weight, which
//                                                                 grad_sum.cu adds
//     both               the same, if there is only one plane     both
//
// Outputs add to an element of the image in their order in memory, as in grad_image.cu: the same work with
// other axes, or in other tiles, has the same bits.
//
// Bins (SEMICONV_CHANNELS > 1), for a provenance with many input channels: each output has one winner
// among all channels, so that a block would read it again for each channel. With bins a thread owns one
// image position and has one bin a channel in shared memory; a mark holds channel and tap, and an output
// is added to the bin of its channel. Needs strides of 1, constant derivatives, grad_img alone.
#include "grad_patch.cuh"
#include "this_thread.cuh"

namespace semiconv {

// Masks as numbers: predicates, of which a thread has seven, would not suffice for all elements.
template <class T> struct BitsOf;
template <> struct BitsOf<float> { using type = uint32; };
template <> struct BitsOf<double> { using type = uint64; };
using Bits = typename BitsOf<Real>::type;

// A thread's elements of the image, and its sums for both gradients.
struct Elements {
  Real img[rows][columns];
  Bits inside[rows][columns];  // all set, or none
  Real to_img[rows][columns];
  Real to_krn[wants_krn ? slab : 1][wants_krn ? size_x() : 1];
};

// One row of outputs as a thread sees it.
struct Line {
  Chunk<Real, unit> grad_out[line_units];
  Chunk<Mark, unit> mark[mark_planes][line_units];

  SEMICONV_FN Line(const Patch& patch, int32 at) {
#pragma unroll
    for (int k = 0; k < line_units; ++k) {
      grad_out[k] = *(const Chunk<Real, unit>*)(patch.grad_out + at + k * unit);
#pragma unroll
      for (int m = 0; m < marks; ++m)
        mark[m][k] = *(const Chunk<Mark, unit>*)(patch.mark[m] + at + k * unit);
    }
  }
  // Adds the term of output n of the line that sees an element with tap `tap`.
  template <class S>
  SEMICONV_FN void meet(int n, int32 tap, Real weight, Real img, Bits inside, const S& setting, Real& to_img,
                        Real& to_krn) const {
    Real grad = grad_out[n / unit].of[n % unit];
#if defined(SEMICONV_PROVENANCE)
    (void)inside;  // a winner is always inside
    if ((int32)mark[0][n / unit].of[n % unit] == tap) {
      if (wants_img) to_img += chained(grad, d_times_d_img(img, weight, setting));
      if (wants_krn) to_krn += chained(grad, d_times_d_krn(img, weight, setting));
    }
#else
    (void)tap;
    Chunk<Real, mark_planes> words;
#pragma unroll
    for (int m = 0; m < marks; ++m) words.of[m] = mark[m][n / unit].of[n % unit];
    Derivative derivative{};
    if constexpr (marks > 0) derivative = bit_cast<Derivative>(words);
    if (wants_krn) grad = bit_cast<Real>(bit_cast<Bits>(grad) & inside);
    const Real flow = grad == 0 ? Real(0) : grad * derivative(times(img, weight, setting), setting);
    if (wants_img) to_img += chained(flow, d_times_d_img(img, weight, setting));
    if (wants_krn) to_krn += chained(flow, d_times_d_krn(img, weight, setting));
#endif
  }
};

// All terms of a thread's elements with one plane of taps, from step `first_step` of the window on.
template <class S>
SEMICONV_FN void visit(Elements& own, const Patch& patch, const Real* weights, int32 first_step, const S& setting) {
  constexpr int32 size = size_y(), line_taps = size_x();
  // Rows are unrolled up to that many terms: longer code would outgrow the instruction cache.
#if defined(SEMICONV_PROVENANCE)
  constexpr int most = 2048;
#else
  constexpr int most = 128;
#endif
  constexpr int unrolled = wants_krn || taps_of_slab * rows * columns <= most ? 64 : 1;
  const int32 thread_y = threadIdx.x / threads_x, thread_x = threadIdx.x % threads_x;
  const int32 corner = thread_y * (rows / stride_y()) * patch_width + thread_x * unit + line_begin;
#pragma unroll unrolled
  for (int v = 0; v < reach; ++v) {
    const Line line(patch, corner + v * patch_width);
#pragma unroll
    for (int row = 0; row < rows; ++row) {
      const int32 apart = row + phase_y - stride_y() * (v + lowest_y);
      if (apart < 0 || apart % dilation_y() || apart / dilation_y() >= slab) continue;
      const int32 j = apart / dilation_y();
      if (slab < size && first_step + j >= size) continue;
      const int32 ky = mirrored ? size - 1 - first_step - j : first_step + j;
#pragma unroll
      for (int jx = line_taps - 1; jx >= 0; --jx) {
        const int32 kx = mirrored ? line_taps - 1 - jx : jx;
        const Real weight = reads_factors ? weights[j * line_taps + kx] : Real(0);
#pragma unroll
        for (int c = 0; c < columns; ++c) {
          const int32 apart_x = c + phase_x - jx * dilation_x();
          if (apart_x % stride_x()) continue;
          const int32 n = apart_x / stride_x() - lowest_x - line_begin;
          line.meet(n, ky * line_taps + kx, weight, own.img[row][c], own.inside[row][c], setting,
                    own.to_img[row][c], own.to_krn[wants_krn ? j : 0][wants_krn ? kx : 0]);
        }
      }
    }
  }
}

#if defined(SEMICONV_PROVENANCE)
// Adds the outputs of one plane to the bins of a thread's element, which lie `threads` numbers apart.
SEMICONV_FN void visit_bins(Real* bins, const Patch& patch) {
  constexpr int32 size = size_y(), line_taps = size_x();
  constexpr int unrolled = size * line_taps <= 128 ? 64 : 1;
  const Real derivative = d_times_d_img(Real(0), Real(0), Setting());  // the same for all numbers
  const int32 corner = (threadIdx.x / threads_x - lowest_y) * patch_width +
                       threadIdx.x % threads_x - lowest_x + phase_x;
#pragma unroll unrolled
  for (int j = size - 1; j >= 0; --j) {
    const int32 ky = mirrored ? size - 1 - j : j;
#pragma unroll
    for (int jx = line_taps - 1; jx >= 0; --jx) {
      const int32 at = corner - j * dilation_y() * patch_width - jx * dilation_x();
      const uint32 tap = ky * line_taps + (mirrored ? line_taps - 1 - jx : jx);
      const uint32 mark = patch.mark[0][at];
      if ((mark & ((1u << tap_bits) - 1)) == tap)
        bins[(mark >> tap_bits) * threads] += patch.grad_out[at] * derivative;
    }
  }
}
#endif

// A block's share: a channel of a group; with grad_krn a channel of a kernel, an outer tap, a slab.
struct Share {
  int32 first_step, tap, channel;  // the first of its steps and of its channels
  int32 kernel;                    // without grad_krn: the group
  SEMICONV_FN Share(uint32 n, int32 inputs, int32 outer_taps) : first_step(0), tap(0) {
    constexpr uint32 slabs = (size_y() + slab - 1) / slab;
    if (wants_krn) {
      first_step = (int32)(n % slabs) * slab;
      n /= slabs;
      tap = (int32)(n % (uint32)outer_taps);
      n /= (uint32)outer_taps;
    }
    const uint32 parts = ((uint32)inputs + channels - 1) / channels;
    channel = (int32)(n % parts) * channels;
    kernel = (int32)(n / parts);
  }
};

}  // namespace semiconv

extern "C" __global__ void __launch_bounds__(SEMICONV_THREADS_X * SEMICONV_THREADS_Y, SEMICONV_BLOCKS)
SEMICONV_KERNEL(const semiconv::Geometry g, const semiconv::Storage* __restrict__ grad_out,
                const semiconv::Storage* __restrict__ img, const semiconv::Storage* __restrict__ krn,
                const void* __restrict__ residual, semiconv::Real* __restrict__ grad_img,
                double* __restrict__ partial, long long residual_plane, long long jobs,
                long long chunks, long long tiles_y, long long tiles_x) {
  using namespace semiconv;
  __shared__ Patch patch[ahead];
  // One row more than there is: the compiler may load the next row before it tests whether it exists.
  __shared__ Real weights[reads_factors ? taps_of_slab + size_x() : 1];
  __shared__ Real bins[binned ? channels * threads : 1];
  const int32 thread_y = threadIdx.x / threads_x, thread_x = threadIdx.x % threads_x;
  const int32 height = (int32)along_y(g.out_size, 1), width = (int32)along_x(g.out_size);
  const int32 image_height = (int32)along_y(g.image_size, 1);
  const int32 image_width = (int32)along_x(g.image_size);
  const int64 pixels = outputs_of_channel(g);
  // Pairs are for small planes: larger blocks have no registers for a third way to copy.
  const auto starts_at = [&](int piece) {
    const size_t bytes = piece == four ? 16 : 2 * sizeof(Real);
    return width % piece == 0 && (size_t)grad_out % bytes == 0 && (size_t)residual % bytes == 0;
  };
  const int piece = starts_at(four) ? four : threads <= 64 && starts_at(2) ? 2 : 1;
  int32 outer_taps = 1;
  for (int a = 0; a < outer; ++a) outer_taps *= SEMICONV_KERNEL_SIZE[a];
  const int32 inputs = single ? 1 : (int32)g.in_channels, outputs = single ? 1 : (int32)g.outputs_per_group;

  const uint32 chunk = blockIdx.x % (uint32)chunks;
  const Share share(blockIdx.x / (uint32)chunks, inputs, outer_taps);
  const int32 first_step = share.first_step, own_tap = share.tap, channel = share.channel, kernel = share.kernel;
  const int32 own_output = !wants_krn || single ? 0 : g.shares_kernels ? kernel : kernel % outputs;
  const int32 planes = wants_krn ? 1 : outputs * outer_taps;  // of outputs at an outer tap

  Elements own;
#pragma unroll
  for (int j = 0; j < (wants_krn ? slab : 0); ++j)
#pragma unroll
    for (int kx = 0; kx < size_x(); ++kx) own.to_krn[j][kx] = 0;

  for (uint32 job = chunk; job < (uint32)jobs; job += (uint32)chunks) {
    uint32 n = job;
    int32 x = 0, y = 0;
    if (!whole) {  // divisions are dear beside the terms of a small plane
      x = (int32)(n % (uint32)tiles_x) * tile_columns;
      n /= (uint32)tiles_x;
      y = (int32)(n % (uint32)tiles_y) * tile_rows;
      n /= (uint32)tiles_y;
    }
    int32 outer_position[outer + 1];
    int64 image_at = 0, grad_at = 0, scale = 1;
    for (int a = outer - 1; a >= 0; --a) {
      outer_position[a] = (int32)(n % (uint32)g.image_size[a]);
      n /= (uint32)g.image_size[a];
      image_at += outer_position[a] * g.img_strides[a + 2];
      grad_at += outer_position[a] * scale;
      scale *= g.image_size[a];
    }
    int32 group = wants_krn ? kernel / outputs : kernel;
    if (wants_krn && g.shares_kernels) {
      group = (int32)(n % (uint32)g.groups);
      n /= (uint32)g.groups;
    }
    const int64 batch = n;
    const int64 image_channel = (int64)group * inputs + channel;
    image_at += batch * g.img_strides[0] + image_channel * g.img_strides[1];
    grad_at += (batch * g.groups * inputs + image_channel) * scale;
    grad_at *= (int64)image_height * image_width;
    const int32 own_y = y + thread_y * rows, own_x = x + thread_x * columns;

#pragma unroll
    for (int row = 0; row < rows; ++row)
#pragma unroll
      for (int c = 0; c < columns; ++c) {
        const bool inside = own_y + row < image_height && own_x + c < image_width;
        own.inside[row][c] = inside ? ~Bits(0) : Bits(0);
        own.to_img[row][c] = 0;
        own.img[row][c] = 0;
        if (reads_factors && inside)
          own.img[row][c] = load(img[image_at + (own_y + row) * along_y(g.img_strides + 2, 0) +
                                     (own_x + c) * along_x(g.img_strides + 2)]);
      }

    if (binned)
      for (int32 c = 0; c < channels; ++c) bins[c * threads + threadIdx.x] = 0;  // of this thread alone

    for (int32 p = 0; p < planes;) {
      if (binned) __syncthreads();
      const auto ready = [] {
        if (!binned) __syncthreads();
      };
      Setting setting;  // of the plane that is visited
      int32 filled = 0;
      for (; p < planes && filled < ahead; ++p) {
        const int32 output = wants_krn ? own_output : p / outer_taps;
        const int32 plane_of_taps =
            wants_krn ? own_tap : mirrored ? p % outer_taps : outer_taps - 1 - p % outer_taps;
        int32 outer_tap = plane_of_taps;
        const int64 plane = (batch * g.groups + group) * outputs + output;
        int64 out_at = 0, out_scale = 1;
        int64 krn_at = g.kernel_of(group, output) * g.krn_strides[0] + channel * g.krn_strides[1];
        bool sees = true;
        for (int a = outer - 1; a >= 0; --a) {
          const int32 index = outer_tap % SEMICONV_KERNEL_SIZE[a];
          outer_tap /= SEMICONV_KERNEL_SIZE[a];
          const int32 step = mirrored ? SEMICONV_KERNEL_SIZE[a] - 1 - index : index;
          const int64 apart = outer_position[a] + g.pad_begin[a] - (int64)step * SEMICONV_DILATIONS[a];
          const int64 position = apart / SEMICONV_STRIDES[a];
          sees = sees && apart >= 0 && apart % SEMICONV_STRIDES[a] == 0 && position < g.out_size[a];
          out_at += position * out_scale;
          out_scale *= g.out_size[a];
          krn_at += index * g.krn_strides[a + 2];
        }
        if (!sees) continue;
        out_at *= (int64)height * width;
        OutputPlane outputs_seen;
        outputs_seen.grad_out = base_address(grad_out + plane * pixels + out_at);
        outputs_seen.residual =
            base_address((const Index*)residual + residual_place<int64>(g, plane, channel, out_at, pixels));
        outputs_seen.residual_plane = residual_plane;
        outputs_seen.height = height;
        outputs_seen.width = width;
        outputs_seen.y = (y + (int32)along_y(g.pad_begin, 0) - phase_y -
                          first_step * dilation_y()) / stride_y() + lowest_y;
        outputs_seen.x = (x + (int32)along_x(g.pad_begin) - phase_x) / stride_x() + lowest_x;
        outputs_seen.first_tap = single ? 0 : (channel * outer_taps + plane_of_taps) * (size_y() * size_x());
        outputs_seen.setting = Setting(g.parameters, g.kernel_of(group, output));
        if (piece == four) outputs_seen.fill<four>(patch[filled], ready);
        else if (piece == 2) outputs_seen.fill<2>(patch[filled], ready);
        else outputs_seen.fill<1>(patch[filled], ready);
        ++filled;
        setting = outputs_seen.setting;
        if (reads_factors)
          for (int32 t = threadIdx.x; t < taps_of_slab; t += threads) {
            const int32 step = first_step + t / size_x();
            const int32 ky = mirrored ? size_y() - 1 - step : step;
            weights[t] = step >= size_y() ? Real(0)
                                          : (Real)load(krn[krn_at + ky * along_y(g.krn_strides + 2, 0) +
                                                           t % size_x() * along_x(g.krn_strides + 2)]);
          }
      }
      __syncthreads();
#if defined(SEMICONV_PROVENANCE)
      if constexpr (binned)
        for (int32 k = 0; k < filled; ++k) visit_bins(bins + threadIdx.x, patch[k]);
#endif
      if (!binned && filled)
        by_kind(setting, [&](const auto& of_kind) { visit(own, patch[0], weights, first_step, of_kind); });
    }

    if constexpr (binned) {
      for (int32 c = 0; c < channels && channel + c < (int32)g.in_channels; ++c)
        if (own_y < image_height && own_x < image_width)
          grad_img[grad_at + c * scale * image_height * image_width +
                   (int64)own_y * image_width + own_x] = bins[c * threads + threadIdx.x];
    } else if constexpr (wants_img) {
      using Place = PlaceOf<whole>::type;
      Real* grad_plane = base_address(grad_img + grad_at);
#pragma unroll
      for (int row = 0; row < rows; ++row) {
        if (own_y + row >= image_height) continue;
        Real* line = grad_plane + ((Place)(own_y + row) * image_width + own_x);
        using Vector = Chunk<Real, columns>;
        using Pair = Chunk<Real, 2>;
        if (own_x + columns <= image_width && (size_t)line % alignof(Vector) == 0) {
          Vector vector;
#pragma unroll
          for (int c = 0; c < columns; ++c) vector.of[c] = own.to_img[row][c];
          *(Vector*)line = vector;
        } else if (threads <= 64 && columns % 2 == 0 && image_width % 2 == 0 && (size_t)line % alignof(Pair) == 0) {
#pragma unroll
          for (int c = 0; c < columns; c += 2)
            if (own_x + c < image_width)
              *(Pair*)(line + c) = Pair{{own.to_img[row][c], own.to_img[row][columns > 1 ? c + 1 : 0]}};
        } else {
#pragma unroll
          for (int c = 0; c < columns; ++c)
            if (own_x + c < image_width) line[c] = own.to_img[row][c];
        }
      }
    }
  }

  if constexpr (wants_krn) {
    constexpr int warps = (threads + 31) / 32;
    __shared__ double sums[warps][taps_of_slab];
#pragma unroll
    for (int t = 0; t < taps_of_slab; ++t) {
      double sum = own.to_krn[t / size_x()][t % size_x()];
      for (int half = 16; half > 0; half /= 2) sum += __shfl_down_sync(0xffffffffu, sum, half);
      if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32][t] = sum;
    }
    __syncthreads();
    const uint32 block = this_block();
    const Share own_share(block / (uint32)chunks, inputs, outer_taps);
    for (int32 t = threadIdx.x; t < taps_of_slab; t += threads) {
      const int32 step = own_share.first_step + t / size_x();
      if (step >= size_y()) continue;
      double sum = 0;
      for (int warp = 0; warp < warps; ++warp) sum += sums[warp][t];
      const int32 ky = mirrored ? size_y() - 1 - step : step;
      const int64 plane = ((int64)own_share.kernel * inputs + own_share.channel) * outer_taps + own_share.tap;
      partial[((plane * size_y() + ky) * size_x() + t % size_x()) * chunks + block % (uint32)chunks] = sum;
    }
  }
}
