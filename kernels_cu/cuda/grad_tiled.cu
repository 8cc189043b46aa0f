// The `tiled` gradients: a block takes tiles of the image, with the slopes of all outputs that see a
// tile in shared memory. A term is an image element and a tap; each is visited once, by the thread
// that owns the element, for both gradients. No atomics: two runs give the same bits.
//
// Needs what backward.cuh and tile.cuh need (rows and columns of a thread are those of the image, and
// multiples of the strides), SEMICONV_KERNEL, and
//   SEMICONV_WANTS_IMG, SEMICONV_WANTS_KRN   1 where that gradient is wanted
//   SEMICONV_PHASE_Y, _X   the padding's begin modulo the stride, along x modulo 4 strides
//   SEMICONV_SLAB          rows of the window that a block serves: all where grad_img is wanted
//   SEMICONV_CHANNELS      1, or the input channels that a thread has bins for in shared memory: with
//                          a provenance of many channels, of which it then asks once for all (one
//                          element a thread, strides of 1, constant derivatives, grad_img alone)
//   SEMICONV_BLOCKS        blocks of a multiprocessor that the registers must suffice for
// Without grad_krn a block has one channel and one tile, and adds over all planes of taps (output
// channel, taps of the outer axes). With it, a block has one plane of taps and goes through many
// tiles, so that few partial sums are left for grad_sum.cu; both at once where there is one plane.
#include "backward.cuh"
#include "tile.cuh"
#include "../chunk.cuh"

namespace semiconv {

constexpr bool wants_img = SEMICONV_WANTS_IMG, wants_krn = SEMICONV_WANTS_KRN;
constexpr int32 phase_y = SEMICONV_PHASE_Y, phase_x = SEMICONV_PHASE_X;
constexpr int32 slab = SEMICONV_SLAB;
constexpr bool binned = channels > 1;
constexpr int32 ahead = binned ? 4 : 1;  // planes of outputs in shared memory at a time
constexpr int32 four = 4;  // elements of a patch's row that are loaded at once
constexpr int32 unit = columns / stride_x();  // outputs between two threads of a row
constexpr int32 taps_of_slab = slab * size_x();

#if defined(SEMICONV_PROVENANCE) && defined(SEMICONV_CONSTANT_DERIVATIVES)
constexpr bool reads_factors = false;
#else
constexpr bool reads_factors = true;
#endif

// Element e of a tile meets step j of the window at output (e + phase - j dilation) / stride,
// relative to (tile + padding - phase) / stride.
constexpr SEMICONV_FN int32 floor_div(int32 a, int32 b) { return a >= 0 ? a / b : -((b - 1 - a) / b); }
constexpr int32 lowest_y = floor_div(phase_y - (slab - 1) * dilation_y(), stride_y());
constexpr int32 lowest_seen = floor_div(phase_x - (size_x() - 1) * dilation_x(), stride_x());
constexpr int32 lowest_x = floor_div(lowest_seen, four) * four;
constexpr int32 patch_height = floor_div(tile_rows - 1 + phase_y, stride_y()) - lowest_y + 1;
constexpr int32 patch_width_used = floor_div(tile_columns - 1 + phase_x, stride_x()) - lowest_x + 1;
constexpr int32 patch_width = (patch_width_used + four - 1) / four * four;
constexpr int32 patch_size = patch_height * patch_width;
// What a thread sees of it: rows, and units of columns from `line_begin` on.
constexpr int32 reach = floor_div(rows - 1 + phase_y, stride_y()) - lowest_y + 1;
constexpr int32 line_begin = (lowest_seen - lowest_x) / unit * unit;
constexpr int32 line_end = floor_div(columns - 1 + phase_x, stride_x()) - lowest_x + 1;
constexpr int32 line_units = (line_end - line_begin + unit - 1) / unit;

// What an output adds to its slope: the tap that won, or the numbers of its weight.
#if defined(SEMICONV_PROVENANCE)
using Index = SEMICONV_RESIDUAL;
template <bool BINNED> struct MarkOf { using type = Index; };
template <> struct MarkOf<true> { using type = uint32; };
using Mark = MarkOf<binned>::type;  // binned: the channel's bins above, the tap below
constexpr int32 tap_bits = 16;
constexpr int marks = 1;
#else
using Mark = Real;
using Index = Real;
using Weight = typename Differentiable<Real>::Derivative;
constexpr int residuals = Differentiable<Real>::residuals;
constexpr int marks = residuals ? (int)(sizeof(Weight) / sizeof(Real)) : 0;
template <class W> SEMICONV_FN W weight_of(const Real* residual) {
  if constexpr (residuals == 0) return W();
  else if constexpr (residuals == 1) return W(residual[0]);
  else return W(residual[0], residual[1]);
}
#endif
constexpr int mark_planes = marks ? marks : 1;  // no array is empty

struct alignas(16) Patch {
  Real slope[patch_size];
  alignas(16) Mark mark[mark_planes][marks ? patch_size : 16];
};

// Four outputs on their way into shared memory.
#if defined(SEMICONV_PROVENANCE)
constexpr int read_planes = 1;
#else
constexpr int read_planes = residuals;
#endif
struct Arriving {
  Chunk<Storage, four> slope;
  Chunk<Index, four> residual[read_planes ? read_planes : 1];
};

// One plane of outputs: its first elements in the arrays, the patch's first row and column in it.
struct Plane {
  const Storage* slope;
  const Index* residual;
  int64 residual_plane;
  int32 height, width, y, x;
  int32 first_tap;

  // ALIGNED: lines start at multiples of 16 bytes and have a multiple of four outputs.
  template <bool ALIGNED> SEMICONV_FN Arriving read(int32 n) const {
    constexpr int32 fours = patch_width / four;
    const int32 row = y + n / fours, column = x + n % fours * four;
    const bool line = n < patch_height * fours && row >= 0 && row < height;
    const int64 at = (int64)row * width + column;
    Arriving read{};
    if constexpr (ALIGNED) {
      if (line && column >= 0 && column < width) {
        read.slope = *(const Chunk<Storage, four>*)(slope + at);
#pragma unroll
        for (int k = 0; k < read_planes; ++k)
          read.residual[k] = *(const Chunk<Index, four>*)(residual + k * residual_plane + at);
      }
    } else {
#pragma unroll
      for (int e = 0; e < four; ++e) {
        if (!line || column + e < 0 || column + e >= width) continue;
        read.slope.of[e] = slope[at + e];
#pragma unroll
        for (int k = 0; k < read_planes; ++k)
          read.residual[k].of[e] = residual[k * residual_plane + at + e];
      }
    }
    return read;
  }
#if defined(SEMICONV_PROVENANCE)
  // From a winner relative to the first tap; nobody stays beyond all taps.
  static SEMICONV_FN Mark mark_of(Index winner) {
    if constexpr (!binned) return winner;
    const uint32 window = (uint32)window_size(), channel = winner / window;
    return channel < (uint32)channels ? channel << tap_bits | winner % window : ~0u;
  }
#endif
  SEMICONV_FN void put(Patch& patch, int32 n, const Arriving& read) const {
    if (n >= patch_size / four) return;
    Chunk<Real, four> slopes;
    Chunk<Mark, four> made[mark_planes];
#pragma unroll
    for (int e = 0; e < four; ++e) {
      slopes.of[e] = load(read.slope.of[e]);
#if defined(SEMICONV_PROVENANCE)
      made[0].of[e] = mark_of((Index)(read.residual[0].of[e] - first_tap));
#else
      if constexpr (marks) {
        Real residual[read_planes ? read_planes : 1];
        for (int k = 0; k < read_planes; ++k) residual[k] = read.residual[k].of[e];
        const auto words = bit_cast<Chunk<Real, mark_planes>>(weight_of<Weight>(residual));
#pragma unroll
        for (int k = 0; k < marks; ++k) made[k].of[e] = words.of[k];
      }
#endif
    }
    *(Chunk<Real, four>*)(patch.slope + n * four) = slopes;
#pragma unroll
    for (int k = 0; k < marks; ++k) *(Chunk<Mark, four>*)(patch.mark[k] + n * four) = made[k];
  }
  // All loads of a batch are under way before the first is waited for.
  template <bool ALIGNED> SEMICONV_FN void fill(Patch& patch) const {
    constexpr int32 all = patch_size / four, turns = (all + threads - 1) / threads;
    constexpr int32 most = ALIGNED ? 1 + 4 / (1 + read_planes) : 1;
    constexpr int32 batch = turns < most ? turns : most;
#pragma unroll 1
    for (int32 turn = 0; turn < turns; turn += batch) {
      Arriving held[batch];
#pragma unroll
      for (int32 k = 0; k < batch; ++k)
        held[k] = read<ALIGNED>((turn + k) * threads + (int32)threadIdx.x);
#pragma unroll
      for (int32 k = 0; k < batch; ++k)
        put(patch, (turn + k) * threads + (int32)threadIdx.x, held[k]);
    }
  }
};

// Masks that need no predicates, of which a multiprocessor has few.
template <class T> struct BitsOf;
template <> struct BitsOf<float> { using type = uint32; };
template <> struct BitsOf<double> { using type = uint64; };
using Bits = typename BitsOf<Real>::type;

// A thread's elements of the image, and what it adds up.
struct Elements {
  Real img[rows][columns];
  Bits inside[rows][columns];  // all set, or none
  Real to_img[rows][columns];
  Real to_krn[wants_krn ? slab : 1][wants_krn ? size_x() : 1];
};

// One row of outputs as a thread sees it.
struct Line {
  Chunk<Real, unit> slope[line_units];
  Chunk<Mark, unit> mark[mark_planes][line_units];

  SEMICONV_FN Line(const Patch& patch, int32 at) {
#pragma unroll
    for (int k = 0; k < line_units; ++k) {
      slope[k] = *(const Chunk<Real, unit>*)(patch.slope + at + k * unit);
#pragma unroll
      for (int m = 0; m < marks; ++m)
        mark[m][k] = *(const Chunk<Mark, unit>*)(patch.mark[m] + at + k * unit);
    }
  }
  // Output n of the line sees an element at `tap`.
  SEMICONV_FN void meet(int n, int32 tap, Real weight, Real img, Bits inside, Real& to_img,
                        Real& to_krn) const {
    Real slope_here = slope[n / unit].of[n % unit];
#if defined(SEMICONV_PROVENANCE)
    (void)inside;  // who has won is
    if ((int32)mark[0][n / unit].of[n % unit] == tap) {
      if (wants_img) to_img += chained(slope_here, d_times_d_img(img, weight));
      if (wants_krn) to_krn += chained(slope_here, d_times_d_krn(img, weight));
    }
#else
    (void)tap;
    Chunk<Real, mark_planes> words;
#pragma unroll
    for (int m = 0; m < marks; ++m) words.of[m] = mark[m][n / unit].of[n % unit];
    Weight share{};
    if constexpr (marks > 0) share = bit_cast<Weight>(words);
    if (wants_krn) slope_here = bit_cast<Real>(bit_cast<Bits>(slope_here) & inside);
    const Real flow = slope_here == 0 ? Real(0) : slope_here * share(times(img, weight));
    if (wants_img) to_img += chained(flow, d_times_d_img(img, weight));
    if (wants_krn) to_krn += chained(flow, d_times_d_krn(img, weight));
#endif
  }
};

// All terms of a thread's elements with one plane of taps, steps from `first_step` on.
SEMICONV_FN void visit(Elements& own, const Patch& patch, const Real* weights, int32 first_step) {
  constexpr int32 size = size_y(), line_taps = size_x();
  // Code grows with the unrolled terms; beyond this it outgrows the instruction cache.
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
      for (int jx = 0; jx < line_taps; ++jx) {
        const int32 kx = mirrored ? line_taps - 1 - jx : jx;
        const Real weight = reads_factors ? weights[j * line_taps + kx] : Real(0);
#pragma unroll
        for (int c = 0; c < columns; ++c) {
          const int32 apart_x = c + phase_x - jx * dilation_x();
          if (apart_x % stride_x()) continue;
          const int32 n = apart_x / stride_x() - lowest_x - line_begin;
          line.meet(n, ky * line_taps + kx, weight, own.img[row][c], own.inside[row][c],
                    own.to_img[row][c], own.to_krn[wants_krn ? j : 0][wants_krn ? kx : 0]);
        }
      }
    }
  }
}

#if defined(SEMICONV_PROVENANCE)
// The outputs of one plane, added to the bins of a thread's one element, `threads` apart.
SEMICONV_FN void visit_bins(Real* bins, const Patch& patch) {
  constexpr int32 size = size_y(), line_taps = size_x();
  constexpr int unrolled = size * line_taps <= 128 ? 64 : 1;
  const Real slope = d_times_d_img(Real(0), Real(0));  // constant
  const int32 corner = (threadIdx.x / threads_x - lowest_y) * patch_width +
                       threadIdx.x % threads_x - lowest_x + phase_x;
#pragma unroll unrolled
  for (int j = 0; j < size; ++j) {
    const int32 ky = mirrored ? size - 1 - j : j;
#pragma unroll
    for (int jx = 0; jx < line_taps; ++jx) {
      const int32 at = corner - j * dilation_y() * patch_width - jx * dilation_x();
      const uint32 tap = ky * line_taps + (mirrored ? line_taps - 1 - jx : jx);
      const uint32 mark = patch.mark[0][at];
      if ((mark & ((1u << tap_bits) - 1)) == tap)
        bins[(mark >> tap_bits) * threads] += patch.slope[at] * slope;
    }
  }
}
#endif

}  // namespace semiconv

extern "C" __global__ void __launch_bounds__(SEMICONV_THREADS_X * SEMICONV_THREADS_Y, SEMICONV_BLOCKS)
SEMICONV_KERNEL(const semiconv::Geometry g, const semiconv::Storage* __restrict__ grad_out,
                const semiconv::Storage* __restrict__ img, const semiconv::Storage* __restrict__ krn,
                const void* __restrict__ residual, semiconv::Real* __restrict__ grad_img,
                double* __restrict__ partial, long long residual_plane, long long jobs,
                long long chunks, long long tiles_y, long long tiles_x) {
  using namespace semiconv;
  constexpr int32 slabs = (size_y() + slab - 1) / slab;
  __shared__ Patch patch[ahead];
  // A compiler may load the row behind the last one before it asks whether there is one.
  __shared__ Real weights[reads_factors ? taps_of_slab + size_x() : 1];
  __shared__ Real bins[binned ? channels * threads : 1];
  const int32 thread_y = threadIdx.x / threads_x, thread_x = threadIdx.x % threads_x;
  const int32 height = (int32)along_y(g.out_size, 1), width = (int32)along_x(g.out_size);
  const int32 image_height = (int32)along_y(g.image_size, 1);
  const int32 image_width = (int32)along_x(g.image_size);
  const int64 pixels = g.pixels();
  const bool aligned = width % four == 0 && (size_t)grad_out % 16 == 0 && (size_t)residual % 16 == 0;
  int32 outer_taps = 1;
  for (int a = 0; a < outer; ++a) outer_taps *= SEMICONV_KERNEL_SIZE[a];

  // The block's own: a channel of a group; with grad_krn a channel of a kernel, an outer tap, a slab.
  uint32 rest = blockIdx.x / (uint32)chunks;
  const uint32 chunk = blockIdx.x % (uint32)chunks;
  const int32 first_step = wants_krn ? (int32)(rest % slabs) * slab : 0;
  if (wants_krn) rest /= slabs;
  const int32 own_tap = wants_krn ? (int32)(rest % (uint32)outer_taps) : 0;
  if (wants_krn) rest /= (uint32)outer_taps;
  const uint32 parts = ((uint32)g.in_channels + channels - 1) / channels;
  const int32 channel = (int32)(rest % parts) * channels;  // the first
  const int32 kernel = (int32)(rest / parts);  // without grad_krn: the group
  const int32 outputs = (int32)g.outputs_per_group;
  const int32 own_output = !wants_krn ? 0 : g.shares_kernels ? kernel : kernel % outputs;
  const int32 first_plane = own_output * outer_taps + own_tap;
  const int32 last_plane = wants_krn ? first_plane + 1 : outputs * outer_taps;

  Elements own;
#pragma unroll
  for (int j = 0; j < (wants_krn ? slab : 0); ++j)
#pragma unroll
    for (int kx = 0; kx < size_x(); ++kx) own.to_krn[j][kx] = 0;

  for (uint32 job = chunk; job < (uint32)jobs; job += (uint32)chunks) {
    uint32 n = job;
    const int32 x = (int32)(n % (uint32)tiles_x) * tile_columns;
    n /= (uint32)tiles_x;
    const int32 y = (int32)(n % (uint32)tiles_y) * tile_rows;
    n /= (uint32)tiles_y;
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
    const int64 image_channel = group * g.in_channels + channel;
    image_at += batch * g.img_strides[0] + image_channel * g.img_strides[1];
    grad_at += (batch * g.groups * g.in_channels + image_channel) * scale;
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
      for (int32 c = 0; c < channels; ++c) bins[c * threads + threadIdx.x] = 0;  // nobody else's

    for (int32 p = first_plane; p < last_plane;) {
      __syncthreads();
      int32 filled = 0;
      for (; p < last_plane && filled < ahead; ++p) {
        const int32 output = p / outer_taps;
        int32 outer_tap = p % outer_taps;
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
        Plane outputs_seen;
        outputs_seen.slope = grad_out + plane * pixels + out_at;
        outputs_seen.residual =
            (const Index*)residual + residual_place<int64>(g, plane, channel, out_at, pixels);
        outputs_seen.residual_plane = residual_plane;
        outputs_seen.height = height;
        outputs_seen.width = width;
        outputs_seen.y = (y + (int32)along_y(g.pad_begin, 0) - phase_y -
                          first_step * dilation_y()) / stride_y() + lowest_y;
        outputs_seen.x = (x + (int32)along_x(g.pad_begin) - phase_x) / stride_x() + lowest_x;
        outputs_seen.first_tap =
            (channel * outer_taps + p % outer_taps) * (size_y() * size_x());
        if (aligned) outputs_seen.fill<true>(patch[filled]);
        else outputs_seen.fill<false>(patch[filled]);
        ++filled;
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
      if (!binned && filled) visit(own, patch[0], weights, first_step);
    }

    if constexpr (binned) {
      for (int32 c = 0; c < channels && channel + c < (int32)g.in_channels; ++c)
        if (own_y < image_height && own_x < image_width)
          grad_img[grad_at + c * scale * image_height * image_width +
                   (int64)own_y * image_width + own_x] = bins[c * threads + threadIdx.x];
    } else if constexpr (wants_img) {
#pragma unroll
      for (int row = 0; row < rows; ++row) {
        if (own_y + row >= image_height) continue;
        Real* line = grad_img + grad_at + (int64)(own_y + row) * image_width + own_x;
        using Vector = Chunk<Real, columns>;
        if (own_x + columns <= image_width && (size_t)line % alignof(Vector) == 0) {
          Vector whole;
#pragma unroll
          for (int c = 0; c < columns; ++c) whole.of[c] = own.to_img[row][c];
          *(Vector*)line = whole;
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
    for (int32 t = threadIdx.x; t < taps_of_slab; t += threads) {
      const int32 step = first_step + t / size_x();
      if (step >= size_y()) continue;
      double sum = 0;
      for (int warp = 0; warp < warps; ++warp) sum += sums[warp][t];
      const int32 ky = mirrored ? size_y() - 1 - step : step;
      const int64 plane = ((int64)kernel * g.in_channels + channel) * outer_taps + own_tap;
      partial[((plane * size_y() + ky) * size_x() + t % size_x()) * chunks + chunk] = sum;
    }
  }
}
