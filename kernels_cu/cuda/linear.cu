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

// Where the n-th number of a plane lies.
SEMICONV_FN int64 place_of(const Geometry& g, bool of_kernel, int64 plane, int64 n) {
  const int64* strides = of_kernel ? g.krn_strides : g.img_strides;
  const int64* sizes = of_kernel ? g.kernel_size : g.image_size;
  int64 at = 0;
  for (int a = last_axis; a >= 0; --a) {
    at += n % sizes[a] * strides[a + 2];
    n /= sizes[a];
  }
  if (of_kernel) return at + n * strides[1] + plane * strides[0];
  const int64 channel = plane % g.groups * g.in_channels + n;
  return at + channel * strides[1] + plane / g.groups * strides[0];
}

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

}  // namespace semiconv

// Grid: planes, parts. extremes: two numbers for each (plane, part).
extern "C" __global__ void __launch_bounds__(256)
SEMICONV_KERNEL_EXTREMES(const semiconv::Geometry g, const semiconv::Storage* __restrict__ numbers,
                         semiconv::Real* __restrict__ extremes, long long of_kernel, long long count) {
  using namespace semiconv;
  __shared__ Real first[256], last[256];
  const int thread = threadIdx.x;
  Extremes seen;
  for (int64 n = (int64)blockIdx.y * 256 + thread; n < count; n += (int64)gridDim.y * 256) {
    const Real number = (Real)load(numbers[place_of(g, of_kernel, blockIdx.x, n)]);
    if (Linear<Real>::counts(number)) seen.see(number, number);
  }
  first[thread] = seen.first;
  last[thread] = seen.last;
  for (int half = 128; half > 0; half /= 2) {
    __syncthreads();
    if (thread < half) {
      seen.see(first[thread + half], last[thread + half]);
      first[thread] = seen.first;
      last[thread] = seen.last;
    }
  }
  if (thread == 0) {
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
  const int64 plane = blockIdx.x;
  Extremes seen;
  for (int64 part = 0; part < gridDim.y; ++part) {
    const int64 at = (plane * gridDim.y + part) * 2;
    seen.see(extremes[at], extremes[at + 1]);
  }
  const Range<Real> range = seen.range();
  if (blockIdx.y == 0 && threadIdx.x == 0) {
    ranges[plane * 2] = range.shift;
    ranges[plane * 2 + 1] = range.smallest;
  }
  for (int64 n = (int64)blockIdx.y * 256 + threadIdx.x; n < count; n += (int64)gridDim.y * 256) {
    const Real number = (Real)load(numbers[place_of(g, of_kernel, plane, n)]);
    transformed[plane * count + n] = Linear<Real>::transform(number, range.shift);
  }
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
  for (int64 n = (int64)blockIdx.x * blockDim.x + threadIdx.x; n < outputs; n += stride) {
    const Window window(g, (Offset)n);
    const int64 plane = (int64)window.batch * g.groups + window.group;
    const int64 kernel = g.kernel_of(window.group, window.output);
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
    Accumulator<Real> acc;
    acc.start();
    accumulate(g, window, acc, img + window.image_offset(g), krn + window.kernel_offset(g), 0,
               (int32)g.in_channels);
    out[n] = store(acc.result());
  }
}
