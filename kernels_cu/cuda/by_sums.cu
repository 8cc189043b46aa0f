// root and log on the GPU by ordinary sums: what comes before and after the ordinary convolutions.
//
// Needs what forward.cu needs, SEMICONV_LOG or SEMICONV_ROOT, and the names of five functions:
//   SEMICONV_KERNEL_EXTREMES    the extreme numbers of every part of a plane
//   SEMICONV_KERNEL_TRANSFORM   E of every number, and the ranges of the planes
//   SEMICONV_KERNEL     an output's value from its sum, or from its window's own terms
//   SEMICONV_KERNEL_TERM_GRADIENTS   the gradient that an output gives each product E(img) E(krn)
//   SEMICONV_KERNEL_FINISH      the gradient in img or krn from that in E(img) or E(krn)
// A plane is what has one shift: the channels of a (batch, group) of img, or one kernel of krn. No
// atomics, and nothing that the host would have to wait for.
#include "conditional_launch.cuh"
#include "../window.cuh"
#include "extremes.cuh"

namespace semiconv {

// Where the n-th number of a plane lies.
struct Places {
  const Geometry& g;
  const int64 *strides, *sizes;
  int64 first;
  bool dense;  // one number behind the other

  SEMICONV_FN Places(const Geometry& g, bool of_kernel, int64 plane)
      : g(g), strides(of_kernel ? g.krn_strides : g.img_strides), sizes(of_kernel ? g.kernel_size : g.image_size) {
    first = of_kernel ? plane * strides[0]
                      : plane % g.groups * g.in_channels * strides[1] + plane / g.groups * strides[0];
    int64 step = 1;
    dense = true;
    for (int a = last_axis; a >= 0; --a) {
      dense = dense && (sizes[a] == 1 || strides[a + 2] == step);
      step *= sizes[a];
    }
    dense = dense && (strides[1] == step || g.in_channels == 1);
  }
  SEMICONV_FN int64 operator[](int64 n) const {
    if (dense) return first + n;
    int64 at = first;
    for (int a = last_axis; a >= 0; --a) {
      at += n % sizes[a] * strides[a + 2];
      n /= sizes[a];
    }
    return at + n * strides[1];
  }
};

constexpr int threads = 256;

// The extremes that all threads of a block have seen; thread 0 is told.
SEMICONV_FN void merge(Extremes& seen) {
  __shared__ Real first[threads], last[threads];
  const int thread = threadIdx.x;
  first[thread] = seen.first;
  last[thread] = seen.last;
  for (int half = threads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (thread < half) {
      seen.see(first[thread + half], last[thread + half]);
      first[thread] = seen.first;
      last[thread] = seen.last;
    }
  }
}

// What the outputs of one channel have in common. Blocks take parts of channels, in any number.
struct Channel {
  Range<Real> img, krn;
  Proof<Real> proof;
  SEMICONV_FN Channel(const Geometry& g, const BySums<Real>& e, const Real* img_ranges, const Real* krn_ranges,
                      int64 channel)
      : img(range_of(img_ranges, channel / g.outputs_per_group)),
        krn(range_of(krn_ranges, g.kernel_of(channel / g.outputs_per_group % g.groups, channel % g.outputs_per_group))),
        proof(e, img, krn, g.in_channels * window_size()) {}
};
// visit(channel, number of the output) for this thread's share of all outputs.
template <class F>
SEMICONV_FN void visit_outputs(const Geometry& g, const BySums<Real>& e, const Real* img_ranges,
                               const Real* krn_ranges, int64 channels, int64 parts, F&& visit) {
  const int64 pixels = g.pixels();
  for (int64 work = blockIdx.x; work < channels * parts; work += gridDim.x) {
    const Channel channel(g, e, img_ranges, krn_ranges, work / parts);
    const int64 first = work / parts * pixels;
    for (int64 n = work % parts * blockDim.x + threadIdx.x; n < pixels; n += parts * blockDim.x)
      visit(channel, first + n);
  }
}

}  // namespace semiconv

// Grid: planes, parts. extremes: two numbers for each (plane, part).
extern "C" __global__ void __launch_bounds__(256)
SEMICONV_KERNEL_EXTREMES(const semiconv::Geometry g, const semiconv::Storage* __restrict__ numbers,
                         semiconv::Real* __restrict__ extremes, long long of_kernel, long long count) {
  using namespace semiconv;
  const Places places(g, of_kernel, blockIdx.x);
  const Setting setting(g.parameters, 0);
  const BySums<Real> e(setting);
  Extremes seen(e);
#pragma unroll 4
  for (int64 n = (int64)blockIdx.y * threads + threadIdx.x; n < count; n += (int64)gridDim.y * threads) {
    const Real number = (Real)load(numbers[places[n]]);
    if (e.counts(number)) seen.see(number, number);
  }
  merge(seen);
  if (threadIdx.x == 0) {
    const int64 at = ((int64)blockIdx.x * gridDim.y + blockIdx.y) * 2;
    extremes[at] = seen.first;
    extremes[at + 1] = seen.last;
  }
}

// Grid: planes, parts. transformed: C-contiguous; ranges: two numbers for each plane.
extern "C" __global__ void __launch_bounds__(256)
SEMICONV_KERNEL_TRANSFORM(const semiconv::Geometry g, const semiconv::Storage* __restrict__ numbers,
                          const semiconv::Real* __restrict__ extremes,
                          semiconv::Real* __restrict__ transformed, semiconv::Real* __restrict__ ranges,
                          long long of_kernel, long long count) {
  using namespace semiconv;
  __shared__ Real shift;
  const int64 plane = blockIdx.x;
  const Places places(g, of_kernel, plane);
  const Setting setting(g.parameters, 0);
  const BySums<Real> e(setting);
  Extremes seen(e);
  for (int64 part = threadIdx.x; part < gridDim.y; part += threads) {
    const int64 at = (plane * gridDim.y + part) * 2;
    seen.see(extremes[at], extremes[at + 1]);
  }
  merge(seen);
  if (threadIdx.x == 0) {
    const Range<Real> range = seen.range();
    shift = range.shift;
    if (blockIdx.y == 0) {
      ranges[plane * 2] = range.shift;
      ranges[plane * 2 + 1] = range.smallest;
    }
  }
  __syncthreads();
#pragma unroll 4
  for (int64 n = (int64)blockIdx.y * threads + threadIdx.x; n < count; n += (int64)gridDim.y * threads)
    transformed[plane * count + n] = e.transform((Real)load(numbers[places[n]]), shift);
}

// sums: of the transformed numbers' convolution.
extern "C" __global__ void __launch_bounds__(256, 2)
SEMICONV_KERNEL(const semiconv::Geometry g, const semiconv::Storage* __restrict__ img,
                const semiconv::Storage* __restrict__ krn, const semiconv::Real* __restrict__ sums,
                const semiconv::Real* __restrict__ img_ranges, const semiconv::Real* __restrict__ krn_ranges,
                semiconv::Storage* __restrict__ out, long long channels, long long parts) {
  using namespace semiconv;
  const Setting setting(g.parameters, 0);
  const BySums<Real> e(setting);
  visit_outputs(g, e, img_ranges, krn_ranges, channels, parts, [&](const Channel& channel, int64 n) {
    const Real sum = sums[n];
    if (channel.proof.holds(sum)) {
      out[n] = store(e.restore(sum, channel.img.shift, channel.krn.shift));
      return;
    }
    const Window window(g, (Offset)n);
    Accumulator<Real> acc;
    acc.start(setting);
    accumulate(g, window, acc, setting, img + window.image_offset(g), krn + window.kernel_offset(g), 0,
               (int32)g.in_channels);
    out[n] = store(acc.result(setting));
  });
}

// to_img: what E(krn) is multiplied by and added over outputs for the image's gradient, to_krn the
// same with E(img) for the kernel's (log: both in to_img); 0, and the block's flag is set, where only
// the window's own terms tell. `most`: so that those sums stay finite.
extern "C" __global__ void __launch_bounds__(256)
SEMICONV_KERNEL_TERM_GRADIENTS(const semiconv::Geometry g, const semiconv::Storage* __restrict__ grad_out,
                               const semiconv::Real* __restrict__ sums,
                               const semiconv::Real* __restrict__ img_ranges,
                               const semiconv::Real* __restrict__ krn_ranges,
                               semiconv::Real* __restrict__ to_img, semiconv::Real* __restrict__ to_krn,
                               int* __restrict__ flags, double most_terms, long long channels,
                               long long parts) {
  using namespace semiconv;
  using L = Limits<Real>;
  const Real most = (Real)(L::largest / 4 / most_terms);
  const auto usable = [&](Real gradient) { return absolute(gradient) <= most; };
  const Setting setting(g.parameters, 0);
  const BySums<Real> e(setting);
  bool unproven = false;
  visit_outputs(g, e, img_ranges, krn_ranges, channels, parts, [&](const Channel& channel, int64 n) {
    const Real sum = sums[n], given = load(grad_out[n]);
    const bool proven = channel.proof.holds(sum);
    const Real gradient = e.d_restore(sum) * given;
    Real img = gradient * BySums<Real>::scale(channel.krn.shift);
    Real krn = gradient * BySums<Real>::scale(channel.img.shift);
    if (given == 0 || !proven || !usable(img) || !usable(krn)) {
      // A window of nothing but zeros has a gradient of 0 (p = 1, a plain sum, has another).
      unproven = unproven || !(given == 0 || (proven && sum == 0 && e.flat_at_zero()));
      img = krn = 0;
    }
    to_img[n] = img;
    if (!BySums<Real>::own_derivative) to_krn[n] = krn;
  });
  write_flag(flags, unproven);
}

// Grid: planes, parts, as those of numbers and transformed. gradient: C-contiguous.
extern "C" __global__ void __launch_bounds__(256)
SEMICONV_KERNEL_FINISH(const semiconv::Geometry g, const semiconv::Storage* __restrict__ numbers,
                       const semiconv::Real* __restrict__ transformed, const semiconv::Real* __restrict__ ranges,
                       semiconv::Real* __restrict__ gradient, long long of_kernel, long long count) {
  using namespace semiconv;
  const int64 plane = blockIdx.x;
  const Places places(g, of_kernel, plane);
  const Setting setting(g.parameters, 0);
  const BySums<Real> e(setting);
  const Real shift = ranges[plane * 2];
  for (int64 n = (int64)blockIdx.y * 256 + threadIdx.x; n < count; n += (int64)gridDim.y * 256) {
    const int64 at = plane * count + n;
    const Real sum = gradient[at];
    const Real number = BySums<Real>::own_derivative ? Real(0) : (Real)load(numbers[places[n]]);
    // A number at which the derivative is not finite had no part in a proven output.
    gradient[at] = sum == 0 ? Real(0) : sum * e.d_transform(number, shift, transformed[at]);
  }
}
