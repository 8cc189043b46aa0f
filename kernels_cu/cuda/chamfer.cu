// Distances in steps: the elements of one front of a raster scan, which no step connects.
//
//     front of an element (y, x): 2 y + x        0 1 2 3      a step back in raster order, whatever else it
//                                                2 3 4 5      changes, leads to an earlier front; of more axes
//                                                4 5 6 7      the weights are 1, 2, 4, ...
//
// The launcher goes through the fronts in order (SIGN 1), then against it (-1): what host/chamfer.cpp computes.
// Needs SEMICONV_KERNEL (the function's name), SEMICONV_RANK (number of axes), SEMICONV_STORAGE=int32.
#include "../filters.cuh"

namespace semiconv {

constexpr int rank = SEMICONV_RANK;

// Twin of semiconv_cupy/ndimage/structs.py. `rows`: all axes but the last together.
struct Front {
  int64 size[max_rank];
  int64 rows, steps;
  int64 number;  // of the front
  int32 sign;
};

}  // namespace semiconv

// features may be null.
extern "C" __global__ void __launch_bounds__(256)
SEMICONV_KERNEL(const semiconv::Front f, const long long* __restrict__ steps, int* distances, int* features) {
  using namespace semiconv;
  const int64 row = (int64)blockIdx.x * blockDim.x + threadIdx.x;
  if (row >= f.rows) return;
  int64 position[rank], rest = row, along = f.number;
#pragma unroll
  for (int a = rank - 2; a >= 0; --a) {
    position[a] = rest % f.size[a];
    rest /= f.size[a];
    along -= position[a] << (rank - 1 - a);
  }
  if (along < 0 || along >= f.size[rank - 1]) return;
  position[rank - 1] = along;
  const int64 at = row * f.size[rank - 1] + along;
  int best = distances[at];
  if (best == 0) return;
  int64 reached = at;
  for (int64 k = 0; k < f.steps; ++k) {
    int64 from = 0;
    bool inside = true;
#pragma unroll
    for (int a = 0; a < rank; ++a) {
      const int64 place = position[a] + f.sign * steps[k * rank + a];
      inside = inside && place >= 0 && place < f.size[a];
      from = from * f.size[a] + place;
    }
    if (!inside) continue;
    const int through = distances[from] + 1;
    if (through < best) {
      best = through;
      reached = from;
    }
  }
  distances[at] = best;
  if (features && reached != at) features[at] = features[reached];
}
