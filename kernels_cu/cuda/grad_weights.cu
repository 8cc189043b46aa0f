// The gradient of the kernel of an ordinary sum that mixes channels: grad_out times image, added over
// outputs, as a product of matrices (output channels x outputs) (outputs x input channels) for each tap.
//
// Needs what patch.cuh needs (its "thread" is here a team of LANES_OUT x LANES_IN threads, which takes
// rows x columns outputs), SEMICONV_KERNEL, and
//   SEMICONV_LANES_OUT, _IN    threads of a team along output and input channels
//   SEMICONV_CHANNELS, _INPUTS output and input channels of a thread
//   SEMICONV_SLAB              rows of the window that a block serves
//   SEMICONV_BLOCKS            blocks that a multiprocessor holds at a time: registers are limited to that
//
// A block owns output channels x input channels x rows of taps (a BlockShare). It goes through its jobs, one
// tile of outputs each; the teams share the outputs of a tile, and each thread of a team holds the sums of
// some channels in registers, so that one load from shared memory feeds many multiply-adds:
//
//                    input channels           of a team: lanes_out x lanes_in threads
//                  lane_in 0    lane_in 1
//     lane_out 0 | thread 0   | thread 1  |   of a thread: channels x inputs x slab x size_x sums
//     lane_out 1 | thread 2   | thread 3  |
//
// A signal is folded into rows, each of which goes on where the one above ends.
//
// Rounding: a thread adds the terms of `at_once` jobs plainly in Real, so few that they keep their digits.
// Then the block adds the sums of its teams, in double, to its partial sums in global memory; grad_sum.cu
// adds those of all blocks. No atomics: two runs give the same bits.
//
// Infinities: where grad_out is 0 or a tap lies outside, there is no term, but 0 * inf = NaN would make one.
// If a sum is not finite, the block computes the same jobs again and tests each term.
#include "grad_stage.cuh"

namespace semiconv {

// ---- a block's share -----------------------------------------------------------------------------

// Outputs of a channel.
SEMICONV_FN int64 pixels_of(const Geometry& g) { return along_y(g.out_size, 1) * along_x(g.out_size); }

// What a block owns: output channels of a group, input channels, steps of the window, some of the jobs.
struct BlockShare {
  int32 chunk, first_step, first_input, first_output, group;
  uint32 first_job, jobs;
  uint32 done, count;  // jobs that the partial sums contain, and jobs that are being added

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
    group = (int32)(rest / blocks);  // if groups share kernels, the job says which group
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

// A tile of outputs: its place, and where its first output and input channels of this block lie.
struct Job {
  int32 y, x, group, batch;
  const Storage *grads, *image;  // the tile's first output, and the first element of the image that it may see

  SEMICONV_FN void begin(const Geometry& g, const BlockShare& share, const Storage* grad_out, const Storage* img,
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
  SEMICONV_FN void advance(const Geometry& g, const BlockShare& share, const Storage* grad_out, const Storage* img) {
    x += step_x;
    grads += step_x;
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
  SEMICONV_FN void find(const Geometry& g, const BlockShare& share, const Storage* grad_out, const Storage* img) {
    grads = grad_out + ((batch * g.groups + group) * g.outputs_per_group + share.first_output) * pixels_of(g) +
             (int64)y * along_x(g.out_size) + x;
    image = img + batch * g.img_strides[0] + (group * g.in_channels + share.first_input) * g.img_strides[1] +
            first_y(g, share) * along_y(g.img_strides + 2, 0) + first_x(g) * along_x(g.img_strides + 2);
  }

 public:
  // Row and column of the image where the tile's patch begins.
  SEMICONV_FN int32 first_y(const Geometry& g, const BlockShare& share) const {
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

// What a thread sees of the image: `reach` rows of `seen` chunks. If 128 registers suffice, a row is loaded
// once and stays in registers until the last row of outputs that sees it (`keeps`).
constexpr int reach = (rows - 1) * stride_y() + (slab - 1) * dilation_y() + 1;
constexpr int seen = chunks_for(shift + (columns - 1) * stride_x() + (size_x() - 1) * dilation_x() + 1);
constexpr int line_width = (columns - 1) * stride_x() + (size_x() - 1) * dilation_x() + 1;
constexpr int numbers = inputs * ((slab - 1) * dilation_y() + 1) * line_width + channels * sums_of_channel;
constexpr bool keeps = (slab - 1) * dilation_y() >= stride_y() && numbers * sizeof(Real) <= 96 * 4;
// Whether a row of outputs sees row n of the image, and whether none above it does.
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

// Adds all terms of a thread with one tile.
SEMICONV_FN void visit(Sums& sums, const Real* grads, const Real* image) {
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
      const Real* const at = grads + c * lanes_out * grad_pitch + row * tile_columns;
      const Chunk<Real, columns> grad = *(const Chunk<Real, columns>*)at;
#pragma unroll
      for (int i = 0; i < inputs; ++i)
#pragma unroll
        for (int j = 0; j < slab; ++j)
#pragma unroll
          for (int x = 0; x < columns; ++x)
#pragma unroll
            for (int k = 0; k < size_x(); ++k)
              sums.of[c][i][j][k] += grad.of[x] * lines[i][keeps ? row * stride_y() + j * dilation_y() : j]
                                                        [x * stride_x() + k * dilation_x()];
    }
  }
}

// The same, in the same order, with a test of each term. Loops stay rolled where the sums' registers allow
// it: this is rare, and should cost visit() no registers and the compiler little time.
SEMICONV_FN void visit_carefully(Sums& sums, const Real* grads, const Real* image) {
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
            const Real grad = grads[c * lanes_out * grad_pitch + row * tile_columns + x];
#pragma unroll
            for (int k = 0; k < size_x(); ++k)
              if (grad != 0 && !is_outside(seen_by[k])) sums.of[c][i][j][k] += grad * seen_by[k];
          }
        }
      }
}

// How terms are added: all of them, or only those that exist.
struct Plainly {
  static constexpr bool careful = false;
};
struct Carefully {
  static constexpr bool careful = true;
};

// visit(place of the partial sum) if the weight exists; output, input, step count from the block's first ones.
template <class F>
SEMICONV_FN void place_sum(const Geometry& g, const BlockShare& share, int64 chunks, int output, int input, int step,
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
  // The same for all threads. Read from shared memory after each barrier: the registers are for sums.
  __shared__ BlockShare share;
  __shared__ Job places[2];
  if (this_thread() == 0) share.find(g, (uint32)jobs, (uint32)chunks, (uint32)at_once);
  __syncthreads();
  const int32 height = (int32)along_y(g.out_size, 1), width = (int32)along_x(g.out_size);
  const int32 img_pitch_y = (int32)along_y(g.img_strides + 2, 0), img_pitch_x = (int32)along_x(g.img_strides + 2);
  const bool whole_grads = width % columns == 0 && (size_t)grad_out % alignof(Chunk<Storage, columns>) == 0;
  const bool whole_image = whole_chunks && (size_t)img % alignof(Chunk<Storage, columns>) == 0;

  const auto fetch = [&](const Job& job, Stage& stage, auto how) {
    const Rectangle grads{job.grads, pixels_of(g), width, 1, job.y, job.x, height, width,
                           (int32)g.outputs_per_group - share.first_output, whole_grads};
    grads.template copy<out_channels, tile_rows, threads_x, grad_pitch, tile_columns, false>(stage.grads);
    const Rectangle image{job.image, g.img_strides[1], img_pitch_y, img_pitch_x, job.first_y(g, share), job.first_x(g),
                          (int32)along_y(g.image_size, 1), (int32)along_x(g.image_size),
                          (int32)g.in_channels - share.first_input, whole_image};
    image.template copy<in_channels, patch_height, patch_chunks, image_pitch, tile_columns * stride_x(),
                        decltype(how)::careful>(stage.image);
  };

  Sums sums;
  // Adds the terms of share.count jobs. The next job is copied while the terms of one are added.
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
      const int lane = this_thread() % team_size, team = this_thread() / team_size;
      const int lane_in = lane % lanes_in, lane_out = lane / lanes_in;
      const int team_y = team / threads_x, team_x = team % threads_x;
      const Real* grads = stage.grads + lane_out * grad_pitch + (team_y * rows * threads_x + team_x) * columns;
      const Real* image = stage.image + lane_in * image_pitch +
                          (team_y * rows * stride_y() * patch_chunks + team_x * stride_x()) * columns;
      if constexpr (decltype(how)::careful)
        visit_carefully(sums, grads, image);
      else
        visit(sums, grads, image);
    }
  };

#pragma unroll 1
  do {
    add(Plainly{});
    // 0 times what is infinite, or NaN, is NaN.
    Real probe = 0;
    sums.for_each([&](Real& sum) { probe += sum * 0; });
    if (__syncthreads_or(!(probe == 0))) add(Carefully{});
    // Each partial sum is read and written by the same thread every time.
    const int thread = this_thread(), lane = thread % team_size, team = thread / team_size;
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
            shared.sums[(team * sums_of_channel + n++) * team_size + lane] = sums.of[c][i][j][k];
      __syncthreads();
      for (int v = thread; v < team_size * sums_of_channel; v += block_threads) {
        const int k = v / team_size, of = v % team_size;
        place_sum(g, share, chunks, c * lanes_out + of / lanes_in, k / (slab * size_x()) * lanes_in + of % lanes_in,
                  k / size_x() % slab, k % size_x(), [&](int64 at) {
                    const double before = share.done ? partial[at] : 0;
                    double sum = 0;
#pragma unroll
                    for (int t = 0; t < threads; ++t) sum += (double)shared.sums[t * sums_of_channel * team_size + v];
                    partial[at] = before + sum;
                  });
      }
    }
    __syncthreads();
    if (this_thread() == 0) share.go_on((uint32)at_once);
    __syncthreads();
  } while (share.count);
}
