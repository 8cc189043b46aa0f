// The transpose of a pass of parabolas.cu: a thread for each line, as host/parabolas_backward.cpp.
//
//     out[winners[x]] += grad[x]        moment += grad[x] (x - winners[x])^2
//
// Each line is added up in the order of its outputs, so that its bits are the same in every run. Lines side by side
// are read together; along the last axis a thread goes through its own lines of the cache. Needs SEMICONV_STORAGE
// (float64) and SEMICONV_KERNEL (the function's name).
#include "../filters.cuh"

namespace semiconv {

// Twin of semiconv_cupy/ndimage/structs.py: lines of `size` elements, `inner` side by side.
struct LinePullback {
  int64 lines, size, inner;
};

}  // namespace semiconv

extern "C" __global__ void __launch_bounds__(128)
SEMICONV_KERNEL(const semiconv::LinePullback pass, const int* __restrict__ winners, const double* __restrict__ grad,
                double* __restrict__ out, double* __restrict__ moments) {
  using namespace semiconv;
  const int64 line = (int64)blockIdx.x * blockDim.x + threadIdx.x;
  if (line >= pass.lines) return;
  const int64 apart = pass.inner, begin = line / apart * apart * pass.size + line % apart;
  for (int64 x = 0; x < pass.size; ++x) out[begin + x * apart] = 0;
  double moment = 0;
  for (int64 x = 0; x < pass.size; ++x) {
    const int64 at = begin + x * apart, winner = winners[at];
    if (winner < 0) continue;  // nothing was seen
    const double value = grad[at], far = (double)(x - winner);
    out[begin + winner * apart] += value;
    if (far != 0) moment += value * (far * far);
  }
  moments[line] = moment;
}
