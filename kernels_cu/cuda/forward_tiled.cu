// The `tiled` forward kernel: image tile and weights in shared memory, a block of output channels,
// rows and columns in each thread's registers.
//
// Needs what patch.cuh needs, SEMICONV_KERNEL, SEMICONV_RESIDUAL as in forward.cu, and
//   SEMICONV_BLOCKS       blocks of a multiprocessor that the registers must suffice for
//   SEMICONV_SLAB         rows of a plane of taps that are in shared memory at a time
// Floating semifields have an absorbing zero here: positions outside are loaded as the zero. On
// integers no number is absorbing, and they are left out. Same accumulators and tap order as `direct`.
#include "packed_pairs.cuh"
#include "patch.cuh"

namespace semiconv {

#if defined(SEMICONV_RESIDUAL) && defined(SEMICONV_SELECT) && !defined(SEMICONV_SPREAD_GRADIENT)
constexpr bool provenance = true;
#else
constexpr bool provenance = false;
#endif

#if defined(SEMICONV_INTEGER)
constexpr bool integer = true;
#else
constexpr bool integer = false;
#endif

// ---- numbers -----------------------------------------------------------------------------------

// What the multiplication adds to img, where it adds at all; integers saturate besides.
#if defined(SEMICONV_PLAIN_TIMES)
constexpr bool adds = true;
template <class V> constexpr SEMICONV_FN V addend(V krn) { return SEMICONV_PLAIN_TIMES; }
#else
constexpr bool adds = false;
template <class V> constexpr SEMICONV_FN V addend(V krn) { return krn; }
#endif

// Extrema of sums of short integers. Wider numbers hold every sum, and as saturation is monotonic
// it may wait for the extremum: one instruction for a term on sm_90, for two terms of bytes. An
// outside position is a number so far off that it is never selected. Sums of halves go in pairs too.
#if defined(SEMICONV_SELECT)
constexpr bool extrema_of_sums = adds && plain_extremum;
#else
constexpr bool extrema_of_sums = false;
#endif
#if defined(SEMICONV_RESIDUAL)
constexpr bool paired = false;
#else
constexpr bool paired = extrema_of_sums && InPairs<Storage>::value;
#endif
constexpr bool short_sums = extrema_of_sums && integer && sizeof(Storage) <= 2;
template <bool SHORT_SUMS, bool PAIRED> struct ValueOf { using type = Real; };
template <> struct ValueOf<true, false> { using type = Word; };
template <> struct ValueOf<true, true> { using type = Pair; };
template <> struct ValueOf<false, true> { using type = Halves<Storage>; };
using Value = ValueOf<short_sums, paired>::type;
using Number = Lanes<Value>::Number;
constexpr int lanes = Lanes<Value>::count, values = columns / lanes;
template <class V, class N> SEMICONV_FN V in_all_lanes(N number) { return Lanes<V>::of(number, number); }
template <> SEMICONV_FN Word semifield_zero() { return in_all_lanes<Word>((int32)semifield_zero<Real>()); }
template <> SEMICONV_FN Pair semifield_zero() { return in_all_lanes<Pair>((int32)semifield_zero<Real>()); }
template <> SEMICONV_FN Halves<float16> semifield_zero() {
  return in_all_lanes<Halves<float16>>(Store<float16>::from(semifield_zero<float>()));
}
template <> SEMICONV_FN Halves<bfloat16> semifield_zero() {
  return in_all_lanes<Halves<bfloat16>>(Store<bfloat16>::from(semifield_zero<float>()));
}
#if defined(SEMICONV_SELECT_GREATER)
constexpr bool upwards = true;
#else
constexpr bool upwards = false;
#endif
template <class N> SEMICONV_FN N outside() {
  if constexpr (short_sums) return (upwards ? -4 : 4) * (1 << 8 * (int)sizeof(Storage));
  else return N{};
}

// An extremum saturated at last: the zero is among its terms, so that it is within the other limit.
template <class N, class R = Real> SEMICONV_FN N saturated(N number) {
  if constexpr (!short_sums) return number;
  else if constexpr (upwards) return minimum(number, (N)Limits<R>::highest);
  else return maximum(number, (N)Limits<R>::lowest);
}

// The same of a value of one lane, and of a result.
template <class V> SEMICONV_FN V saturated_value(V value) {
  return in_all_lanes<V>(saturated(Lanes<V>::number(value, 0)));
}
template <class N> SEMICONV_FN Storage result_of(N number) { return store(saturated(number)); }
template <> SEMICONV_FN Storage result_of(Storage number) { return number; }

// Sums of longer integers leave the range only where one of the two is in its outer half.
template <class V> constexpr SEMICONV_FN bool may_overflow() {
  if constexpr (!Limits<V>::integer || short_sums) return false;
  else return adds && (Limits<V>::lowest < 0 || addend(1) > 0);  // 0 - 1 is out at once
}
template <class V> SEMICONV_FN bool is_small(V number) {
  return number >= Limits<V>::lowest / 2 && number <= Limits<V>::highest / 2;
}
// Whether terms may be plain sums, unless numbers are found that are not small.
constexpr bool plain = short_sums || may_overflow<Real>();

// A weight in shared memory. Short numbers pass through registers on their way there and are
// converted at once; others are copied as they are.
template <bool SHORT> struct WeightOf { using type = Storage; };
template <> struct WeightOf<true> { using type = Value; };
using Weight = WeightOf<sizeof(Storage) < 4>::type;
template <class W> SEMICONV_FN W weight_of(Storage stored) {
  if constexpr (short_sums) return in_all_lanes<W>(addend((int32)load(stored)));
  else if constexpr (paired) return in_all_lanes<W>(store(addend(load(stored))));
  else return (W)load(stored);
}
template <bool PLAIN, class V, class W> SEMICONV_FN V term_of(V img, W krn) {
  if constexpr (short_sums || paired) return img + krn;
  else if constexpr (PLAIN) return img + addend((V)load(krn));
  else return times(img, (V)load(krn));
}

// ---- a block's share -----------------------------------------------------------------------------

// A plane of taps is cut into slabs of rows where it is large; the last one has what is left.
constexpr int slab = SEMICONV_SLAB;
constexpr int slabs = (size_y() + slab - 1) / slab;
struct Slab {
  int32 first, rows;  // of taps, in the kernel's order
  // Rows of the image from the windows' first one to the slab's.
  SEMICONV_FN int32 offset() const { return (mirrored ? size_y() - first - rows : first) * dilation_y(); }
};
SEMICONV_FN Slab slab_of(int32 p) {
  if (slabs == 1) return {0, size_y()};
  const int32 first = p % slabs * slab;
  return {first, size_y() - first < slab ? size_y() - first : slab};
}

constexpr int patch_height = (tile_rows - 1) * stride_y() + (slab - 1) * dilation_y() + 1;
constexpr int patch_chunks =
    chunks_for(shift + (tile_columns - 1) * stride_x() + (size_x() - 1) * dilation_x() + 1);
using Source = PatchSource<patch_height, patch_chunks>;
struct Patch {
  Chunk<Storage, columns> of[Source::chunks];
};

// Weights of one slab in chunks, a row of taps after the other; a tap's channels lie together.
constexpr int plane_taps = size_y() * size_x();
constexpr int weight_chunks = chunks_for(size_x() * channels);  // of a row of taps
constexpr int weights_pitch = weight_chunks * columns;
constexpr int weights_of_thread = (slab * weights_pitch + threads - 1) / threads;
struct Weights {
  Chunk<Weight, columns> of[slab * weight_chunks];
};
struct WeightRoute {
  int32 at[weights_of_thread];
};

// Taps of a row that go by at once: all, or so many of a wide kernel that registers hold what
// they see. Whole chunks of them, so that each segment of a row begins alike in its chunk.
constexpr bool wide = size_x() * dilation_x() > 33;
constexpr int segment = !wide ? size_x() : dilation_x() > 4 ? columns : 16 / dilation_x() / columns * columns;

#if !defined(SEMICONV_RESIDUAL)
using Chosen = Accumulator<Value>;
#elif defined(SEMICONV_SELECT) && !defined(SEMICONV_SPREAD_GRADIENT)
using Chosen = Provenance<Value, int32>;
#else
using Chosen = Differentiable<Value>;
#endif
// Winners of extrema are told by runs of taps where windows are large enough: one comparison a run,
// and in the end which tap of the winning run it was. A run is a part of a row of taps. Where there
// is one plane, it is still in shared memory in the end, and looking for a tap of a longer run is cheap.
#if defined(SEMICONV_SELECT)
constexpr bool by_runs = provenance && plain_extremum && size_x() > 2 && (channels > 1 || plane_taps >= 25);
#else
constexpr bool by_runs = false;
#endif
constexpr bool once = sides == 1 && slabs == 1;  // all that a block sees is copied at once
constexpr bool one_plane = once && outer == 0 && depth == 1;
constexpr int longest = one_plane && !wide ? 6 : 4;
constexpr int runs = (size_x() + longest - 1) / longest;  // of a row
constexpr int run = wide ? 4 : (size_x() + runs - 1) / runs;

template <class A> using Accumulators = A[channels][rows][values];
template <class A, class F> SEMICONV_FN void for_each(Accumulators<A>& acc, F&& visit) {
#pragma unroll
  for (int c = 0; c < channels; ++c)
#pragma unroll
    for (int row = 0; row < rows; ++row)
#pragma unroll
      for (int x = 0; x < values; ++x) visit(acc[c][row][x]);
}

#if defined(SEMICONV_SELECT)
SEMICONV_FN Value extremum(Value a, Value b) { return select(a, b); }
#else
SEMICONV_FN Value extremum(Value a, Value) { return a; }
#endif

// What a thread sees of a slab: the patch from its own corner on, the weights, and which of all
// planes' rows of taps they are.
struct View {
  const Chunk<Storage, columns>* patch;
  const Chunk<Weight, columns>* weights;
  int32 first_row, rows;
  SEMICONV_FN int32 tap_rows() const { return slabs == 1 ? size_y() : rows; }
};

// The terms of row r of the patch with TAPS neighbouring taps, from the first on, a multiple of
// `segment`: what they see is loaded into registers once for all outputs.
template <int PASS, int TAPS, bool PLAIN, class A, class F>
SEMICONV_FN void visit_segment(Accumulators<A>& acc, const View& view, int r, int first, F&& inside) {
  constexpr int behind = mirrored ? (size_x() - TAPS) * dilation_x() : 0;
  constexpr int lead = (shift + behind) % columns;  // elements of the first chunk that go unseen
  constexpr int seen = chunks_for(lead + (columns - 1) * stride_x() + (TAPS - 1) * dilation_x() + 1);
  const int chunk = (shift + behind) / columns + (mirrored ? -first : first) * dilation_x() / columns;
  Number numbers[seen * columns];
#pragma unroll
  for (int k = 0; k < seen; ++k) {
    const Chunk<Storage, columns> stored = view.patch[r * patch_chunks + chunk + k];
#pragma unroll
    for (int x = 0; x < columns; ++x) {
      const int place = k * columns + x;
      numbers[place] = Lanes<Value>::from(stored.of[x]);
      if (short_sums && !inside(r, chunk * columns + place)) numbers[place] = outside<Number>();
    }
  }
  constexpr int apart = (lanes - 1) * stride_x();  // of a value's numbers
  Value line[seen * columns - apart];
#pragma unroll
  for (int place = 0; place + apart < seen * columns; ++place)
    line[place] = Lanes<Value>::of(numbers[place], numbers[place + apart]);
#pragma unroll
  for (int row = 0; row < rows; ++row) {
    const int step = r - row * stride_y();
    if (step < 0 || step % dilation_y() || step / dilation_y() >= view.tap_rows()) continue;
    const int ky = mirrored ? view.tap_rows() - 1 - step / dilation_y() : step / dilation_y();
    Value of_run[by_runs ? channels : 1][values];
    Chunk<Weight, columns> weights;
#pragma unroll
    for (int n = 0; n < TAPS * channels; ++n) {
      const int kx = n / channels, c = n % channels;
      const int at = lead + (mirrored ? TAPS - 1 - kx : kx) * dilation_x();
      if (n % columns == 0) weights = view.weights[ky * weight_chunks + (first * channels + n) / columns];
#pragma unroll
      for (int x = 0; x < values; ++x) {
        const int place = at + x * lanes * stride_x();
        const bool takes_part = short_sums || inside(r, chunk * columns + place);
        if (!by_runs && !takes_part) continue;
        const Value term =
            takes_part ? term_of<PLAIN>(line[place], weights.of[n % columns]) : semifield_zero<Value>();
        if constexpr (by_runs) {
          of_run[c][x] = kx % run ? extremum(of_run[c][x], term) : term;
          if ((kx + 1) % run == 0 || kx + 1 == TAPS)
            acc[c][row][x].add(saturated_value(of_run[c][x]), (view.first_row + ky) * runs + (first + kx) / run);
        } else if constexpr (provenance) {
          acc[c][row][x].add(saturated_value(term), (view.first_row + ky) * size_x() + first + kx);
        } else if constexpr (PASS == 0) {
          acc[c][row][x].observe(term);
        } else {
          acc[c][row][x].add(term, (view.first_row + ky) * size_x() + first + kx);
        }
      }
    }
  }
}

// Slabs that are so small that several go by between two folds, of about `block` terms; where terms
// are seen twice, the totals change their scale after each.
constexpr int slabs_to_fold =
    !Chosen::two_pass && slabs == 1 && plane_taps < block ? (block + plane_taps / 2) / plane_taps : 1;

// One slab of taps on one thread's outputs: PASS 0 observes, PASS 1 adds. Rows of the patch go by
// in the kernel's memory order.
// inside(row, column) is asked for the positions of the thread's part of the patch that are in the image.
template <int PASS, int UNROLL, bool PLAIN, class A, class F>
SEMICONV_FN void visit_rows(Accumulators<A>& acc, const View& view, F&& inside) {
  const int reach = (rows - 1) * stride_y() + (view.tap_rows() - 1) * dilation_y() + 1;
  constexpr int folded = size_x() < block ? block / size_x() : 1;  // rows between two folds
#pragma unroll UNROLL
  for (int n = 0; n < reach; ++n) {
    const int r = mirrored ? reach - 1 - n : n;
    if constexpr (wide) {
      constexpr int rest = size_x() % segment;
#pragma unroll 1
      for (int first = 0; first < size_x() - rest; first += segment) {
        visit_segment<PASS, segment, PLAIN>(acc, view, r, first, inside);
        if (PASS == 1) for_each(acc, [](A& one) { one.fold(); });
      }
      if constexpr (rest > 0) visit_segment<PASS, rest, PLAIN>(acc, view, r, size_x() - rest, inside);
    } else {
      visit_segment<PASS, segment, PLAIN>(acc, view, r, 0, inside);
    }
    if (PASS == 1 && reach > folded && (n + 1) % folded == 0)
      for_each(acc, [](A& one) { one.fold(); });
  }
}
template <int UNROLL, bool PLAIN, class A, class F>
SEMICONV_FN void visit_slab(Accumulators<A>& acc, const View& view, F&& inside) {
  if constexpr (A::two_pass) {
    visit_rows<0, UNROLL, PLAIN>(acc, view, inside);
    for_each(acc, [](A& one) { one.settle(); });
  }
  visit_rows<1, UNROLL, PLAIN>(acc, view, inside);
  if (slabs_to_fold == 1) for_each(acc, [](A& one) { one.fold(); });
}

// Straight code where it is short; beyond, it would outgrow the instruction cache.
constexpr int straight = Chosen::two_pass ? 64 : 640;
constexpr int unrolled = plane_taps * rows * columns * channels <= straight ? 64 : 1;

// The tap of the run `winner` whose term is `best`, the output's value; -1: nobody.
template <class V>
SEMICONV_FN int32 tap_of_run(const Geometry& g, const Place& place, const Storage* image, const Storage* kernel,
                             int32 y, int32 x, V best, int32 winner) {
  if (winner < 0) return -1;
  const int32 row = winner / runs, first = winner % runs * run;  // its row of taps, its first tap there
  const int32 ky = row % size_y();
  const int32 line = y * stride_y() - (int32)along_y(g.pad_begin, 0) +
                     (mirrored ? size_y() - 1 - ky : ky) * dilation_y();
  const int32 column = x * stride_x() - (int32)along_x(g.pad_begin) +
                       (mirrored ? size_x() - 1 - first : first) * dilation_x();
  int32 rest = row / size_y();
  for (int a = outer - 1; a >= 0; --a) {
    const int32 index = rest % SEMICONV_KERNEL_SIZE[a];
    rest /= SEMICONV_KERNEL_SIZE[a];
    const int32 step = mirrored ? SEMICONV_KERNEL_SIZE[a] - 1 - index : index;
    image += ((int64)place.outer_position[a] * SEMICONV_STRIDES[a] - g.pad_begin[a] +
              step * SEMICONV_DILATIONS[a]) * g.img_strides[a + 2];
    kernel += index * g.krn_strides[a + 2];
  }
  image += rest * g.img_strides[1] + line * along_y(g.img_strides + 2, 0);
  kernel += rest * g.krn_strides[1] + ky * along_y(g.krn_strides + 2, 0);
  // All loads before the first comparison: they are far away.
  Storage numbers[run], weights[run];
  bool inside[run];
#pragma unroll
  for (int n = 0; n < run; ++n) {
    const int32 place = column + (mirrored ? -n : n) * dilation_x();
    const bool taps = size_x() % run == 0 || first + n < size_x();
    inside[n] = taps && (uint32)place < (uint32)along_x(g.image_size);
    numbers[n] = image[inside[n] ? place * along_x(g.img_strides + 2) : 0];
    weights[n] = kernel[taps ? (first + n) * along_x(g.krn_strides + 2) : 0];
  }
  int32 found = 0;
#pragma unroll
  for (int n = run - 1; n >= 0; --n) {
    const Real term = times((Real)load(numbers[n]), (Real)load(weights[n]));
    if (inside[n] && term == Lanes<V>::number(best, 0)) found = n;
  }
  return row * size_x() + first + found;
}

// The same of an output of this thread, where the only plane is in shared memory.
template <class V, class F>
SEMICONV_FN int32 tap_in_patch(const View& view, int c, int row, int x, V best, int32 winner, F&& inside) {
  if (winner < 0) return -1;
  const int32 ky = winner / runs, first = winner % runs * run;
  const int32 r = row * stride_y() + (mirrored ? size_y() - 1 - ky : ky) * dilation_y();
  const int32 column = shift + x * stride_x() + (mirrored ? size_x() - 1 - first : first) * dilation_x();
  const Storage* numbers = (const Storage*)(view.patch + r * patch_chunks) + column;
  const Weight* weights = (const Weight*)(view.weights + ky * weight_chunks) + first * channels + c;
  int32 found = 0;
#pragma unroll
  for (int n = run - 1; n >= 0; --n) {
    const int32 step = (mirrored ? -n : n) * dilation_x();
    if (size_x() % run && first + n >= size_x()) continue;
    if (integer && !inside(r, column + step)) continue;
    const Number number = Lanes<Value>::from(numbers[step]);
    const Value term = saturated_value(term_of<false>(Lanes<Value>::of(number, number), weights[n * channels]));
    if (Lanes<V>::number(term, 0) == Lanes<V>::number(best, 0)) found = n;
  }
  return ky * size_x() + first + found;
}

// A weight from global to shared memory, the nth of the dth slab.
template <class S> SEMICONV_FN void copy_weight(const Destination& to, Weights& weights, int d, int n, const S* from) {
  if constexpr (sizeof(S) < 4) ((Weight*)weights.of)[n] = weight_of<Weight>(*from);
  else to.copy(d * sizeof(Weights) + n * sizeof(S), from);
}

// `values` to neighbouring elements of which the first `count` exist.
template <class T> SEMICONV_FN void store_chunk(T* to, const Chunk<T, columns>& values, int64 count) {
  if (count >= columns && (size_t)to % alignof(Chunk<T, columns>) == 0) {
    *(Chunk<T, columns>*)to = values;
  } else {
#pragma unroll
    for (int x = 0; x < columns; ++x)
      if (x < count) to[x] = values.of[x];
  }
}

// winner(one, x): the winning tap of output x.
template <class A, class F>
SEMICONV_FN void store_residuals(const A (&acc)[values], F&& winner, void* residual, int64 plane_size,
                                 int64 at, int64 count) {
#if defined(SEMICONV_RESIDUAL)
  Chunk<SEMICONV_RESIDUAL, columns> values;
  auto* to = (SEMICONV_RESIDUAL*)residual + at;
  if constexpr (provenance) {
#pragma unroll
    for (int x = 0; x < columns; ++x) values.of[x] = (SEMICONV_RESIDUAL)winner(acc[x], x);
    store_chunk(to, values, count);
  } else {
#pragma unroll
    for (int k = 0; k < A::residuals; ++k) {
#pragma unroll
      for (int x = 0; x < columns; ++x) values.of[x] = acc[x].residual(k);
      store_chunk(to + k * plane_size, values, count);
    }
  }
#endif
}

// The first channel that a plane of outputs sees.
SEMICONV_FN const Storage* first_image(const Geometry& g, const Place& place, const Storage* img) {
  return img + place.batch * g.img_strides[0] + place.group * g.in_channels * g.img_strides[1];
}

// view, inside: of the last slab, for one_plane.
template <class A, class F>
SEMICONV_FN void store_outputs(Accumulators<A>& acc, const Geometry& g, const Place& place, const View& view,
                               F&& inside, const Storage* img, const Storage* krn, Storage* out, void* residual,
                               int64 residual_plane) {
  if (place.idle) return;
  const Storage* image = first_image(g, place, img);
  int64 outer_at = 0, pixels = along_y(g.out_size, 1) * along_x(g.out_size);
  for (int a = 0; a < outer; ++a) {
    outer_at = outer_at * g.out_size[a] + place.outer_position[a];
    pixels *= g.out_size[a];
  }
  const int32 height = (int32)along_y(g.out_size, 1), width = (int32)along_x(g.out_size);
  const int32 thread = this_thread() % threads;
  const int32 top = place.y + thread / threads_x * rows, left = place.x + thread % threads_x * columns;
  const int64 corner = (outer_at * height + top) * width + left;
#pragma unroll
  for (int c = 0; c < channels; ++c) {
    const uint32 output = place.block * channels + c;
    if (output >= g.outputs_per_group) continue;
    const int64 plane = (place.batch * g.groups + place.group) * g.outputs_per_group + output;
    const Storage* kernel = krn + g.kernel_of(place.group, output) * g.krn_strides[0];
#pragma unroll
    for (int row = 0; row < rows; ++row) {
      if (top + row >= height) continue;
      const int64 at = plane * pixels + corner + row * width;
      Chunk<Storage, columns> results;
#pragma unroll
      for (int x = 0; x < columns; ++x)
        results.of[x] = result_of(Lanes<Value>::number(acc[c][row][x / lanes].result(), x % lanes));
      store_chunk(out + at, results, width - left);
      const auto winner = [&](const auto& one, int x) {
        if constexpr (by_runs && one_plane)
          return tap_in_patch(view, c, row, x, one.best, one.winner, inside);
        else if constexpr (by_runs)
          return tap_of_run(g, place, image, kernel, top + row, left + x, one.best, one.winner);
        else
          return one.winner;
      };
      store_residuals(acc[c][row], winner, residual, residual_plane, at, width - left);
    }
  }
}

}  // namespace semiconv

extern "C" __global__ void __launch_bounds__(SEMICONV_TEAMS * SEMICONV_THREADS_Y * SEMICONV_THREADS_X, SEMICONV_BLOCKS)
SEMICONV_KERNEL(const semiconv::Geometry g, const semiconv::Storage* __restrict__ img,
                const semiconv::Storage* __restrict__ krn, semiconv::Storage* __restrict__ out,
                void* __restrict__ residual, long long residual_plane, const semiconv::Division division,
                unsigned int vectors) {
  using namespace semiconv;
  __shared__ Patch patches[sides][teams][depth];
  __shared__ Weights weights[sides][teams][depth];

  const Place place = place_of_block(g, division);
  const uint32 first_output = place.block * channels;
  const int thread = threadIdx.x % threads, member = threadIdx.x / threads;
  const int thread_y = thread / threads_x, thread_x = thread % threads_x;

  const Storage* image = first_image(g, place, img);
  int32 outer_taps = 1;
  for (int a = 0; a < outer; ++a) outer_taps *= SEMICONV_KERNEL_SIZE[a];
  // Made anew where it is asked for: what is kept across the taps is where its chunks lie.
  const auto source_of = [&](int32 p) { return Source(g, place_of_block(g, division), slab_of(p).offset()); };
  const int corner_row = thread_y * rows * stride_y(), corner_column = thread_x * columns * stride_x();

  // A plane of taps: one input channel at one tap of the outer axes. Slabs are counted.
  const int32 all = (int32)g.in_channels * outer_taps * slabs;
  const Storage *plane_image = image, *plane_krn = krn;
  // The first slab from p on whose plane lies inside the image along the outer axes.
  const auto find = [&](int32 p) {
    for (; p < all; ++p) {
      int32 rest = p / slabs % outer_taps;
      const int32 channel = p / slabs / outer_taps;
      int64 image_at = channel * g.img_strides[1], krn_at = channel * g.krn_strides[1];
      bool inside = true;
      for (int a = outer - 1; a >= 0; --a) {
        const int32 index = rest % SEMICONV_KERNEL_SIZE[a];
        rest /= SEMICONV_KERNEL_SIZE[a];
        const int64 step = mirrored ? SEMICONV_KERNEL_SIZE[a] - 1 - index : index;
        const int64 position = (int64)place.outer_position[a] * SEMICONV_STRIDES[a] - g.pad_begin[a] +
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
  // `depth` slabs' patches and weights are copied while those before are computed; two places for
  // them need one barrier. Where there is one plane only, other blocks hide the copies.
  static_assert(depth == 1 || (outer == 0 && slabs == 1), "slabs follow each other by channels");
  const int32 last_channel = (int32)g.outputs_per_group - 1 - (int32)first_output;
  const int64 first_kernel = g.kernel_of(place.group, first_output) * g.krn_strides[0];
  const auto slabs_from = [&](int32 p) { return all - p < depth ? all - p : depth; };
  // Where this thread's weights of a slab lie, from the first output's on; the last output's stand in
  // for those beyond.
  const auto route_of_weights = [&](int32 p) {
    WeightRoute found;
    const int tap_rows = slab_of(p).rows;
#pragma unroll
    for (int k = 0; k < weights_of_thread; ++k) {
      const int n = thread + k * threads, ky = n / weights_pitch, kx = n % weights_pitch / channels, c = n % channels;
      found.at[k] = ky >= tap_rows || kx >= size_x()
                        ? nowhere
                        : (c < last_channel ? c : last_channel) * (int32)g.krn_strides[0] +
                              ky * (int32)along_y(g.krn_strides + 2, 0) + kx * (int32)along_x(g.krn_strides + 2);
    }
    return found;
  };
  // What does not depend on the slab is kept.
  const int64 whole_first = source_of(0).first;
  const Source::Route whole_route = source_of(0).route(g);
  const WeightRoute whole_weights = route_of_weights(0);
  // visit(n, at) for this thread's share of a slab's weights.
  const auto visit_weights = [&](int32 p, auto&& visit) {
    const WeightRoute route = slabs == 1 ? whole_weights : route_of_weights(p);
#pragma unroll
    for (int k = 0; k < weights_of_thread; ++k)
      if (route.at[k] != nowhere) visit(thread + k * threads, route.at[k]);
  };
  const auto fill_outside = [&](const Source& source, Patch& patch) {
    source.fill_outside(patch.of, store(semifield_zero<Real>()));
  };
  const auto fetch = [&](int32 p, int side) {
    const int count = slabs_from(p);
    auto& patches_here = patches[side][member];
    if (slabs > 1 && !integer) fill_outside(source_of(p), patches_here[0]);
    const Storage* corner = plane_image + (slabs == 1 ? whole_first : source_of(p).first);
    if (vectors) Source::copy_chunks(g, corner, count, slabs == 1 ? whole_route : source_of(p).route(g), patches_here);
    else source_of(p).copy_elements(g, corner, count, patches_here);
    const Destination to(weights[side][member]);
    const Storage* weights_from = plane_krn + first_kernel + slab_of(p).first * along_y(g.krn_strides + 2, 0);
    visit_weights(p, [&](int n, int32 at) {
#pragma unroll
      for (int d = 0; d < depth; ++d)
        if (d < count) copy_weight(to, weights[side][member][d], d, n, weights_from + at + d * g.krn_strides[1]);
    });
  };
  const auto view_of = [&](int side, int d, int32 first_row, int32 tap_rows) {
    return View{patches[side][member][d].of + corner_row * patch_chunks + corner_column / columns,
                weights[side][member][d].of, first_row, tap_rows};
  };
  const auto within = [&](const Source& source) {
    return [&](int row, int column) { return source.contains(corner_row + row, corner_column + column); };
  };
  for (int side = 0; slabs == 1 && !integer && side < sides; ++side)
    for (int d = 0; d < depth; ++d) fill_outside(source_of(0), patches[side][member][d]);

  // Positions outside hold the zero, which absorbs every weight that is finite; terms of others must be
  // left out. Sums of products tell by a NaN that there were any, and are computed again.
  Accumulators<Chosen> acc;
#pragma unroll 1
  for (bool again = false;; again = true) {
    for_each(acc, [](Chosen& one) { one.start(); });
    int32 p = find(0);
    int side = 0, unfolded = 0;
    if (p < all) fetch(p, side);
    while (p < all) {
      await_copies();
#if defined(SEMICONV_INTEGER)
      const Source source = source_of(p);
      bool large = false;
      if (may_overflow<Real>())
        for (int d = 0; d < slabs_from(p); ++d) {
          visit_weights(p, [&](int n, int32) {
            large = large || !is_small(load(((Storage*)weights[side][member][d].of)[n]));
          });
          source.visit_inside(patches[side][member][d].of, [&](Storage number) { large = large || !is_small(load(number)); });
        }
      const bool saturates = __syncthreads_or(large), guarded = !source.whole;
#elif defined(SEMICONV_SELECT)  // NaN is never selected: -inf + inf is harmless
      __syncthreads();
      const bool saturates = false, guarded = false;
#elif defined(SEMICONV_SUM_OF_PRODUCTS)
      __syncthreads();
      const bool saturates = false, guarded = again;
#else
      bool infinite = false;
      visit_weights(p, [&](int n, int32) {
        for (int d = 0; d < slabs_from(p); ++d)
          infinite = infinite || !(absolute((Real)load(((Weight*)weights[side][member][d].of)[n])) < infinity<Real>());
      });
      const bool saturates = false, guarded = __syncthreads_or(infinite);
#endif
      const int32 next = once ? all : find(p + depth);
      const int other = (side + 1) % sides;
      if (sides > 1 && next < all) fetch(next, other);
#pragma unroll 1
      for (int d = 0; d < depth && p + d < all; ++d) {
        const Slab seen = slab_of(p + d);
        const View view = view_of(side, d, (p + d) / slabs * size_y() + seen.first, seen.rows);
        if (guarded || saturates) {
          const Source source = source_of(p);
          const auto in_image = within(source);
          if (saturates) visit_slab<1, false>(acc, view, in_image);
          else visit_slab<1, plain>(acc, view, in_image);
        } else {
          visit_slab<unrolled, plain>(acc, view, [](int, int) { return true; });
        }
        if (slabs_to_fold > 1 && ++unfolded == slabs_to_fold) {
          for_each(acc, [](Chosen& one) { one.fold(); });
          unfolded = 0;
        }
      }
      if (sides == 1 && next < all) {
        __syncthreads();
        fetch(next, other);
      }
      side = other;
      p = next;
    }
    if (slabs_to_fold > 1) for_each(acc, [](Chosen& one) { one.fold(); });
#if defined(SEMICONV_SUM_OF_PRODUCTS)
    bool finite = true;
    for_each(acc, [&](const Chosen& one) { finite = finite && one.finite(); });
    if (!again && __syncthreads_or(!finite && (slabs > 1 || !source_of(0).whole))) continue;
#endif
    break;
  }

  const Source source = source_of(0);
  store_outputs(acc, g, place_of_block(g, division), view_of(0, 0, 0, size_y()), within(source), img, krn, out,
                residual, residual_plane);
}
