// Means of windows and their gradients: SEMICONV_LANES threads an output, 1 or a warp; a thread a position of the image's
// gradient in several planes; of each rate's, several blocks.
//
// Needs SEMICONV_STORAGE, SEMICONV_POWERS or not, SEMICONV_OFFSET (int32 or int64, the type of positions),
// SEMICONV_LANES, SEMICONV_KERNEL, SEMICONV_KERNEL_GRADIENT, SEMICONV_KERNEL_RATES, SEMICONV_KERNEL_SUMS.
#include "../means.cuh"

namespace semiconv {

constexpr int threads_of_means = 128;
constexpr bool slim = sizeof(Real) == 4 && sizeof(Offset) == 4;  // 64 registers suffice for a thread

struct Alone {
  static constexpr bool keeps = true;
  Real* own;
  SEMICONV_FN Real& kept(int i) const { return own[i * threads_of_means]; }
  static SEMICONV_FN int lane() { return 0; }
  static constexpr SEMICONV_FN int lanes() { return 1; }
  static SEMICONV_FN void join(Extent&) {}
  static SEMICONV_FN void join(Sum& sum) { sum.fold(); }
};

struct Warp {
  static constexpr bool keeps = false;
  static constexpr unsigned int all = 0xffffffffu;
  static SEMICONV_FN int lane() { return (int)(threadIdx.x % 32); }
  static constexpr SEMICONV_FN int lanes() { return 32; }
  static SEMICONV_FN void join(Extent& extent) {
    for (int half = 16; half > 0; half /= 2) {
      Extent other;
      other.lowest = __shfl_xor_sync(all, extent.lowest, half);
      other.highest = __shfl_xor_sync(all, extent.highest, half);
      other.nans = __shfl_xor_sync(all, (int)extent.nans, half) != 0;
      extent.join(other);
    }
  }
  static SEMICONV_FN void join(Sum& sum) {
    sum.fold();
    for (int half = 16; half > 0; half /= 2) {
      BlockedSum<Real> other;
      other.total = __shfl_xor_sync(all, sum.total, half);
      other.correction = __shfl_xor_sync(all, sum.correction, half);
      sum.join(other);
    }
    // The order of a join matters for the last bits: all lanes take the first one's.
    sum.total = __shfl_sync(all, sum.total, 0);
    sum.correction = __shfl_sync(all, sum.correction, 0);
  }
};

// The team of this thread.
template <int LANES> struct TeamOf {
  using type = Warp;
  static SEMICONV_FN Warp make() { return Warp(); }
};
template <> struct TeamOf<1> {
  using type = Alone;
  static SEMICONV_FN Alone make() {
    extern __shared__ Real kept_terms[];  // the taps of a window for each thread
    return Alone{kept_terms + threadIdx.x};
  }
};

// Index n of C-contiguous planes of these sizes: the plane, and the position in it.
struct Place {
  Offset plane, at[3];
  SEMICONV_FN Place(Offset n, const int64* sizes, const Divisor* by) {
    for (int a = 2; a >= 0; --a) {
      const Offset rest = quotient(n, sizes[a], by[a]);
      at[a] = n - rest * (Offset)sizes[a];
      n = rest;
    }
    plane = n;
  }
};

}  // namespace semiconv

extern "C" __global__ void __launch_bounds__(128, semiconv::slim && SEMICONV_LANES == 1 ? 8 : 4)
SEMICONV_KERNEL(const semiconv::Storage* __restrict__ img, const semiconv::Real* __restrict__ rate,
                semiconv::Storage* __restrict__ out, semiconv::Real* __restrict__ residual,
                const semiconv::WindowMeans w) {
  using namespace semiconv;
  using Team = TeamOf<SEMICONV_LANES>::type;
  const Team team = TeamOf<SEMICONV_LANES>::make();
  const Offset pixels = (Offset)w.img[0] * (Offset)w.img[1] * (Offset)w.img[2];
  const int64 outputs = w.planes * w.out[0] * w.out[1] * w.out[2];
  const int64 step = (int64)gridDim.x * blockDim.x / Team::lanes();
  for (int64 n = ((int64)blockIdx.x * blockDim.x + threadIdx.x) / Team::lanes(); n < outputs; n += step) {
    const Place place((Offset)n, w.out, w.by_out);
    const Window window(w, img, place.plane * pixels, place.at);
    const Real own = rate[w.rates == 1 ? 0 : place.plane % (Offset)w.rates];
    mean_of_window(w, window, own, team, out + n, residual ? residual + n : residual, outputs);
  }
}

extern "C" __global__ void __launch_bounds__(256, semiconv::slim ? 4 : 2)
SEMICONV_KERNEL_GRADIENT(const semiconv::Storage* __restrict__ grad_out, const semiconv::Storage* __restrict__ img,
                         const semiconv::Real* __restrict__ rate, const semiconv::Real* __restrict__ residual,
                         semiconv::Storage* __restrict__ grad_img, const semiconv::WindowMeans w) {
  using namespace semiconv;
  const int64 in_plane = w.out[0] * w.out[1] * w.out[2];
  const Real* __restrict__ distances = residual + w.planes * in_plane;
  const Offset pixels = (Offset)w.img[0] * (Offset)w.img[1] * (Offset)w.img[2], together = (Offset)w.together;
  const int64 positions = (w.planes + w.together - 1) / w.together * pixels;
  for (int64 n = (int64)blockIdx.x * blockDim.x + threadIdx.x; n < positions; n += (int64)gridDim.x * blockDim.x) {
    const Place place((Offset)n, w.img, w.by_img);
    const Viewers viewers(w, place.at);
    const Offset first = place.plane * together;
    Offset value = (Offset)n - place.plane * pixels + first * pixels;
    const Offset end = minimum((Offset)(first + together), (Offset)w.planes);
    SEMICONV_ROLLED
    for (Offset plane = first; plane < end; ++plane, value += pixels) {
      const Real own = rate[w.rates == 1 ? 0 : plane % (Offset)w.rates];
      grad_img[value] = store(gradient_of_value(w, viewers, load(img[value]), own, plane * (Offset)in_plane, grad_out,
                                                residual, distances));
    }
  }
}

// Block b adds the products of grad_out and the outputs' derivatives of rate b % rates, every `parts`-th chunk of them.
extern "C" __global__ void __launch_bounds__(256, 2)
SEMICONV_KERNEL_RATES(const semiconv::Storage* __restrict__ grad_out, const semiconv::Real* __restrict__ residual,
                      double* __restrict__ sums, const semiconv::WindowMeans w, long long parts) {
  using namespace semiconv;
  __shared__ double of_thread[256];
  const int64 in_plane = w.out[0] * w.out[1] * w.out[2];
  const Real* slopes = residual + 2 * w.planes * in_plane;
  const Offset rate = (Offset)blockIdx.x % (Offset)w.rates, part = (Offset)blockIdx.x / (Offset)w.rates;
  const Offset count = (Offset)(w.planes / w.rates * in_plane), step = (Offset)(256 * parts);
  double sum = 0;
  for (int64 n = (int64)part * 256 + threadIdx.x; n < count; n += step) {
    const Offset plane = (Offset)n / (Offset)in_plane;
    const int64 output = ((int64)plane * w.rates + rate) * in_plane + ((Offset)n - plane * (Offset)in_plane);
    const Real grad = load(grad_out[output]);
    if (grad != 0) sum += (double)(grad * slopes[output]);
  }
  of_thread[threadIdx.x] = sum;
  for (int half = 128; half > 0; half /= 2) {
    __syncthreads();
    if ((int)threadIdx.x < half) of_thread[threadIdx.x] += of_thread[threadIdx.x + half];
  }
  if (threadIdx.x == 0) sums[blockIdx.x] = of_thread[0];
}

// A thread a rate: the sum of its parts.
extern "C" __global__ void __launch_bounds__(256, 2)
SEMICONV_KERNEL_SUMS(const double* __restrict__ sums, semiconv::Real* __restrict__ grad_rate,
                     const semiconv::WindowMeans w, long long parts) {
  using namespace semiconv;
  for (int64 n = (int64)blockIdx.x * blockDim.x + threadIdx.x; n < w.rates; n += (int64)blockDim.x * gridDim.x) {
    double sum = 0;
    for (int64 part = 0; part < parts; ++part) sum += sums[part * w.rates + n];
    grad_rate[n] = (Real)sum;
  }
}
