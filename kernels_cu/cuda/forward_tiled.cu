// The `tiled` forward kernel: image tile and weights in shared memory, a block of output channels,
// rows and columns in each thread's registers.
//
// Needs what tile.cuh needs, SEMICONV_KERNEL, SEMICONV_RESIDUAL as in forward.cu, and
//   SEMICONV_CHANNELS     output channels of one thread (1 for depthwise work)
//   SEMICONV_BLOCKS       blocks of a multiprocessor that the registers must suffice for
// For floating semifields whose zero is absorbing: positions outside are loaded as the zero.
// Same accumulators and tap order as `direct`.
#include "tile.cuh"

namespace semiconv {

constexpr int channels = SEMICONV_CHANNELS;
constexpr int patch_height = (tile_rows - 1) * stride_y() + (size_y() - 1) * dilation_y() + 1;
constexpr int patch_width_used = (tile_columns - 1) * stride_x() + (size_x() - 1) * dilation_x() + 1;
constexpr int patch_width = (patch_width_used + 3) / 4 * 4;  // so that lines load as vectors
constexpr int plane_taps = size_y() * size_x();
constexpr int weights_of_thread = (plane_taps * channels + threads - 1) / threads;
struct alignas(16) Patch {
  Real of[patch_height * patch_width];
};
struct alignas(16) Weights {
  Real of[plane_taps][channels];
};

#if !defined(SEMICONV_RESIDUAL)
using Chosen = Accumulator<Real>;
#elif defined(SEMICONV_SELECT) && !defined(SEMICONV_SPREAD_GRADIENT)
using Chosen = Provenance<Real, int32>;
#else
using Chosen = Differentiable<Real>;
#endif

// A term whose weight may be infinite: the zero, which outside positions hold, absorbs it.
template <bool GUARDED> SEMICONV_FN Real term_of(Real img, Real weight) {
  if constexpr (GUARDED) return img == semifield_zero<Real>() ? img : times(img, weight);
  return times(img, weight);
}

#if defined(SEMICONV_SELECT)
constexpr bool may_guard = false;
#else
constexpr bool may_guard = true;
#endif

template <class A> SEMICONV_FN void fold_all(A (&acc)[channels][rows][columns]) {
#pragma unroll
  for (int c = 0; c < channels; ++c)
#pragma unroll
    for (int row = 0; row < rows; ++row)
#pragma unroll
      for (int x = 0; x < columns; ++x) acc[c][row][x].fold();
}

// One plane of taps on one thread's outputs: PASS 0 observes, PASS 1 adds. Rows of the patch go by
// in the kernel's memory order, each loaded into registers once for all outputs that see it.
template <int PASS, bool GUARDED, class A>
SEMICONV_FN void visit_plane(A (&acc)[channels][rows][columns], const Real* patch,
                             const Real (*weights)[channels], int32 first_tap) {
  constexpr int row_taps = size_x();
  // Code grows with the unrolled terms; beyond this it outgrows the instruction cache.
  constexpr int most = GUARDED ? 0 : A::two_pass ? 64 : 2048;
  constexpr int unrolled = size_y() * row_taps * rows * columns * channels <= most ? 64 : 1;
  constexpr int seen = (columns - 1) * stride_x() + (row_taps - 1) * dilation_x() + 1;
  constexpr int reach = (rows - 1) * stride_y() + (size_y() - 1) * dilation_y() + 1;
  constexpr int folded = row_taps < block ? block / row_taps : 1;  // rows between two folds
#pragma unroll unrolled
  for (int n = 0; n < reach; ++n) {
    const int r = mirrored ? reach - 1 - n : n;
    Real line[seen];
#pragma unroll
    for (int x = 0; x < seen; ++x) line[x] = patch[r * patch_width + x];
#pragma unroll
    for (int row = 0; row < rows; ++row) {
      const int step = r - row * stride_y();
      if (step < 0 || step % dilation_y() || step / dilation_y() >= size_y()) continue;
      const int ky = mirrored ? size_y() - 1 - step / dilation_y() : step / dilation_y();
#pragma unroll
      for (int kx = 0; kx < row_taps; ++kx) {
        const int at = (mirrored ? row_taps - 1 - kx : kx) * dilation_x();
#pragma unroll
        for (int c = 0; c < channels; ++c) {
          const Real weight = weights[ky * row_taps + kx][c];
#pragma unroll
          for (int x = 0; x < columns; ++x) {
            const Real term = term_of<GUARDED>(line[x * stride_x() + at], weight);
            if constexpr (PASS == 0) acc[c][row][x].observe(term);
            else acc[c][row][x].add(term, first_tap + ky * row_taps + kx);
          }
        }
      }
    }
    if (PASS == 1 && reach > folded && (n + 1) % folded == 0) fold_all(acc);
  }
}
template <bool GUARDED, class A>
SEMICONV_FN void accumulate_plane(A (&acc)[channels][rows][columns], const Real* patch,
                                  const Real (*weights)[channels], int32 first_tap) {
  if constexpr (A::two_pass) {
    visit_plane<0, GUARDED>(acc, patch, weights, 0);
#pragma unroll
    for (int c = 0; c < channels; ++c)
#pragma unroll
      for (int row = 0; row < rows; ++row)
#pragma unroll
        for (int x = 0; x < columns; ++x) acc[c][row][x].settle();
  }
  visit_plane<1, GUARDED>(acc, patch, weights, first_tap);
  fold_all(acc);
}

struct alignas(columns * sizeof(Storage)) Line {
  Storage of[columns];
};

SEMICONV_FN void store_residual(const Chosen& acc, void* residual, int64 plane_size, int64 at) {
#if defined(SEMICONV_RESIDUAL)
  using T = SEMICONV_RESIDUAL;
#if defined(SEMICONV_SELECT) && !defined(SEMICONV_SPREAD_GRADIENT)
  ((T*)residual)[at] = (T)acc.winner;
#else
  for (int k = 0; k < Chosen::residuals; ++k) ((T*)residual)[k * plane_size + at] = acc.residual(k);
#endif
#endif
}

}  // namespace semiconv

extern "C" __global__ void __launch_bounds__(SEMICONV_THREADS_X * SEMICONV_THREADS_Y, SEMICONV_BLOCKS)
SEMICONV_KERNEL(const semiconv::Geometry g, const semiconv::Storage* __restrict__ img,
                const semiconv::Storage* __restrict__ krn, semiconv::Storage* __restrict__ out,
                void* __restrict__ residual, long long residual_plane, long long tiles_y,
                long long tiles_x) {
  using namespace semiconv;
  __shared__ Patch patch;
  __shared__ Weights weights;

  Place place = place_of_block(g.out_size, tiles_y, tiles_x);
  const int64 blocks = (g.outputs_per_group + channels - 1) / channels;
  place.group = blockIdx.y / blocks;
  place.batch = blockIdx.z;
  const int64 first_output = blockIdx.y % blocks * channels;
  const int thread_y = threadIdx.x / threads_x, thread_x = threadIdx.x % threads_x;

  Chosen acc[channels][rows][columns];
#pragma unroll
  for (int c = 0; c < channels; ++c)
#pragma unroll
    for (int row = 0; row < rows; ++row)
#pragma unroll
      for (int x = 0; x < columns; ++x) acc[c][row][x].start();

  const Storage* image = img + place.batch * g.img_strides[0] +
                         place.group * g.in_channels * g.img_strides[1];
  int32 outer_taps = 1;
  for (int a = 0; a < outer; ++a) outer_taps *= SEMICONV_KERNEL_SIZE[a];
  const PatchSource<patch_height, patch_width> source(g, place);
  const Real* corner =
      patch.of + thread_y * rows * stride_y() * patch_width + thread_x * columns * stride_x();

  // A plane of taps: one input channel at one tap of the outer axes. Where work is bound by
  // arithmetic, the next plane is loaded into registers while this one is computed; where it is
  // bound by memory, other blocks hide the loads and the registers serve them.
  const int32 planes = (int32)g.in_channels * outer_taps;
  constexpr bool ahead = channels > 1;
  using Source = PatchSource<patch_height, patch_width>;
  Real held[Source::rows_of_team][Source::columns_of_lane], held_weights[weights_of_thread];
  const Storage *plane_image = image, *plane_krn = krn;
  // The first plane from p on that lies inside the image along the outer axes.
  const auto find = [&](int32 p) {
    for (; p < planes; ++p) {
      int32 rest = p % outer_taps;
      const int32 channel = p / outer_taps;
      int64 image_at = channel * g.img_strides[1], krn_at = channel * g.krn_strides[1];
      bool inside = true;
      for (int a = outer - 1; a >= 0; --a) {
        const int32 index = rest % SEMICONV_KERNEL_SIZE[a];
        rest /= SEMICONV_KERNEL_SIZE[a];
        const int64 step = mirrored ? SEMICONV_KERNEL_SIZE[a] - 1 - index : index;
        const int64 position = place.outer_position[a] * SEMICONV_STRIDES[a] - g.pad_begin[a] +
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
  };
  const auto weight_at = [&](int n) {
    const int tap = n / channels, c = n % channels;
    const int64 output = first_output + c < g.outputs_per_group ? first_output + c : first_output;
    return (Real)load(plane_krn[g.kernel_of(place.group, output) * g.krn_strides[0] +
                                tap / size_x() * along_y(g.krn_strides + 2, 0) +
                                tap % size_x() * along_x(g.krn_strides + 2)]);
  };
  const auto hold = [&] {
    source.visit<64>(plane_image, semifield_zero<Real>(),
                     [&](int n, int m, Real value) { held[n][m] = value; });
#pragma unroll
    for (int k = 0; k < weights_of_thread; ++k) {
      const int n = threadIdx.x + k * threads;
      held_weights[k] = n < plane_taps * channels ? weight_at(n) : Real(0);
    }
  };

  int32 p = find(0);
  if (ahead && p < planes) hold();
  while (p < planes) {
    __syncthreads();
    bool infinite = false;
    if constexpr (ahead) {
#pragma unroll
      for (int n = 0; n < Source::rows_of_team; ++n)
#pragma unroll
        for (int m = 0; m < Source::columns_of_lane; ++m) source.put(patch.of, n, m, held[n][m]);
    } else {
      source.visit<1>(plane_image, semifield_zero<Real>(),
                      [&](int n, int m, Real value) { Source::put(patch.of, n, m, value); });
    }
#pragma unroll
    for (int k = 0; k < weights_of_thread; ++k) {
      const int n = threadIdx.x + k * threads;
      if (n >= plane_taps * channels) continue;
      const Real weight = ahead ? held_weights[k] : weight_at(n);
      weights.of[n / channels][n % channels] = weight;
      infinite = infinite || !(absolute(weight) < infinity<Real>());
    }
#if defined(SEMICONV_SELECT)  // NaN is never selected: -inf + inf is harmless
    (void)infinite;
    __syncthreads();
    const bool guarded = false;
#else
    const bool guarded = __syncthreads_or(infinite);
#endif
    const int32 next = find(p + 1);
    if (ahead && next < planes) hold();
    if (guarded) accumulate_plane<may_guard>(acc, corner, weights.of, p * plane_taps);
    else accumulate_plane<false>(acc, corner, weights.of, p * plane_taps);
    p = next;
  }

  int64 outer_at = 0;
  for (int a = 0; a < outer; ++a) outer_at = outer_at * g.out_size[a] + place.outer_position[a];
  const int64 height = along_y(g.out_size, 1), width = along_x(g.out_size), pixels = g.pixels();
#pragma unroll
  for (int c = 0; c < channels; ++c) {
    const int64 output = first_output + c;
    if (output >= g.outputs_per_group) continue;
    const int64 plane = (place.batch * g.groups + place.group) * g.outputs_per_group + output;
#pragma unroll
    for (int row = 0; row < rows; ++row) {
      const int64 y = place.y + thread_y * rows + row;
      if (y >= height) continue;
      const int64 left = place.x + thread_x * columns;
      const int64 at = plane * pixels + (outer_at * height + y) * width + left;
      Line line;
#pragma unroll
      for (int x = 0; x < columns; ++x) line.of[x] = store(acc[c][row][x].result());
      if (left + columns <= width && (size_t)(out + at) % sizeof(Line) == 0) {
        *(Line*)(out + at) = line;
      } else {
#pragma unroll
        for (int x = 0; x < columns; ++x)
          if (left + x < width) out[at + x] = line.of[x];
      }
#pragma unroll
      for (int x = 0; x < columns; ++x)
        if (left + x < width) store_residual(acc[c][row][x], residual, residual_plane, at + x);
    }
  }
}
