// One thread per output reduces a list of taps: footprints, structures and weighted sums.
//
// Needs SEMICONV_STORAGE, SEMICONV_KERNEL (the function's name), SEMICONV_LANE (the type of terms),
// SEMICONV_OUT (the output's storage type), and one of
//   SEMICONV_FLAT        the best element           SEMICONV_STRUCTURE   the best element + value
//   SEMICONV_SATURATING  the same of 64-bit integers, values of int64
//   SEMICONV_SUM         the sum of element * value; SEMICONV_SYMMETRY 1 (-1): opposite taps joined
// with SEMICONV_MINIMUM (true or false) for the first three. Sizes, window, taps and the tables of
// border positions are arguments: nothing is compiled for another one.
#include "../sums.cuh"

namespace semiconv {

constexpr int most_axes = 8;

// Twin of semiconv_cupy/ndimage/cuda.py. All strides are in elements.
struct Neighbourhood {
  int64 rank, taps, outputs;
  int64 size[most_axes], stride[most_axes], window[most_axes], before[most_axes];
  int64 table[most_axes];  // where the axis' border positions start in the tables
};

using Lane = SEMICONV_LANE;
using Out = SEMICONV_OUT;

// The elements that one output's taps see.
struct View {
  const Storage* at;  // the window's first element, where all of it lies inside
  bool inside;
  int64 position[most_axes];

  SEMICONV_FN View(const Neighbourhood& n, const Storage* source, int64 output) {
    at = source;
    inside = true;
    for (int a = (int)n.rank - 1; a >= 0; --a) {
      position[a] = output % n.size[a];
      output /= n.size[a];
      const int64 begin = position[a] - n.before[a];
      inside = inside && begin >= 0 && begin + n.window[a] <= n.size[a];
      at += begin * n.stride[a];
    }
  }
  SEMICONV_FN Lane element(const Neighbourhood& n, const Storage* source, const int64* tables,
                           const int64* indices, const int64* offsets, Lane outside, int64 tap) const {
    if (inside) return (Lane)load(at[offsets[tap]]);
    int64 offset = 0;
    for (int a = 0; a < n.rank; ++a) {
      const int64 element = tables[n.table[a] + position[a] + indices[tap * n.rank + a]];
      if (element < 0) return outside;
      offset += element * n.stride[a];
    }
    return (Lane)load(source[offset]);
  }
};

}  // namespace semiconv

extern "C" __global__ void __launch_bounds__(256)
SEMICONV_KERNEL(const semiconv::Neighbourhood n, const semiconv::Storage* __restrict__ source,
                semiconv::Out* __restrict__ out, const long long* __restrict__ tables,
                const long long* __restrict__ indices, const long long* __restrict__ offsets,
                const void* __restrict__ given, semiconv::Lane outside, double first,
                int first_apart) {
  using namespace semiconv;
  const int64 step = (int64)blockDim.x * gridDim.x;
  for (int64 o = (int64)blockIdx.x * blockDim.x + threadIdx.x; o < n.outputs; o += step) {
    const View view(n, source, o);
    const auto element = [&](int64 tap) {
      return view.element(n, source, tables, indices, offsets, outside, tap);
    };
#if defined(SEMICONV_SUM)
    const double* weights = (const double*)given;
#if SEMICONV_SYMMETRY
    double sum = element(0) * weights[0];
    for (int64 tap = 1; tap <= n.taps / 2; ++tap)
      sum += (element(tap) + SEMICONV_SYMMETRY * element(n.taps - tap)) * weights[tap];
#else
    double sum = 0;
    for (int64 tap = 0; tap < n.taps; ++tap) sum += element(tap) * weights[tap];
#endif
    out[o] = Converted<Out>::from(sum);
#else
    constexpr bool minimum = SEMICONV_MINIMUM;
    Lane best = worst<minimum, Lane>();
#if defined(SEMICONV_FLAT)
    for (int64 tap = 0; tap < n.taps; ++tap) best = better<minimum>(best, element(tap));
    out[o] = Store<Out>::from(best);
#elif defined(SEMICONV_SATURATING)
    const int64* values = (const int64*)given;
    for (int64 tap = 0; tap < n.taps; ++tap)
      best = better<minimum>(best, saturating_sum(element(tap), values[tap]));
    out[o] = stored_sum(best);
#else
    const Lane* values = (const Lane*)given;
    if (first_apart) best = better<minimum>(best, (Lane)((double)element(0) + first));
    for (int64 tap = first_apart ? 1 : 0; tap < n.taps; ++tap)
      best = better<minimum>(best, (Lane)(element(tap) + values[tap]));
    out[o] = stored_sum(best);
#endif
#endif
  }
}
