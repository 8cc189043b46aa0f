// The gradient of the kernel of an ordinary sum that mixes channels: slopes times image, added over
// outputs. A block owns output channels x input channels x steps of the window; its warps share the
// outputs of a tile, and each thread holds the sums of some channels in registers, so that one load
// from shared memory feeds many multiply-adds.
//
// Needs what patch.cuh needs (what it calls a thread is here a team of `lanes` threads: rows x
// columns outputs, one behind the other; a signal is folded, each row going on where the one above
// ends), SEMICONV_KERNEL, and
//   SEMICONV_LANES_OUT, _IN    threads of a team along output and input channels
//   SEMICONV_CHANNELS, _INPUTS output and input channels of a thread
//   SEMICONV_SLAB              rows of the window that a block serves
//   SEMICONV_BLOCKS            blocks of a multiprocessor that the registers must suffice for
// A block adds the terms of `at_once` of its jobs plainly, so few that they keep their digits; then it
// adds what the teams have, in double, to its own partial sums, which grad_sum.cu adds up. Jobs that
// met something infinite, or NaN, are added again with an eye on each term: where a slope is 0, or a
// tap outside, nothing takes part. No atomics.
#include "patch.cuh"

namespace semiconv {

constexpr int lanes_out = SEMICONV_LANES_OUT, lanes_in = SEMICONV_LANES_IN, lanes = lanes_out * lanes_in;
constexpr int inputs = SEMICONV_INPUTS;
constexpr int out_channels = channels * lanes_out, in_channels = inputs * lanes_in;  // of a block
constexpr int block_threads = lanes * threads;
constexpr int slab = SEMICONV_SLAB, slabs = (size_y() + slab - 1) / slab;
constexpr bool flat = rank == 1;
static_assert(outer == 0, "signals and planes");

// ---- what lies in shared memory ------------------------------------------------------------------

constexpr int patch_height = (tile_rows - 1) * stride_y() + (slab - 1) * dilation_y() + 1;
constexpr int patch_chunks =
    chunks_for(shift + (tile_columns - 1) * stride_x() + (size_x() - 1) * dilation_x() + 1);
// Elements of a channel, so that chunks of neighbouring channels lie in different banks.
constexpr SEMICONV_FN int spread(int elements) { return (elements / columns | 1) * columns; }
constexpr int slope_pitch = spread(tile_rows * tile_columns);
constexpr int image_pitch = spread(patch_height * patch_chunks * columns);

struct alignas(16) Stage {
  Real slopes[out_channels * slope_pitch];
  Real image[in_channels * image_pitch];
};
constexpr int sums_of_channel = inputs * slab * size_x();
union Shared {
  Stage stages[2];
  Real sums[sums_of_channel * block_threads];
};

// In place of what lies outside the image, where terms are looked at: a NaN that no arithmetic makes. An
// image that holds these very bits is taken to end there. (A number would not do: 0 and -0 are common,
// and beside an infinite slope they are NaN.)
SEMICONV_FN Real outside() {
  if constexpr (sizeof(Real) == 4)
    return bit_cast<Real>((uint32)0x7fd5c3a9u);
  else
    return bit_cast<Real>((uint64)0x7ffd5c3a96e1b487ull);
}
SEMICONV_FN bool is_outside(Real number) {
  if constexpr (sizeof(Real) == 4)
    return bit_cast<uint32>(number) == 0x7fd5c3a9u;
  else
    return bit_cast<uint64>(number) == 0x7ffd5c3a96e1b487ull;
}

// A rectangle of `count` planes of an array; offsets within it fit into 31 bits.
struct Rectangle {
  const Storage* corner;  // of the first plane; may lie outside
  int64 plane;
  int32 pitch_y, pitch_x;
  int32 y, x;            // the corner's position
  int32 height, width;   // of a plane
  int32 count;           // planes that there are
  bool vectors;          // no chunk crosses the edge, and each may be copied at once

  // Copies it into shared memory, HEIGHT rows of CHUNKS chunks of PLANES planes; where nothing is, 0, or
  // outside() if it MARKS that. A row of a folded signal is ADVANCE columns ahead of the one above.
  template <int PLANES, int HEIGHT, int CHUNKS, int PITCH, int ADVANCE, bool MARKS>
  SEMICONV_FN void copy(Real* patches) const {
    constexpr int places = HEIGHT * CHUNKS;
    constexpr int abreast = power_of_two(places), at_once = block_threads / abreast;
    const Destination to(patches);
    const int thread = this_thread(), first_plane = thread / abreast;
    const int64 step = at_once * plane;
    constexpr int loads = sizeof(Storage) == sizeof(Real) ? 64 : 1;  // others pass through registers
#pragma unroll loads
    for (int begin = 0; begin < places; begin += abreast) {
      const int place = begin + thread % abreast;
      if (place >= places) break;
      const int row = place / CHUNKS, column = place % CHUNKS * columns + (flat ? row * ADVANCE : 0);
      const bool line = flat || (uint32)(y + row) < (uint32)height;
      const Storage* from = corner + first_plane * plane + ((flat ? 0 : row * pitch_y) + column * pitch_x);
      const int target = first_plane * PITCH + place * columns;
      if (vectors) {
        const bool inside = line && (uint32)(x + column) < (uint32)width;
#pragma unroll loads
        for (int n = 0; n < PLANES; n += at_once, from += step)
          if (PLANES % at_once == 0 || first_plane + n < PLANES)
            copy_chunk<MARKS>(to, patches, target + n * PITCH, from, inside && first_plane + n < count);
      } else {
#pragma unroll 1
        for (int n = 0; first_plane + n < PLANES; n += at_once, from += step) {
          const bool there = line && first_plane + n < count;
#pragma unroll 1
          for (int c = 0; c < columns; ++c)
            patches[target + n * PITCH + c] =
                there && (uint32)(x + column + c) < (uint32)width ? load(from[c * pitch_x]) : nothing<MARKS>();
        }
      }
    }
  }

 private:
  static constexpr SEMICONV_FN int power_of_two(int least) {
    int power = 1;
    while (power < least && power < block_threads) power *= 2;
    return power;
  }
  template <bool MARKS> static SEMICONV_FN Real nothing() {
    if constexpr (MARKS)
      return outside();
    else
      return 0;
  }
  template <bool MARKS>
  static SEMICONV_FN void copy_chunk(const Destination& to, Real* patches, int at, const Storage* from, bool exists) {
    if (MARKS && !exists) {
#pragma unroll
      for (int c = 0; c < columns; ++c) patches[at + c] = nothing<MARKS>();
    } else if constexpr (sizeof(Storage) == sizeof(Real)) {
      to.copy_or_zero(at * (int)sizeof(Real), (const Chunk<Storage, columns>*)from, exists);
    } else {
      Chunk<Real, columns> numbers{};
      if (exists) {
        const Chunk<Storage, columns> stored = *(const Chunk<Storage, columns>*)from;
#pragma unroll
        for (int c = 0; c < columns; ++c) numbers.of[c] = load(stored.of[c]);
      }
      *(Chunk<Real, columns>*)(patches + at) = numbers;
    }
  }
};

// ---- a block's share -----------------------------------------------------------------------------

// Outputs of a channel.
SEMICONV_FN int64 pixels_of(const Geometry& g) { return along_y(g.out_size, 1) * along_x(g.out_size); }

// What a block owns: kernels of a group, input channels, steps of the window, some of the jobs.
struct Share {
  int32 chunk, first_step, first_input, first_output, group;
  uint32 first_job, jobs;
  uint32 done, count;  // jobs whose terms are in the partial sums, and those at work

  SEMICONV_FN void find(const Geometry& g, uint32 all, uint32 chunks, uint32 at_once) {
    const uint32 block = this_block();
    uint32 rest = block / chunks;
    chunk = (int32)(block % chunks);
    first_step = (int32)(rest % slabs) * slab;
    rest /= slabs;
    const uint32 parts = ((uint32)g.in_channels + in_channels - 1) / in_channels;
    first_input = (int32)(rest % parts) * in_channels;
    rest /= parts;
    const uint32 blocks = ((uint32)g.outputs_per_group + out_channels - 1) / out_channels;
    first_output = (int32)(rest % blocks) * out_channels;
    group = (int32)(rest / blocks);  // of shared kernels: a job says which
    const uint32 least = all / chunks, more = all % chunks;
    first_job = chunk * least + (chunk < (int32)more ? chunk : more);
    jobs = least + (chunk < (int32)more);
    done = count = 0;
    go_on(at_once);
  }

  SEMICONV_FN void go_on(uint32 at_once) {
    done += count;
    count = jobs - done < at_once ? jobs - done : at_once;
  }
};

// One tile of outputs after the other: its place, and where the block's first channels of it begin.
struct Job {
  int32 y, x, group, batch;
  const Storage *slopes, *image;  // the tile's first output, and the image's first element that it may see

  SEMICONV_FN void begin(const Geometry& g, const Share& share, const Storage* grad_out, const Storage* img,
                         uint32 tiles_y, uint32 tiles_x) {
    uint32 n = share.first_job + share.done;
    x = (int32)(n % tiles_x) * step_x;
    n /= tiles_x;
    y = (int32)(n % tiles_y) * tile_rows;
    n /= tiles_y;
    group = g.shares_kernels ? (int32)(n % (uint32)g.groups) : share.group;
    batch = (int32)(g.shares_kernels ? n / (uint32)g.groups : n);
    find(g, share, grad_out, img);
  }
  SEMICONV_FN void advance(const Geometry& g, const Share& share, const Storage* grad_out, const Storage* img) {
    x += step_x;
    slopes += step_x;
    image += step_x * stride_x() * (int32)along_x(g.img_strides + 2);
    if (x < (int32)along_x(g.out_size)) return;
    x = 0;
    y += tile_rows;
    if (y >= (int32)along_y(g.out_size, 1)) {
      y = 0;
      ++(g.shares_kernels ? group : batch);
      if (g.shares_kernels && group == (int32)g.groups) {
        group = 0;
        ++batch;
      }
    }
    find(g, share, grad_out, img);
  }

 private:
  static constexpr int32 step_x = flat ? tile_rows * tile_columns : tile_columns;
  SEMICONV_FN void find(const Geometry& g, const Share& share, const Storage* grad_out, const Storage* img) {
    slopes = grad_out + ((batch * g.groups + group) * g.outputs_per_group + share.first_output) * pixels_of(g) +
             (int64)y * along_x(g.out_size) + x;
    image = img + batch * g.img_strides[0] + (group * g.in_channels + share.first_input) * g.img_strides[1] +
            first_y(g, share) * along_y(g.img_strides + 2, 0) + first_x(g) * along_x(g.img_strides + 2);
  }

 public:
  // Where the image's part begins.
  SEMICONV_FN int32 first_y(const Geometry& g, const Share& share) const {
    return y * stride_y() - (int32)along_y(g.pad_begin, 0) + share.first_step * dilation_y();
  }
  SEMICONV_FN int32 first_x(const Geometry& g) const { return x * stride_x() - (int32)along_x(g.pad_begin) - shift; }
};

// The sums of a thread, by steps of the window.
struct Sums {
  Real of[channels][inputs][slab][size_x()];

  template <class F> SEMICONV_FN void for_each(F&& visit) {
#pragma unroll
    for (int c = 0; c < channels; ++c)
#pragma unroll
      for (int i = 0; i < inputs; ++i)
#pragma unroll
        for (int j = 0; j < slab; ++j)
#pragma unroll
          for (int k = 0; k < size_x(); ++k) visit(of[c][i][j][k]);
  }
};

// What a thread sees of the image: rows, and chunks of a row. Rows stay in registers until the last
// row of outputs that sees them, where they are few enough for 128 registers.
constexpr int reach = (rows - 1) * stride_y() + (slab - 1) * dilation_y() + 1;
constexpr int seen = chunks_for(shift + (columns - 1) * stride_x() + (size_x() - 1) * dilation_x() + 1);
constexpr int line_width = (columns - 1) * stride_x() + (size_x() - 1) * dilation_x() + 1;
constexpr int numbers = inputs * ((slab - 1) * dilation_y() + 1) * line_width + channels * sums_of_channel;
constexpr bool keeps = (slab - 1) * dilation_y() >= stride_y() && numbers * sizeof(Real) <= 96 * 4;
// The first row of outputs that sees row n of the image.
constexpr SEMICONV_FN bool sees(int row, int n) {
  const int apart = n - row * stride_y();
  return apart >= 0 && apart % dilation_y() == 0 && apart / dilation_y() < slab;
}
constexpr SEMICONV_FN bool is_new(int row, int n) {
  for (int earlier = 0; earlier < row; ++earlier)
    if (sees(earlier, n)) return false;
  return true;
}

struct Line {
  Chunk<Real, columns> of[seen];
  SEMICONV_FN void read(const Real* at) {
#pragma unroll
    for (int k = 0; k < seen; ++k) of[k] = *(const Chunk<Real, columns>*)(at + k * columns);
  }
  SEMICONV_FN Real operator[](int n) const { return of[(shift + n) / columns].of[(shift + n) % columns]; }
};

// All terms of a thread with one tile.
SEMICONV_FN void visit(Sums& sums, const Real* slopes, const Real* image) {
  Line lines[inputs][keeps ? reach : slab];
  constexpr int unrolled = keeps ? rows : 1;
#pragma unroll unrolled
  for (int row = 0; row < rows; ++row) {
#pragma unroll
    for (int j = 0; j < slab; ++j) {
      const int n = row * stride_y() + j * dilation_y();
      if (keeps && !is_new(row, n)) continue;
#pragma unroll
      for (int i = 0; i < inputs; ++i)
        lines[i][keeps ? n : j].read(image + i * lanes_in * image_pitch + n * patch_chunks * columns);
    }
#pragma unroll
    for (int c = 0; c < channels; ++c) {
      const Chunk<Real, columns> slope = *(const Chunk<Real, columns>*)(slopes + c * lanes_out * slope_pitch + row * tile_columns);
#pragma unroll
      for (int i = 0; i < inputs; ++i)
#pragma unroll
        for (int j = 0; j < slab; ++j)
#pragma unroll
          for (int x = 0; x < columns; ++x)
#pragma unroll
            for (int k = 0; k < size_x(); ++k)
              sums.of[c][i][j][k] += slope.of[x] * lines[i][keeps ? row * stride_y() + j * dilation_y() : j]
                                                        [x * stride_x() + k * dilation_x()];
    }
  }
}

// The same of the terms that take part, in the same order. Rolled up as far as sums in registers allow:
// it is rare, and is to cost the other neither registers nor time to compile.
SEMICONV_FN void visit_carefully(Sums& sums, const Real* slopes, const Real* image) {
#pragma unroll 1
  for (int row = 0; row < rows; ++row)
#pragma unroll
    for (int j = 0; j < slab; ++j)
#pragma unroll
      for (int i = 0; i < inputs; ++i) {
        const Real* line = image + i * lanes_in * image_pitch +
                           (row * stride_y() + j * dilation_y()) * patch_chunks * columns + shift;
#pragma unroll 1
        for (int x = 0; x < columns; ++x) {
          Real seen_by[size_x()];
#pragma unroll
          for (int k = 0; k < size_x(); ++k) seen_by[k] = line[x * stride_x() + k * dilation_x()];
#pragma unroll
          for (int c = 0; c < channels; ++c) {
            const Real slope = slopes[c * lanes_out * slope_pitch + row * tile_columns + x];
#pragma unroll
            for (int k = 0; k < size_x(); ++k)
              if (slope != 0 && !is_outside(seen_by[k])) sums.of[c][i][j][k] += slope * seen_by[k];
          }
        }
      }
}

// How terms are added: all, or those that take part.
struct Plainly {
  static constexpr bool careful = false;
};
struct Carefully {
  static constexpr bool careful = true;
};

// visit(the place of a weight's partial sum) where there is such a weight; numbers count from the block's first.
template <class F>
SEMICONV_FN void place_sum(const Geometry& g, const Share& share, int64 chunks, int output, int input, int step,
                           int column, F&& visit) {
  const int32 o = share.first_output + output, i = share.first_input + input, y = share.first_step + step;
  if (o >= (int32)g.outputs_per_group || i >= (int32)g.in_channels || y >= size_y()) return;
  const int64 tap = (mirrored ? size_y() - 1 - y : y) * size_x() + (mirrored ? size_x() - 1 - column : column);
  const int64 weight = (g.kernel_of(share.group, o) * g.in_channels + i) * (size_y() * size_x()) + tap;
  visit(weight * chunks + share.chunk);
}

}  // namespace semiconv

extern "C" __global__ void __launch_bounds__(SEMICONV_LANES_OUT * SEMICONV_LANES_IN * SEMICONV_THREADS_Y *
                                             SEMICONV_THREADS_X, SEMICONV_BLOCKS)
SEMICONV_KERNEL(const semiconv::Geometry g, const semiconv::Storage* __restrict__ grad_out,
                const semiconv::Storage* __restrict__ img, const semiconv::Storage* __restrict__,
                const void* __restrict__, double* __restrict__ partial, long long jobs, long long chunks,
                long long at_once, long long tiles_y, long long tiles_x, long long whole_chunks) {
  using namespace semiconv;
  __shared__ Shared shared;
  // The same for all threads, and read anew behind each barrier: registers are for sums.
  __shared__ Share share;
  __shared__ Job places[2];
  if (this_thread() == 0) share.find(g, (uint32)jobs, (uint32)chunks, (uint32)at_once);
  __syncthreads();
  const int32 height = (int32)along_y(g.out_size, 1), width = (int32)along_x(g.out_size);
  const int32 img_pitch_y = (int32)along_y(g.img_strides + 2, 0), img_pitch_x = (int32)along_x(g.img_strides + 2);
  const bool whole_slopes = width % columns == 0 && (size_t)grad_out % alignof(Chunk<Storage, columns>) == 0;
  const bool whole_image = whole_chunks && (size_t)img % alignof(Chunk<Storage, columns>) == 0;

  const auto fetch = [&](const Job& job, Stage& stage, auto how) {
    const Rectangle slopes{job.slopes, pixels_of(g), width, 1, job.y, job.x, height, width,
                           (int32)g.outputs_per_group - share.first_output, whole_slopes};
    slopes.template copy<out_channels, tile_rows, threads_x, slope_pitch, tile_columns, false>(stage.slopes);
    const Rectangle image{job.image, g.img_strides[1], img_pitch_y, img_pitch_x, job.first_y(g, share), job.first_x(g),
                          (int32)along_y(g.image_size, 1), (int32)along_x(g.image_size),
                          (int32)g.in_channels - share.first_input, whole_image};
    image.template copy<in_channels, patch_height, patch_chunks, image_pitch, tile_columns * stride_x(),
                        decltype(how)::careful>(stage.image);
  };

  Sums sums;
  // Adds the terms of the jobs at work; while one is visited the next is copied.
  const auto add = [&](auto how) {
    sums.for_each([](Real& sum) { sum = 0; });
    if (this_thread() == 0) places[0].begin(g, share, grad_out, img, (uint32)tiles_y, (uint32)tiles_x);
#pragma unroll 1
    for (uint32 n = 0; n <= share.count; ++n) {
      await_copies();
      __syncthreads();
      if (n < share.count) {
        fetch(places[n % 2], shared.stages[n % 2], how);
        if (this_thread() == 0) {
          Job next = places[n % 2];
          next.advance(g, share, grad_out, img);
          places[(n + 1) % 2] = next;
        }
      }
      if (n == 0) continue;
      const Stage& stage = shared.stages[(n - 1) % 2];
      const int lane = this_thread() % lanes, team = this_thread() / lanes;
      const int lane_in = lane % lanes_in, lane_out = lane / lanes_in;
      const int team_y = team / threads_x, team_x = team % threads_x;
      const Real* slopes = stage.slopes + lane_out * slope_pitch + (team_y * rows * threads_x + team_x) * columns;
      const Real* image = stage.image + lane_in * image_pitch +
                          (team_y * rows * stride_y() * patch_chunks + team_x * stride_x()) * columns;
      if constexpr (decltype(how)::careful)
        visit_carefully(sums, slopes, image);
      else
        visit(sums, slopes, image);
    }
  };

#pragma unroll 1
  do {
    add(Plainly{});
    // 0 times what is infinite, or NaN, is NaN.
    Real probe = 0;
    sums.for_each([&](Real& sum) { probe += sum * 0; });
    if (__syncthreads_or(!(probe == 0))) add(Carefully{});
    // A partial sum is the same thread's each time.
    const int thread = this_thread(), lane = thread % lanes, team = thread / lanes;
#pragma unroll
    for (int c = 0; c < channels; ++c) {
      int n = 0;
      __syncthreads();
#pragma unroll
      for (int i = 0; i < inputs; ++i)
#pragma unroll
        for (int j = 0; j < slab; ++j)
#pragma unroll
          for (int k = 0; k < size_x(); ++k)
            shared.sums[(team * sums_of_channel + n++) * lanes + lane] = sums.of[c][i][j][k];
      __syncthreads();
      for (int v = thread; v < lanes * sums_of_channel; v += block_threads) {
        const int k = v / lanes, of = v % lanes;
        place_sum(g, share, chunks, c * lanes_out + of / lanes_in, k / (slab * size_x()) * lanes_in + of % lanes_in,
                  k / size_x() % slab, k % size_x(), [&](int64 at) {
                    const double before = share.done ? partial[at] : 0;
                    double sum = 0;
#pragma unroll
                    for (int t = 0; t < threads; ++t) sum += (double)shared.sums[t * sums_of_channel * lanes + v];
                    partial[at] = before + sum;
                  });
      }
    }
    __syncthreads();
    if (this_thread() == 0) share.go_on((uint32)at_once);
    __syncthreads();
  } while (share.count);
}
