// root and log on the GPU as the linear field: what comes before and after the ordinary convolution.
//
// Needs what forward.cu needs, SEMICONV_LOG or SEMICONV_ROOT, and the names of three functions:
//   SEMICONV_KERNEL_EXTREMES    the extreme numbers of every part of a plane
//   SEMICONV_KERNEL_TRANSFORM   E of every number, and the ranges of the planes
//   SEMICONV_KERNEL     an output's value from its sum, or from its window's own terms
// A plane is what has one shift: the channels of a (batch, group) of img, or one kernel of krn. No
// atomics, and nothing that the host would have to wait for.
#include "../window.cuh"
#include "../linear.cuh"

namespace semiconv {

// Where a plane's numbers lie: one after the other, or by strides.
struct Numbers {
  const int64 *strides, *sizes;
  int64 first;
  bool dense;
  SEMICONV_FN Numbers(const Geometry& g, bool of_kernel, int64 plane)
      : strides(of_kernel ? g.krn_strides : g.img_strides), sizes(of_kernel ? g.kernel_size : g.image_size) {
    first = of_kernel ? plane * strides[0]
                      : plane / g.groups * strides[0] + plane % g.groups * g.in_channels * strides[1];
    int64 step = 1;
    dense = true;
    for (int a = last_axis; a >= 0; --a) {
      dense = dense && (sizes[a] == 1 || strides[a + 2] == step);
      step *= sizes[a];
    }
    dense = dense && (g.in_channels == 1 || strides[1] == step);
  }
  SEMICONV_FN int64 place(int64 n) const {
    if (dense) return first + n;
    int64 at = first;
    for (int a = last_axis; a >= 0; --a) {
      at += n % sizes[a] * strides[a + 2];
      n /= sizes[a];
    }
    return at + n * strides[1];
  }
};

// The extreme numbers of a plane or a part of it; none: those of nothing.
struct Extremes {
  Real first, last;
  SEMICONV_FN Extremes()
      : first(Linear<Real>::upwards ? negative_infinity<Real>() : infinity<Real>()), last(-first) {}
  SEMICONV_FN void see(Real a, Real b) {
    first = Linear<Real>::larger(first, a);
    last = Linear<Real>::smaller(last, b);
  }
  SEMICONV_FN Range<Real> range() const {
    const bool any = absolute(first) < infinity<Real>();
    const Real none = Linear<Real>::neutral();
    return Range<Real>(any ? first : none, any ? last : none);
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

}  // namespace semiconv

// Grid: planes, parts. extremes: two numbers for each (plane, part).
extern "C" __global__ void __launch_bounds__(256)
SEMICONV_KERNEL_EXTREMES(const semiconv::Geometry g, const semiconv::Storage* __restrict__ numbers,
                         semiconv::Real* __restrict__ extremes, long long of_kernel, long long count) {
  using namespace semiconv;
  const Numbers plane(g, of_kernel, blockIdx.x);
  Extremes seen;
#pragma unroll 4
  for (int64 n = (int64)blockIdx.y * threads + threadIdx.x; n < count; n += (int64)gridDim.y * threads) {
    const Real number = (Real)load(numbers[plane.place(n)]);
    if (Linear<Real>::counts(number)) seen.see(number, number);
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
  const Numbers plane(g, of_kernel, blockIdx.x);
  Extremes seen;
  for (int64 part = threadIdx.x; part < gridDim.y; part += threads) {
    const int64 at = ((int64)blockIdx.x * gridDim.y + part) * 2;
    seen.see(extremes[at], extremes[at + 1]);
  }
  merge(seen);
  if (threadIdx.x == 0) {
    const Range<Real> range = seen.range();
    shift = range.shift;
    if (blockIdx.y == 0) {
      ranges[blockIdx.x * 2] = range.shift;
      ranges[blockIdx.x * 2 + 1] = range.smallest;
    }
  }
  __syncthreads();
  transformed += blockIdx.x * count;
#pragma unroll 4
  for (int64 n = (int64)blockIdx.y * threads + threadIdx.x; n < count; n += (int64)gridDim.y * threads)
    transformed[n] = Linear<Real>::transform((Real)load(numbers[plane.place(n)]), shift);
}

// One thread an output; sums: of the transformed numbers' convolution.
extern "C" __global__ void __launch_bounds__(256, 2)
SEMICONV_KERNEL(const semiconv::Geometry g, const semiconv::Storage* __restrict__ img,
                        const semiconv::Storage* __restrict__ krn,
                        const semiconv::Real* __restrict__ sums,
                        const semiconv::Real* __restrict__ img_ranges,
                        const semiconv::Real* __restrict__ krn_ranges,
                        semiconv::Storage* __restrict__ out, long long outputs) {
  using namespace semiconv;
  const int64 stride = (int64)blockDim.x * gridDim.x;
  const Offset pixels = (Offset)g.pixels(), outputs_per_group = (Offset)g.outputs_per_group;
  for (int64 n = (int64)blockIdx.x * blockDim.x + threadIdx.x; n < outputs; n += stride) {
    const Offset channel = (Offset)n / pixels, plane = channel / outputs_per_group;
    const int64 kernel = g.kernel_of(plane % (Offset)g.groups, channel % outputs_per_group);
    Range<Real> img_range, krn_range;
    img_range.shift = img_ranges[plane * 2];
    img_range.smallest = img_ranges[plane * 2 + 1];
    krn_range.shift = krn_ranges[kernel * 2];
    krn_range.smallest = krn_ranges[kernel * 2 + 1];
    const Proof<Real> proof(img_range, krn_range, g.in_channels * window_size());
    const Real sum = sums[n];
    if (proof.holds(sum)) {
      out[n] = store(Linear<Real>::restore(sum, img_range.shift, krn_range.shift));
      continue;
    }
    const Window window(g, (Offset)n);
    Accumulator<Real> acc;
    acc.start();
    accumulate(g, window, acc, img + window.image_offset(g), krn + window.kernel_offset(g), 0,
               (int32)g.in_channels);
    out[n] = store(acc.result());
  }
}
