// Extrema over a window along one axis, built in a few steps from extrema over shorter windows.
//
// An extremum may see an element twice, so that the windows of w elements follow from overlapping windows
// of fewer. Each step takes the best of up to five windows of the step before, at fixed offsets; windows
// of 1 are the elements. For w = 13:
//
//     width 1      x                     the elements
//     width 4      xxxx                  step 0: 4 windows of 1,  offsets 0 1 2 3
//     width 13     xxxx                  step 1: 4 windows of 4,  offsets 0 4 8 9
//                      xxxx
//                          xxxx
//                           xxxx
//
// (Logarithmic decomposition: van den Boomgaard and van Balen, CVGIP: Graphical Models and Image
// Processing 54, 1992, who double the width in each step.) More than two windows a step save passes over
// memory: of five, five steps reach windows of 3125. All steps are the same elementwise operation,
//
//     to[i] = best of parts[0][i] .. parts[count - 1][i],      parts[p] = from + offset[p]
//
// which runs in whole registers along a row, and down the columns, where the parts are rows. (The running
// extrema of van Herk and of Gil and Werman need three comparisons an element for any window, but along a
// row each depends on the one before.)
//
// Steps(w) plans the offsets, step() does one step, step_pair() one step of two neighbouring rows.
#pragma once
#include "keys.hpp"

namespace semiconv {

constexpr int most_parts = 5;  // of a step
using Step = void (*)(const Key* const* parts, Key* to, int64 n);
using StepPair = void (*)(const Key* const* rows, Key* const* to, int64 n);

// step() of any number of parts, of fewer elements than a register has.
template <bool MINIMUM, bool FROM_RAW, bool TO_RAW>
__attribute__((noinline)) void step_short(const Key* const* parts, int count, Key* to, int64 n) {
  const auto key_at = [&](int p, int64 i) {
    const Key stored = parts[p][i];
    return FROM_RAW ? clean_key<MINIMUM>(stored) : stored;
  };
  for (int64 i = 0; i < n; ++i) {
    Key value = key_at(0, i);
    for (int p = 1; p < count; ++p) value = better<MINIMUM>(value, key_at(p, i));
    to[i] = TO_RAW ? stored_key(value) : value;
  }
}

// to[i] = best of parts[0][i] .. parts[PARTS - 1][i] for i < n. FROM_RAW: parts are stored elements, which
// become keys; TO_RAW: `to` takes stored elements. Arrays of keys are read and written in whole registers,
// beyond n too, and `to` may be parts[0]; arrays of stored elements are touched at i < n only.
template <bool MINIMUM, int PARTS, bool FROM_RAW, bool TO_RAW>
__attribute__((noinline)) void step(const Key* const* given, Key* to, int64 n) {
  const Key* parts[PARTS];  // a copy: a store to `to` cannot change it, so it stays in registers
#pragma GCC unroll 5
  for (int p = 0; p < PARTS; ++p) parts[p] = given[p];
  const auto value_at = [&](int64 i) __attribute__((always_inline)) {
    Keys value = load_vector<Keys>(parts[0] + i);
    if constexpr (FROM_RAW) value = clean_key<MINIMUM>(value);
#pragma GCC unroll 5
    for (int p = 1; p < PARTS; ++p) {
      const Keys part = load_vector<Keys>(parts[p] + i);
      // Only halves need cleaning here, which makes their keys: `better` never takes a NaN on its right.
      if constexpr (FROM_RAW && halves) value = better<MINIMUM>(value, clean_key<MINIMUM>(part));
      else value = better<MINIMUM>(value, part);
    }
    if constexpr (TO_RAW) value = stored_key(value);
    return value;
  };
  constexpr bool padded = !FROM_RAW && !TO_RAW;
  int64 i = 0;
#pragma GCC unroll 2
  for (; padded ? i < n : i + key_lanes <= n; i += key_lanes) store_vector(to + i, value_at(i));
  if (padded || i == n) return;
  if (n >= key_lanes) {  // overlaps the store before; the same numbers again, as `to` is none of the parts here
    store_vector(to + n - key_lanes, value_at(n - key_lanes));
    return;
  }
  step_short<MINIMUM, FROM_RAW, TO_RAW>(given, PARTS, to, n);
}
// Two rows of windows of PARTS consecutive rows: to[r][i] = best of rows[r][i] .. rows[r + PARTS - 1][i] for
// r = 0, 1. The best of the rows 1 .. PARTS - 1, which both windows contain, is found once.
template <bool MINIMUM, int PARTS, bool TO_RAW>
__attribute__((noinline)) void step_pair(const Key* const* rows, Key* const* to, int64 n) {
  if (n < key_lanes) {
    for (int r = 0; r < 2; ++r) step<MINIMUM, PARTS, true, TO_RAW>(rows + r, to[r], n);
    return;
  }
  const Key* row[PARTS + 1];
#pragma GCC unroll 6
  for (int p = 0; p <= PARTS; ++p) row[p] = rows[p];
  Key *const upper = to[0], *const lower = to[1];
  const auto key_at = [&](int p, int64 i) __attribute__((always_inline)) {
    return clean_key<MINIMUM>(load_vector<Keys>(row[p] + i));
  };
  const auto both_at = [&](int64 i) __attribute__((always_inline)) {
    Keys shared = key_at(1, i);
#pragma GCC unroll 5
    for (int p = 2; p < PARTS; ++p) {  // cleaned as in step()
      if constexpr (halves) shared = better<MINIMUM>(shared, key_at(p, i));
      else shared = better<MINIMUM>(shared, load_vector<Keys>(row[p] + i));
    }
    Keys first = better<MINIMUM>(shared, key_at(0, i));
    Keys second = better<MINIMUM>(shared, key_at(PARTS, i));
    store_vector(upper + i, TO_RAW ? stored_key(first) : first);
    store_vector(lower + i, TO_RAW ? stored_key(second) : second);
  };
  for (int64 i = 0; i + key_lanes <= n; i += key_lanes) both_at(i);
  if (n % key_lanes) both_at(n - key_lanes);
}
// What step() is compiled for. It is chosen by a table, so that its callers are compiled once for all.
struct StepKind {
  bool minimum, from_raw, to_raw;
};
template <bool MINIMUM, bool FROM_RAW, bool TO_RAW>
constexpr Step steps_of[most_parts] = {step<MINIMUM, 1, FROM_RAW, TO_RAW>, step<MINIMUM, 2, FROM_RAW, TO_RAW>,
                                       step<MINIMUM, 3, FROM_RAW, TO_RAW>, step<MINIMUM, 4, FROM_RAW, TO_RAW>,
                                       step<MINIMUM, 5, FROM_RAW, TO_RAW>};
template <bool MINIMUM, bool TO_RAW>
constexpr StepPair pairs_of[most_parts - 2] = {step_pair<MINIMUM, 3, TO_RAW>, step_pair<MINIMUM, 4, TO_RAW>,
                                               step_pair<MINIMUM, 5, TO_RAW>};
inline void step(StepKind kind, int count, const Key* const* parts, Key* to, int64 n) {
  // From stored elements to stored elements: but for halves the same as to keys.
  static constexpr const Step* all[2][2][2] = {
      {{steps_of<false, false, false>, steps_of<false, false, true>},
       {steps_of<false, true, false>, steps_of<false, true, halves>}},
      {{steps_of<true, false, false>, steps_of<true, false, true>},
       {steps_of<true, true, false>, steps_of<true, true, halves>}}};
  all[kind.minimum][kind.from_raw][kind.to_raw][count - 1](parts, to, n);
}
// Of at least three rows.
inline void step_pair(bool minimum, bool to_raw, int count, const Key* const* rows, Key* const* to, int64 n) {
  static constexpr const StepPair* all[2][2] = {{pairs_of<false, false>, pairs_of<false, halves>},
                                                {pairs_of<true, false>, pairs_of<true, halves>}};
  all[minimum][to_raw][count - 3](rows, to, n);
}

// The steps to a window: step s takes the best of count[s] windows of the step before, at the offsets
// offset[s][0 .. count[s] - 1]. The last windows of a step may overlap.
struct Steps {
  static constexpr int most = 32;
  int steps = 0;
  int count[most];
  int64 offset[most][most_parts];

  explicit Steps(int64 window) {
    int64 width = 1;
    while (width < window) {
      // As few steps as possible of at most most_parts windows, then as few windows in each as that number of
      // steps allows.
      const int64 ratio = ceil_div(window, width);
      int steps_left = 1;
      for (int64 reach = most_parts; reach < ratio; reach *= most_parts) ++steps_left;
      int64 parts = 2;
      while (power_of(parts, steps_left) < ratio) ++parts;
      const int64 next = steps_left == 1 ? window : smaller_of(window, width * parts);
      count[steps] = (int)ceil_div(next, width);
      for (int p = 0; p < count[steps]; ++p)
        offset[steps][p] = smaller_of(p * width, next - width);
      ++steps;
      width = next;
    }
  }
  // The largest offset of a step.
  int64 reach(int step) const { return offset[step][count[step] - 1]; }

 private:
  static int64 power_of(int64 base, int exponent) {
    int64 power = 1;
    while (exponent-- > 0) power *= base;
    return power;
  }
};

}  // namespace semiconv
