// One thread per output reduces a list of taps: footprints, structures and weighted sums.
//
// Needs SEMICONV_STORAGE, SEMICONV_KERNEL (the function's name), SEMICONV_LANE (the type of terms),
// SEMICONV_OUT (the output's storage type), SEMICONV_RANK (number of axes), and one of
//   SEMICONV_FLAT        the best element           SEMICONV_STRUCTURE   the best element + value
//   SEMICONV_SATURATING  the same of 64-bit integers, values of int64
//   SEMICONV_SUM         the sum of element * value; SEMICONV_SYMMETRY 1 (-1): opposite taps joined
// with SEMICONV_MINIMUM (true or false) for the first three. Sizes, window, taps and the tables of
// border positions are arguments: nothing is compiled for another one.
#include "../filters.cuh"

namespace semiconv {

constexpr int rank = SEMICONV_RANK;

// Twin of semiconv_cupy/ndimage/structs.py. All strides are in elements.
struct Neighbourhood {
  int64 taps, outputs;
  int64 size[max_rank], stride[max_rank], window[max_rank], before[max_rank];
  int64 table[max_rank];  // where the axis' positions beyond the border start in the tables
};

using Lane = SEMICONV_LANE;
using Out = SEMICONV_OUT;

// The elements that one output's taps see.
struct View {
  const Storage* at;  // the window's first element, where all of it lies inside
  bool inside;
  int64 position[rank];

  SEMICONV_FN void look(const Neighbourhood& n, const Storage* source, int64 output) {
    at = source;
    inside = true;
#pragma unroll
    for (int a = rank - 1; a >= 0; --a) {
      position[a] = output % n.size[a];
      output /= n.size[a];
      const int64 begin = position[a] - n.before[a];
      inside = inside && begin >= 0 && begin + n.window[a] <= n.size[a];
      at += begin * n.stride[a];
    }
  }
};

// Where terms come from: what several outputs of a thread share.
struct Source {
  const Storage* elements;
  const int64 *tables, *indices;
  Lane outside;
  int absent;  // what lies outside takes no part, whatever is added to it
};

// One output next to the border: every position is looked up.
struct Looked {
  const Neighbourhood& n;
  const Source& source;
  View view;

  // Where the tap's element lies; negative where it shows none.
  SEMICONV_FN int64 place(int64 tap) const {
    int64 offset = 0;
#pragma unroll
    for (int a = 0; a < rank; ++a) {
      const int64 place = view.position[a] + source.indices[tap * rank + a] - n.before[a];
      const int64 element =
          element_at(n.size[a], n.before[a], source.tables + n.table[a], place);
      if (element < 0) return element;
      offset += element * n.stride[a];
    }
    return offset;
  }
  SEMICONV_FN Lane operator()(int64 tap, int64) const {
    const int64 offset = place(tap);
    return offset < 0 ? source.outside : (Lane)load(source.elements[offset]);
  }
  SEMICONV_FN bool sees(int64 tap) const { return !source.absent || place(tap) >= 0; }
};
// One output inside.
struct Straight {
  const Storage* at;
  SEMICONV_FN Lane operator()(int64, int64 offset) const { return (Lane)load(at[offset]); }
  SEMICONV_FN bool sees(int64) const { return true; }
};

struct Taps {
  const int64* offsets;
  const void* given;
  double first;
  int first_apart;
};

// Reduce all taps for COUNT outputs at once, so that a tap is read once for all of them.
template <int COUNT, class Element>
SEMICONV_FN void reduce(const Neighbourhood& n, const Taps& taps, const Element* element, Out* out,
                        int64 apart) {
#if defined(SEMICONV_SUM)
  const double* weights = (const double*)taps.given;
  double sum[COUNT];
#if SEMICONV_SYMMETRY
  for (int k = 0; k < COUNT; ++k) sum[k] = element[k](0, taps.offsets[0]) * weights[0];
  for (int64 tap = 1; tap <= n.taps / 2; ++tap) {
    const int64 other = n.taps - tap;
    for (int k = 0; k < COUNT; ++k)
      sum[k] += (element[k](tap, taps.offsets[tap]) +
                 SEMICONV_SYMMETRY * element[k](other, taps.offsets[other])) * weights[tap];
  }
#else
  for (int k = 0; k < COUNT; ++k) sum[k] = 0;
  for (int64 tap = 0; tap < n.taps; ++tap) {
    const int64 offset = taps.offsets[tap];
    const double weight = weights[tap];
    for (int k = 0; k < COUNT; ++k) sum[k] += element[k](tap, offset) * weight;
  }
#endif
  for (int k = 0; k < COUNT; ++k) out[k * apart] = Converted<Out>::from(sum[k]);
#else
  constexpr bool minimum = SEMICONV_MINIMUM;
  Lane best[COUNT];
  for (int k = 0; k < COUNT; ++k) best[k] = worst<minimum, Lane>();
#if defined(SEMICONV_FLAT)
  for (int64 tap = 0; tap < n.taps; ++tap) {
    const int64 offset = taps.offsets[tap];
    for (int k = 0; k < COUNT; ++k) best[k] = better<minimum>(best[k], element[k](tap, offset));
  }
  for (int k = 0; k < COUNT; ++k) out[k * apart] = Store<Out>::from(best[k]);
#else
#if defined(SEMICONV_SATURATING)
  const int64* values = (const int64*)taps.given;
  const int64 begin = 0;
#else
  const Lane* values = (const Lane*)taps.given;
  const int64 begin = taps.first_apart ? 1 : 0;
  if (taps.first_apart)
    for (int k = 0; k < COUNT; ++k)
      best[k] = better<minimum>(best[k], (Lane)((double)element[k](0, taps.offsets[0]) + taps.first));
#endif
  for (int64 tap = begin; tap < n.taps; ++tap) {
    const int64 offset = taps.offsets[tap];
    const auto value = values[tap];
    for (int k = 0; k < COUNT; ++k) {
#if defined(SEMICONV_SATURATING)
      if (element[k].sees(tap))  // no 64-bit number stays behind all others when a value is added to it
        best[k] = better<minimum>(best[k], saturating_sum(element[k](tap, offset), value));
#else
      best[k] = better<minimum>(best[k], (Lane)(element[k](tap, offset) + value));
#endif
    }
  }
  for (int k = 0; k < COUNT; ++k) out[k * apart] = stored_sum(best[k]);
#endif
#endif
}

}  // namespace semiconv

extern "C" __global__ void __launch_bounds__(256, 2)
SEMICONV_KERNEL(const semiconv::Neighbourhood n, const semiconv::Storage* __restrict__ elements,
                semiconv::Out* __restrict__ out, const long long* __restrict__ tables,
                const long long* __restrict__ indices, const long long* __restrict__ offsets,
                const void* __restrict__ given, semiconv::Lane outside, double first,
                int first_apart, int absent) {
  using namespace semiconv;
  constexpr int together = 4;  // outputs of a thread, a block apart
  const Source source{elements, tables, indices, outside, absent};
  const Taps taps{offsets, given, first, first_apart};
  const int64 apart = blockDim.x, block = together * apart;
  for (int64 o = blockIdx.x * block + threadIdx.x; o < n.outputs; o += gridDim.x * block) {
    Straight straight[together];
    bool all = o + (together - 1) * apart < n.outputs;
    for (int k = 0; k < together && all; ++k) {
      View view;
      view.look(n, elements, o + k * apart);
      straight[k].at = view.at;
      all = view.inside;
    }
    if (all) {
      reduce<together>(n, taps, straight, out + o, apart);
      continue;
    }
    for (int64 each = o; each < n.outputs && each < o + block; each += apart) {
      Looked looked{n, source, {}};
      looked.view.look(n, elements, each);
      const Straight direct{looked.view.at};
      if (looked.view.inside) reduce<1>(n, taps, &direct, out + each, apart);
      else reduce<1>(n, taps, &looked, out + each, apart);
    }
  }
}
