// Means of windows at every rate, 0 included: what pooling by a learned mu or p computes where nobody can read the
// number, on a GPU and in traced programs.
//
// Needs SEMICONV_STORAGE, and SEMICONV_OFFSET, the type of positions (default: int64). The mean is ln(mean e^(rate v)) / rate; with SEMICONV_POWERS it is the mean of powers,
// (mean max(v, eps)^rate)^(1/rate), which is e to the former of ln v. With d = v - extreme (of powers: ln(v /
// extreme)), where the extreme is the window's largest value for rate >= 0, else its smallest,
//
//     distance D = ln(1 + mean(e^(rate d) - 1)) / rate, at 0 mean(d);    result = extreme + D (of powers: extreme e^D).
//
// No term overflows, and nothing is a difference of large numbers: the error does not grow as the rate goes to 0.
// A term's weight is e^z / n, z = rate (d - D); the derivative by the rate is the mean of (d - D)^2 k(z), where
// k(z) = (z e^z - e^z + 1) / z^2, 1/2 at 0 (of powers, times the result). Residuals of an output: the extreme, D,
// and, if the rate learns, that derivative.
#pragma once
#include "functions.cuh"
#include "accumulators/blocked_sum.cuh"

namespace semiconv {

#if !defined(SEMICONV_OFFSET)
#define SEMICONV_OFFSET int64
#endif
using Offset = SEMICONV_OFFSET;

#if defined(SEMICONV_POWERS)
constexpr bool of_powers = true;
#else
constexpr bool of_powers = false;
#endif

// Which windows there are; images and results are C-contiguous planes of three axes, shorter ones begin with axes
// of one element.
struct WindowMeans {
  int64 planes, rates;  // plane p has rate p % rates
  int64 kept;           // residuals of an output: 0, 2, or 3 with the derivative by the rate
  int64 img[3], out[3], size[3], stride[3], dilation[3], before[3];
  double eps;  // of powers: smaller values count as this
};

// The taps of one window that lie inside the image, along one axis: at first + dilation * i for i in [begin, end).
struct TapRange {
  Offset first, begin, end, dilation;
  SEMICONV_FN TapRange(const WindowMeans& w, int axis, Offset out) : dilation((Offset)w.dilation[axis]) {
    const Offset size = (Offset)w.size[axis], limit = (Offset)w.img[axis];
    first = out * (Offset)w.stride[axis] - (Offset)w.before[axis];
    begin = first < 0 ? (dilation - 1 - first) / dilation : 0;
    end = size;
    if (first + (size - 1) * dilation >= limit) end = first < limit ? (limit - first + dilation - 1) / dilation : 0;
    if (begin > end) begin = end;
  }
  SEMICONV_FN Offset count() const { return end - begin; }
  SEMICONV_FN Offset at(Offset i) const { return first + dilation * i; }
};

SEMICONV_FN Real used(Real value, Real eps) { return of_powers && value < eps ? eps : value; }

// A value's d.
SEMICONV_FN Real relative(Real value, Real extreme) {
  if (value == extreme) return 0;
  if (!of_powers) return value - extreme;
  const Real ratio = value / extreme;
  if (ratio >= Limits<Real>::smallest_normal && ratio <= Limits<Real>::largest) return log(ratio);
  return log(value) - log(extreme);
}

// The window of one output.
struct Window {
  const Storage* plane;
  TapRange a, b, c;
  Offset height, width;  // of the image along the last axes
  Real eps;

  SEMICONV_FN Window(const WindowMeans& w, const Storage* plane_, const Offset* out)
      : plane(plane_), a(w, 0, out[0]), b(w, 1, out[1]), c(w, 2, out[2]), height((Offset)w.img[1]),
        width((Offset)w.img[2]), eps((Real)w.eps) {}
  SEMICONV_FN Offset count() const { return a.count() * b.count() * c.count(); }
  SEMICONV_FN Real at(Offset i, Offset j, Offset k) const {
    return used(load(plane[(a.at(i) * height + b.at(j)) * width + c.at(k)]), eps);
  }
  // with(value) for each value inside the image; a team's threads share them.
  template <class Team, class Visit> SEMICONV_FN void visit(const Team& team, const Visit& with) const {
    if (team.lanes() == 1) {
      for (Offset i = a.begin; i < a.end; ++i)
        for (Offset j = b.begin; j < b.end; ++j)
          for (Offset k = c.begin; k < c.end; ++k) with(at(i, j, k));
      return;
    }
    const Offset all = count(), row = c.count(), rows = b.count();
    for (Offset n = team.lane(); n < all; n += team.lanes()) {
      const Offset line = n / row;
      with(at(a.begin + line / rows, b.begin + line % rows, c.begin + n % row));
    }
  }
};

// A blocked sum that folds itself.
struct Sum : BlockedSum<Real> {
  int terms;
  SEMICONV_FN Sum() : terms(0) { start(); }
  SEMICONV_FN void add(Real value) {
    BlockedSum<Real>::add(value);
    if (++terms % terms_per_fold == 0) fold();
  }
};

// What the first pass over a window finds.
struct Extent {
  Real lowest, highest;
  int nans;
  SEMICONV_FN Extent() : lowest(infinity<Real>()), highest(negative_infinity<Real>()), nans(0) {}
  SEMICONV_FN void add(Real value) {
    lowest = select_less(lowest, value);
    highest = select_greater(highest, value);
    nans |= value != value;
  }
  SEMICONV_FN void join(const Extent& other) {
    lowest = select_less(lowest, other.lowest);
    highest = select_greater(highest, other.highest);
    nans |= other.nans;
  }
};

// A window's mean: made of its extent, finished by the sums of a second pass; those of a third one make its slope.
struct WindowMean {
  Real rate, extreme, distance, value;
  Extent extent;
  Offset count;
  bool flat;  // the rate changes nothing: D is the mean of d

  SEMICONV_FN WindowMean(Real rate_, const Extent& extent_, Offset count_)
      : rate(rate_), extent(extent_), count(count_) {
    extreme = rate < 0 ? extent.lowest : extent.highest;
    flat = !(absolute(rate) * relative(extent.highest, extent.lowest) >= Limits<Real>::epsilon / 128);
  }
  // A term of the second pass: the sums are of e^(rate d) - 1 and e^(rate d), or the first one is of d.
  SEMICONV_FN void add(Sum& small, Sum& powers, Real term) const {
    const Real d = relative(term, extreme), z = rate * d;
    if (flat) return small.add(d);
    if (z > -1) {
      const Real power = expm1(z);
      small.add(power);
      powers.add(power + 1);
    } else {
      const Real power = exp(z);
      small.add(power - 1);
      powers.add(power);
    }
  }
  SEMICONV_FN void finish(Real small, Real powers) {
    const Real n = (Real)count, mean = small / n;
    if (flat) distance = mean;
    else distance = (mean > (Real)-0.5 ? log1p(mean) : log(powers / n)) / rate;
    value = of_powers ? extreme * exp(distance) : extreme + distance;
    // Beside infinity, the mean for a rate of 0 has both ends of the window in it.
    if (!(absolute(extreme) < infinity<Real>())) value = flat ? extent.lowest + extent.highest : extreme;
    if (extent.nans) extreme = distance = value = infinity<Real>() - infinity<Real>();
    if (count == 0) {
      extreme = distance = 0;
      value = of_powers ? 0 : rate < 0 ? infinity<Real>() : negative_infinity<Real>();
    }
  }
  // (d - D)^2 k(z) of a term, in the third pass.
  SEMICONV_FN Real bend(Real term) const {
    const Real from_mean = relative(term, extreme) - distance, z = rate * from_mean;
    if (absolute(z) < (Real)0.5 || rate == 0) {
      // 1/2 + z/3 + z^2/8 + z^3/30 + ...: the coefficient j is (j + 1) / (j + 2)!, here by its ratio to the next.
      constexpr int last = sizeof(Real) == 4 ? 7 : 14;
      Real sum = 1;
      for (int j = last; j >= 0; --j) sum = 1 + z * sum * ((Real)(j + 2) / (Real)((j + 1) * (j + 3)));
      return sum * (Real)0.5 * from_mean * from_mean;
    }
    const Real power = exp(z);
    return ((power > 0 ? power * (z - 1) : 0) + 1) / rate / rate;
  }
  // The derivative by the rate, of the sum of all bends; 0 beside an infinite value, and of no values.
  SEMICONV_FN Real slope(Real bends) const {
    if (value != value) return value;
    if (count == 0 || !(absolute(value) < infinity<Real>())) return 0;
    return (of_powers ? value : (Real)1) * bends / (Real)count;
  }
};

// The mean of one window by `team`, whose threads each see a part of it. Writes the result and the residuals, which lie
// in planes of `outputs` numbers.
template <class Team>
SEMICONV_FN void mean_of_window(const WindowMeans& w, const Window& window, Real rate, const Team& team, Storage* out,
                                Real* residual, int64 outputs) {
  Extent extent;
  window.visit(team, [&](Real term) { extent.add(term); });
  team.join(extent);
  WindowMean mean(rate, extent, window.count());
  Sum small, powers;
  window.visit(team, [&](Real term) { mean.add(small, powers, term); });
  team.join(small);
  team.join(powers);
  mean.finish(small.result(), powers.result());
  if (team.lane() == 0) {
    *out = store(mean.value);
    if (w.kept > 0) {
      residual[0] = mean.extreme;
      residual[outputs] = mean.distance;
    }
  }
  if (w.kept < 3) return;
  Sum bends;
  window.visit(team, [&](Real term) { bends.add(mean.bend(term)); });
  team.join(bends);
  if (team.lane() == 0) residual[2 * outputs] = mean.slope(bends.result());
}

// The derivative of a window's mean by one of its terms, times their number.
SEMICONV_FN Real weight_of(Real term, Real rate, Real extreme, Real distance) {
  const Real exponent = of_powers ? rate - 1 : rate;
  return exponent == 0 ? 1 : exp(exponent * (relative(term, extreme) - distance));
}

// The outputs along one axis whose windows see a position: those in [first, last] for which sees() holds.
struct Seeing {
  Offset last, first, position, stride, dilation;
  SEMICONV_FN Seeing(const WindowMeans& w, int axis, Offset at)
      : position(at + (Offset)w.before[axis]), stride((Offset)w.stride[axis]), dilation((Offset)w.dilation[axis]) {
    const Offset reach = ((Offset)w.size[axis] - 1) * dilation;
    first = position > reach ? (position - reach + stride - 1) / stride : 0;
    last = minimum((Offset)(position / stride), (Offset)(w.out[axis] - 1));
  }
  SEMICONV_FN bool sees(Offset out) const { return dilation == 1 || (position - out * stride) % dilation == 0; }
};

// The gradient by a value of the image, `at` in its plane: the sum over the outputs that see it. grad_out and residual
// begin with the plane's own outputs.
SEMICONV_FN Real gradient_of_value(const WindowMeans& w, Real value, Real rate, const Offset* at,
                                   const Storage* grad_out, const Real* residual, int64 outputs) {
  Real sum = 0;
  if (of_powers && value < (Real)w.eps) return sum;
  const Seeing a(w, 0, at[0]), b(w, 1, at[1]), c(w, 2, at[2]);
  for (Offset i = a.first; i <= a.last; ++i) {
    if (!a.sees(i)) continue;
    const Offset deep = TapRange(w, 0, i).count();
    for (Offset j = b.first; j <= b.last; ++j) {
      if (!b.sees(j)) continue;
      const Offset high = deep * TapRange(w, 1, j).count();
      for (Offset k = c.first; k <= c.last; ++k) {
        const Offset n = (i * (Offset)w.out[1] + j) * (Offset)w.out[2] + k;
        const Real grad = load(grad_out[n]);
        if (!c.sees(k) || grad == 0) continue;
        const Real weight = weight_of(value, rate, residual[n], residual[outputs + n]);
        if (weight != 0) sum += grad * (weight / (Real)(high * TapRange(w, 2, k).count()));
      }
    }
  }
  return sum;
}

}  // namespace semiconv
