// A plane of outputs in shared memory, for the tiled gradients: grad_out, and which terms of each output
// receive it.
//
// Needs what backward.cuh and tile.cuh need, and the macros of grad_tiled.cu.
//
//   global memory            shared memory (Patch), one plane of outputs as far as windows see the tile
//   grad_out (Storage)  -->  grad_out[row][column] (Real); 0 outside the output
//   residual            -->  mark: the winning tap, or the accumulator's Derivative (0 to 2 numbers)
#pragma once
#include "backward.cuh"
#include "tile.cuh"
#include "../chunk.cuh"

namespace semiconv {

constexpr bool wants_img = SEMICONV_WANTS_IMG, wants_krn = SEMICONV_WANTS_KRN;
constexpr int32 phase_y = SEMICONV_PHASE_Y, phase_x = SEMICONV_PHASE_X;
constexpr int32 slab = SEMICONV_SLAB;
constexpr bool whole = SEMICONV_WHOLE;
constexpr bool binned = channels > 1;
constexpr int32 ahead = binned ? 4 : 1;       // planes of outputs in shared memory at a time
constexpr int32 four = 4;                     // outputs of a patch's row that are loaded at once
constexpr int32 unit = columns / stride_x();  // outputs between two threads of a row
constexpr int32 taps_of_slab = slab * size_x();

#if defined(SEMICONV_PROVENANCE) && defined(SEMICONV_CONSTANT_DERIVATIVES)
constexpr bool reads_factors = false;
#else
constexpr bool reads_factors = true;
#endif

// A place within a plane of outputs.
template <bool WHOLE> struct PlaceOf { using type = int64; };
template <> struct PlaceOf<true> { using type = int32; };

// Both gradients of a provenance are for groups of one input channel, one output and one plane of taps.
#if defined(SEMICONV_PROVENANCE)
constexpr bool single = wants_krn;
static_assert(!single || (wants_img && slab == size_y()), "a block serves all of them");
#else
constexpr bool single = false;
#endif

// Element e of a tile is seen by step j of the window of output (e + phase - j dilation) / stride, counted
// from output (tile + padding - phase) / stride, if the division leaves no remainder:
//
//   stride 2, dilation 1, phase 1, window 3       element    0  1  2  3
//   (e + 1 - j) / 2                               j = 0      .  1  .  2
//                                                 j = 1      0  .  1  .
//                                                 j = 2      .  0  .  1      lowest = 0, highest = 2
constexpr SEMICONV_FN int32 floor_div(int32 a, int32 b) { return a >= 0 ? a / b : -((b - 1 - a) / b); }
constexpr int32 lowest_y = floor_div(phase_y - (slab - 1) * dilation_y(), stride_y());
constexpr int32 lowest_seen = floor_div(phase_x - (size_x() - 1) * dilation_x(), stride_x());
constexpr int32 lowest_x = floor_div(lowest_seen, four) * four;
constexpr int32 patch_height = floor_div(tile_rows - 1 + phase_y, stride_y()) - lowest_y + 1;
constexpr int32 patch_width_used = floor_div(tile_columns - 1 + phase_x, stride_x()) - lowest_x + 1;
constexpr int32 patch_width = (patch_width_used + four - 1) / four * four;
constexpr int32 patch_size = patch_height * patch_width;
// What a thread sees of the patch: `reach` rows, of each `line_units` units of columns from `line_begin` on.
constexpr int32 reach = floor_div(rows - 1 + phase_y, stride_y()) - lowest_y + 1;
constexpr int32 line_begin = (lowest_seen - lowest_x) / unit * unit;
constexpr int32 line_end = floor_div(columns - 1 + phase_x, stride_x()) - lowest_x + 1;
constexpr int32 line_units = (line_end - line_begin + unit - 1) / unit;

// What an output adds to its grad_out: the tap that won, or the numbers of its weight.
#if defined(SEMICONV_PROVENANCE)
using Index = SEMICONV_RESIDUAL;
template <bool BINNED> struct MarkOf { using type = Index; };
template <> struct MarkOf<true> { using type = uint32; };
using Mark = MarkOf<binned>::type;  // binned: the channel in the upper bits, the tap in the lower ones
constexpr int32 tap_bits = 16;
constexpr int marks = 1;
#else
using Mark = Real;
using Index = Real;
using Derivative = typename Differentiable<Real>::Derivative;
constexpr int residuals = Differentiable<Real>::residuals;
constexpr int marks = residuals ? (int)(sizeof(Derivative) / sizeof(Real)) : 0;
template <class D> SEMICONV_FN D derivative_of(const Real* residual, const Setting& setting) {
  if constexpr (residuals == 0) return D();
  else if constexpr (residuals == 1) return D(residual[0], setting);
  else return D(residual[0], residual[1], setting);
}
#endif
constexpr int mark_planes = marks ? marks : 1;  // C++ has no empty arrays

struct alignas(16) Patch {
  Real grad_out[patch_size];
  alignas(16) Mark mark[mark_planes][marks ? patch_size : 16];
};

// Four outputs as memory holds them, on their way into shared memory.
#if defined(SEMICONV_PROVENANCE)
constexpr int read_planes = 1;
#else
constexpr int read_planes = residuals;
#endif
// The residuals of PIECE outputs. Marks that are copied as they are travel as one number: bytes that are taken apart
// and put together again cost more instructions than all else of the copy.
template <int BYTES> struct WordOf { using type = Chunk<uint32, BYTES / 4>; };
template <> struct WordOf<1> { using type = unsigned char; };
template <> struct WordOf<2> { using type = unsigned short; };
template <> struct WordOf<4> { using type = uint32; };
template <bool AS_THEY_ARE, int PIECE> struct PieceOf { using type = Chunk<Index, PIECE>; };
template <int PIECE> struct PieceOf<true, PIECE> { using type = typename WordOf<PIECE * (int)sizeof(Index)>::type; };
template <int PIECE> struct ResidualOf { using type = typename PieceOf<single, PIECE>::type; };
template <int PIECE> struct FourOutputs {
  Chunk<Storage, four> grad_out;
  typename ResidualOf<PIECE>::type residual[read_planes ? read_planes : 1][four / PIECE];
};

template <int PIECE, class T> SEMICONV_FN void copy_piece(Chunk<T, four>& to, int e, const T* from) {
  const Chunk<T, PIECE> piece = *(const Chunk<T, PIECE>*)(from + e);
#pragma unroll
  for (int n = 0; n < PIECE; ++n) to.of[e + n] = piece.of[n];
}

// One plane of outputs: where it begins in the arrays, and which of its rows and columns the patch begins with.
struct OutputPlane {
  const Storage* grad_out;
  const Index* residual;
  int64 residual_plane;
  int32 height, width, y, x;
  int32 first_tap;
  Setting setting;  // of its kernel

  // The n-th four of the patch, by loads of PIECE outputs: rows start at multiples of as many numbers, and have a
  // multiple of them.
  template <int PIECE> SEMICONV_FN FourOutputs<PIECE> read(int32 n) const {
    constexpr int32 fours = patch_width / four;
    using Residual = typename ResidualOf<PIECE>::type;
    const int32 row = y + n / fours, column = x + n % fours * four;
    const bool line = n < patch_height * fours && row >= 0 && row < height;
    const PlaceOf<whole>::type at = (PlaceOf<whole>::type)row * width + column;
    FourOutputs<PIECE> read{};
#pragma unroll
    for (int e = 0; e < four; e += PIECE)
      if (line && column + e >= 0 && column + e < width) {
        copy_piece<PIECE>(read.grad_out, e, grad_out + at);
#pragma unroll
        for (int k = 0; k < read_planes; ++k)
          read.residual[k][e / PIECE] = *(const Residual*)(residual + k * residual_plane + at + e);
      }
    return read;
  }
#if defined(SEMICONV_PROVENANCE)
  // From the index of a winner, relative to the first tap of the plane; -1 (no tap won) becomes larger than any tap.
  static SEMICONV_FN Mark mark_of(Index winner) {
    if constexpr (!binned) return winner;
    const uint32 window = (uint32)window_size(), channel = winner / window;
    return channel < (uint32)channels ? channel << tap_bits | winner % window : ~0u;
  }
#endif
  template <int PIECE> SEMICONV_FN void put(Patch& patch, int32 n, const FourOutputs<PIECE>& read) const {
    if (n >= patch_size / four) return;
    Chunk<Real, four> grads;
#pragma unroll
    for (int e = 0; e < four; ++e) grads.of[e] = load(read.grad_out.of[e]);
    *(Chunk<Real, four>*)(patch.grad_out + n * four) = grads;
    if constexpr (single) {
      using Residual = typename ResidualOf<PIECE>::type;
#pragma unroll
      for (int e = 0; e < four; e += PIECE) *(Residual*)(patch.mark[0] + n * four + e) = read.residual[0][e / PIECE];
    } else {
      put_marks<PIECE>(patch, n, read);
    }
  }
  template <int PIECE> SEMICONV_FN void put_marks(Patch& patch, int32 n, const FourOutputs<PIECE>& read) const {
    Chunk<Mark, four> made[mark_planes];
#pragma unroll
    for (int e = 0; e < four; ++e) {
#if defined(SEMICONV_PROVENANCE)
      made[0].of[e] = mark_of((Index)(read.residual[0][e / PIECE].of[e % PIECE] - first_tap));
#else
      if constexpr (marks) {
        Real residual[read_planes ? read_planes : 1];
        for (int k = 0; k < read_planes; ++k) residual[k] = read.residual[k][e / PIECE].of[e % PIECE];
        const auto words = bit_cast<Chunk<Real, mark_planes>>(derivative_of<Derivative>(residual, setting));
#pragma unroll
        for (int k = 0; k < marks; ++k) made[k].of[e] = words.of[k];
      }
#endif
    }
#pragma unroll
    for (int k = 0; k < marks; ++k) *(Chunk<Mark, four>*)(patch.mark[k] + n * four) = made[k];
  }
  // Copies the whole patch. The loads of a batch are all issued before the first of them is used, and before `ready`,
  // which waits until no thread reads the patch any more. Small blocks have registers for four turns at a time, of
  // single outputs for two; six turns are two batches of three.
  template <int PIECE, class F> SEMICONV_FN void fill(Patch& patch, F&& ready) const {
    constexpr int32 all = patch_size / four, turns = (all + threads - 1) / threads;
    constexpr int32 few = PIECE == four ? 1 + 4 / (1 + read_planes) : 1;
    constexpr int32 most = threads > 64 ? few : PIECE > 1 ? 4 : 2;
    constexpr int32 batches = (turns + most - 1) / most;
    constexpr int32 batch = (turns + batches - 1) / batches;
#pragma unroll 1
    for (int32 turn = 0; turn < turns; turn += batch) {
      FourOutputs<PIECE> held[batch];
#pragma unroll
      for (int32 k = 0; k < batch; ++k)
        held[k] = read<PIECE>((turn + k) * threads + (int32)threadIdx.x);
      if (turn == 0) ready();
#pragma unroll
      for (int32 k = 0; k < batch; ++k)
        put(patch, (turn + k) * threads + (int32)threadIdx.x, held[k]);
    }
  }
};

}  // namespace semiconv
