// The loops over the taps of one input channel, for a few strips at a time.
//
// Needs the semifield's macros and SEMICONV_STORAGE. In a tile's scratch (tiles.hpp) a tap is one offset, the
// same for all outputs. The loop over taps is the outer one, the loop over strips the inner one: a weight is
// broadcast once for all of them, and their accumulators stay in registers.
//
//   for each tap t:   krn = values[t]
//     strip 0:  acc[0].add(times(scratch[from0 + offsets[t]], krn))
//     strip 1:  acc[1].add(times(scratch[from1 + offsets[t]], krn))    ...
//
//   observe_channel, add_channel       strips anywhere, with or without a mask
//   observe_adjoining, add_adjoining   strips behind each other
//   add_shared                         two groups of strips that share each load
// Accumulators with two passes observe all terms first (accumulators.cuh). Included by forward.hpp.
#pragma once
#include "tile_work.hpp"
#include "terms.hpp"

namespace semiconv {

// The terms of N strips at one tap, wherever the strips lie.
template <int N, bool MASKED> struct Terms {
  const Real* from[N];
  const MaskLane* valid[N];
  SEMICONV_FN Terms(const Real* scratch, const MaskLane* mask, const Strip* strips) {
#pragma GCC unroll 8
    for (int j = 0; j < N; ++j) {
      from[j] = scratch + strips[j].from;
      valid[j] = MASKED ? mask + strips[j].from : nullptr;
    }
  }
  static constexpr bool masked = MASKED;
  SEMICONV_FN Vector at(int j, int64 offset, Vector krn, const Setting& setting) const {
    return times(load_vector<Vector>(from[j] + offset), krn, setting);
  }
  SEMICONV_FN Mask inside(int j, int64 offset) const {
    return load_vector<Mask>(valid[j] + offset);
  }
};

// `becomes` in the lanes of `mask`, `was` in the others: positions outside the image change nothing,
// whatever the semifield's functions return for them. Works on the vectors that an accumulator is made of.
template <class A> SEMICONV_FN A where_inside(Mask mask, A becomes, A was) {
  constexpr int count = sizeof(A) / sizeof(Vector);
  static_assert(sizeof(A) == count * sizeof(Vector), "accumulators hold vectors of one width");
  Vector now[count], before[count];
  __builtin_memcpy(now, &becomes, sizeof(A));
  __builtin_memcpy(before, &was, sizeof(A));
  for (int n = 0; n < count; ++n) now[n] = where(mask, now[n], before[n]);
  __builtin_memcpy(&becomes, now, sizeof(A));
  return becomes;
}
// Apply change_it to the accumulator of strip j, in the lanes that lie inside the image.
template <class A, class T, class F>
SEMICONV_FN void change(A& acc, const T& terms, int j, int64 offset, F change_it) {
  if constexpr (T::masked) {
    A becomes = acc;
    change_it(becomes);
    acc = where_inside(terms.inside(j, offset), becomes, acc);
  } else {
    change_it(acc);
  }
}

// The first pass of two over one input channel, and the second one; of strips anywhere or adjoining.
template <int N, class A, class T>
SEMICONV_FN void observe_channel(A* acc, const T& terms, const Taps& taps, int64 begin, int64 end,
                                 const Setting& setting) {
  for (int64 t = begin; t < end; ++t) {
    const Vector krn = broadcast(taps.values[t]);
    const int64 offset = taps.offsets[t];
#pragma GCC unroll 8
    for (int j = 0; j < N; ++j)
      change(acc[j], terms, j, offset, [&](A& one) { one.observe(terms.at(j, offset, krn, setting), setting); });
  }
}
template <int S, class A>
SEMICONV_FN void observe_adjoining(A* acc, const Real* from, const Taps& taps, int64 begin, int64 end,
                                   const Setting& setting) {
  for (int64 t = begin; t < end; ++t) {
    const Vector krn = broadcast(taps.values[t]);
    const Real* elements = from + taps.offsets[t];
#pragma GCC unroll 8
    for (int j = 0; j < S; ++j)
      acc[j].observe(times(load_vector<Vector>(elements + j * lanes), krn, setting), setting);
  }
}
// Run work(begin, end) over the taps between folds, which are due for the leader at multiples of
// `terms_per_fold`, for the follower at multiples + lag. fold(true) folds the leader, fold(false) the follower.
// An accumulator folds at multiples in its own numbering of taps, also where a pair runs with the leader's
// numbering: a result must not depend on which strips share a loop.
template <class Work, class Fold>
SEMICONV_FN void between_folds(int64 begin, int64 end, int64 lag, Work work, Fold fold) {
  if constexpr (!folds) {
    work(begin, end);
  } else {
    while (begin < end) {
      const int64 leads = (begin / terms_per_fold + 1) * terms_per_fold;
      const int64 follows = ((begin - lag) / terms_per_fold + 1) * terms_per_fold + lag;
      const int64 stop = smaller_of(smaller_of(leads, follows), end);
      work(begin, stop);
      begin = stop;
      if (begin == leads) fold(true);
      if (begin == follows) fold(false);
    }
  }
}
template <int N, class A> SEMICONV_FN void fold_all(A* acc) {
#pragma GCC unroll 8
  for (int j = 0; j < N; ++j) acc[j].fold();
}

// Taps begin .. end - 1 on N strips, wherever they lie.
template <int N, class A, class T>
SEMICONV_FN void add_channel(A* acc, const T& terms, const Taps& taps, int64 begin, int64 end,
                             const Setting& setting) {
  const auto add = [&](int64 first, int64 stop) __attribute__((always_inline)) {
    const auto loop = [&](const auto& of_kind) __attribute__((always_inline)) {
      for (int64 t = first; t < stop; ++t) {
        const Vector krn = broadcast(taps.values[t]);
        const Mask index = Mask{} + taps.indices[t];
        const int64 offset = taps.offsets[t];
#pragma GCC unroll 8
        for (int j = 0; j < N; ++j)
          change(acc[j], terms, j, offset, [&](A& one) { one.add(terms.at(j, offset, krn, of_kind), index, of_kind); });
      }
    };
    if constexpr (T::masked) loop(Outlined(setting));
    else by_kind(setting, loop);
  };
  between_folds(begin, end, 0, add, [&](bool leads) { if (leads) fold_all<N>(acc); });
  if (folds && end % terms_per_fold) fold_all<N>(acc);
}

// Keeps an address in a register: the compiler would add it up anew for each of the adjoining strips.
SEMICONV_FN const Real* one_address(const Real* elements) {
  asm("" : "+r"(elements));
  return elements;
}

// Taps begin .. end - 1 on S adjoining strips. Winners are numbered from `shift` on.
template <int S, class A>
SEMICONV_FN void add_adjoining(A* acc, const Real* from, const Taps& taps, int64 begin, int64 end,
                               const Setting& setting, int64 shift = 0) {
  const auto add = [&](int64 first, int64 stop) __attribute__((always_inline)) {
    by_kind(setting, [&](const auto& of_kind) __attribute__((always_inline)) {
      for (int64 t = first; t < stop; ++t) {
        const Vector krn = broadcast(taps.values[t]);
        const Mask index = Mask{} + (MaskLane)(taps.indices[t] + shift);
        const Real* elements = one_address(from + taps.offsets[t]);
#pragma GCC unroll 8
        for (int j = 0; j < S; ++j)
          acc[j].add(times(load_vector<Vector>(elements + j * lanes), krn, of_kind), index, of_kind);
      }
    });
  };
  between_folds(begin, end, 0, add, [&](bool leads) { if (leads) fold_all<S>(acc); });
}

// Taps begin .. end - 1 of the leader, on S adjoining strips of it and S of the follower: each element is
// loaded once, for the leader's tap t and the follower's tap t - lag. Winners of both are numbered by the
// leader's tap; renumber() corrects the follower's in the end.
template <int S, class A>
SEMICONV_FN void add_shared(A* leader, A* follower, const Real* from, const Taps& taps, int64 begin,
                            int64 end, const Setting& setting, int64 lag) {
  const auto add = [&](int64 first, int64 stop) __attribute__((always_inline)) {
    for (int64 t = first; t < stop; ++t) {
      const Vector krn = broadcast(taps.values[t]), behind = broadcast(taps.values[t - lag]);
      const Mask index = Mask{} + taps.indices[t];
      const Real* elements = one_address(from + taps.offsets[t]);
#pragma GCC unroll 8
      for (int j = 0; j < S; ++j) {
        const Vector element = opaque(load_vector<Vector>(elements + j * lanes));
        leader[j].add(times(element, krn, setting), index, setting);
        follower[j].add(times(element, behind, setting), index, setting);
      }
    }
  };
  between_folds(begin, end, lag, add, [&](bool leads) { fold_all<S>(leads ? leader : follower); });
}

}  // namespace semiconv
