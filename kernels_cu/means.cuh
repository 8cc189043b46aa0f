// Means of windows at every rate, 0 included: what pooling by a learned mu or p computes where nobody can read the
// number, on a GPU and in traced programs.
//
// Needs SEMICONV_STORAGE, and SEMICONV_OFFSET, the type of positions (default: int64). The mean is
// ln(mean e^(rate v)) / rate; with SEMICONV_POWERS it is the mean of powers, (mean max(v, eps)^rate)^(1/rate),
// which is e to the former of ln v. With d = v - extreme (of powers: ln(v / extreme)), where the extreme is the
// window's largest value for rate >= 0, else its smallest, so that rate d <= 0,
//
//     distance D = ln(1 + mean(e^(rate d) - 1)) / rate, at 0 mean(d);    result = extreme + D (of powers: extreme e^D).
//
// No term overflows, and nothing is a difference of large numbers: the error does not grow as the rate goes to 0.
// A term's weight is e^z / n, z = rate (d - D); the derivative by the rate is the mean of (d - D)^2 k(z), where
// k(z) = (z e^z - e^z + 1) / z^2, 1/2 at 0 (of powers, times the result). Residuals of an output: the extreme, D,
// and, if the rate learns, that derivative.
#pragma once
#include "divisor.cuh"
#include "functions.cuh"
#include "accumulators/blocked_sum.cuh"

namespace semiconv {

#if !defined(SEMICONV_OFFSET)
#define SEMICONV_OFFSET int64
#endif
using Offset = SEMICONV_OFFSET;

// Before a loop that NVRTC would unroll for more turns than it makes.
#if defined(SEMICONV_GPU)
#define SEMICONV_ROLLED _Pragma("unroll 1")
#else
#define SEMICONV_ROLLED
#endif

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
  Divisor by_img[3], by_out[3], by_stride[3];  // of offsets of 32 bits
  int64 together;                              // planes of the image whose gradients a GPU's thread computes
  int64 plain;                                 // whether every window lies inside the image and has no gaps
  double eps;  // of powers: smaller values count as this
};

SEMICONV_FN int32 quotient(int32 n, int64, const Divisor& by) { return (int32)by.quotient((uint32)n); }
SEMICONV_FN int64 quotient(int64 n, int64 number, const Divisor&) { return n / number; }

// The taps of one window that lie inside the image, along one axis: at first + dilation * i for i in [begin, end).
struct TapRange {
  Offset first, begin, end, dilation;
  SEMICONV_FN TapRange(const WindowMeans& w, int axis, Offset out) : dilation((Offset)w.dilation[axis]) {
    const Offset size = (Offset)w.size[axis], limit = (Offset)w.img[axis];
    first = out * (Offset)w.stride[axis] - (Offset)w.before[axis];
    begin = 0;
    end = size;
    if (w.plain) return;
    if (first < 0) begin = steps(-first);
    if (first + (size - 1) * dilation >= limit) end = first < limit ? steps(limit - first) : 0;
    if (begin > end) begin = end;
  }
  // How many steps reach that far.
  SEMICONV_FN Offset steps(Offset far) const { return dilation == 1 ? far : (far + dilation - 1) / dilation; }
  SEMICONV_FN Offset count() const { return end - begin; }
  SEMICONV_FN Offset at(Offset i) const { return first + dilation * i; }
};

SEMICONV_FN Real used(Real value, Real eps) { return of_powers && value < eps ? eps : value; }

// Powers of two between which no ratio leaves the range, and its error can be computed.
constexpr Real least_tame = (Real)8.673617379884035e-19, most_tame = 1 / least_tame;

#if defined(SEMICONV_GPU)
// a / b of tame numbers: a quotient by an approximate reciprocal, and what it lacks, which a fused operation gives.
SEMICONV_FN float tame_ratio(float a, float b) {
  float reciprocal;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(reciprocal) : "f"(b));
  const float near = a * reciprocal;
  return __fmaf_rn(__fmaf_rn(-near, b, a), reciprocal, near);
}
SEMICONV_FN double tame_ratio(double a, double b) { return a / b; }
#else
template <class V> SEMICONV_FN V tame_ratio(V a, V b) { return a / b; }
#endif

// What d are relative to: the extreme of values from lowest to highest.
struct Reference {
  Real extreme, reciprocal;
  bool tame;
  SEMICONV_FN Reference(Real extreme_, Real lowest, Real highest)
      : extreme(extreme_), tame(of_powers && lowest >= least_tame && highest <= most_tame) {
    reciprocal = tame ? 1 / extreme : 0;
  }
  SEMICONV_FN Real d(Real value) const {
    if (!of_powers) return value == extreme ? 0 : value - extreme;
    if (tame) return log(ratio(value));
    return value == extreme ? 0 : of_any(value);
  }
  // value / extreme, as a division rounds it but for rare last bits.
  SEMICONV_FN Real ratio(Real value) const {
#if defined(SEMICONV_GPU) || defined(SEMICONV_CUDA_ON_CPU)
    const Real near = value * reciprocal;
    return fused(fused(-near, extreme, value), reciprocal, near);
#else
    return value / extreme;
#endif
  }
  SEMICONV_FN Real of_any(Real value) const {
    const Real ratio = value / extreme;
    if (ratio >= Limits<Real>::smallest_normal && ratio <= Limits<Real>::largest) return log(ratio);
    return log(value) - log(extreme);
  }
#if defined(SEMICONV_GPU) || defined(SEMICONV_CUDA_ON_CPU)
  static SEMICONV_FN float fused(float a, float b, float c) { return __fmaf_rn(a, b, c); }
  static SEMICONV_FN double fused(double a, double b, double c) { return __fma_rn(a, b, c); }
#endif
};

// e^z - 1 and e^z, of z so small that e^z is in the range; of z for which it is 0 nearly so, of NaN any number.
struct Exponential {
  Real less_1, power;
  explicit SEMICONV_FN Exponential(float z) {
    // e^z = 2^n e^r with |r| <= ln 2 / 2; adding 3 * 2^22 rounds to whole numbers, which are the sum's last bits.
    z = z > -87 ? z : -87;
    const float shifted = z * 1.44269504f + 12582912.0f, n = shifted - 12582912.0f;
    const float r = z - n * Limits<float>::ln2_high - n * Limits<float>::ln2_low;
    float sum = 1.0f / 5040 + r * (1.0f / 40320);
    sum = 1.0f / 720 + r * sum;
    sum = 1.0f / 120 + r * sum;
    sum = 1.0f / 24 + r * sum;
    sum = 1.0f / 6 + r * sum;
    sum = 1.0f / 2 + r * sum;
    const float e_r_less_1 = r + r * r * sum;
    const float scale = bit_cast<float>((bit_cast<uint32>(shifted) << 23) + 0x3f800000u);
    less_1 = scale * e_r_less_1 + (scale - 1);
    power = scale * e_r_less_1 + scale;
  }
  explicit SEMICONV_FN Exponential(double z) {
    const double small = expm1(z);
    power = z > -1 ? small + 1 : exp(z);
    less_1 = z > -1 ? small : power - 1;
  }
};

// 2 k(z) of |z| < 1/2: the sum of 2 (j + 1) / (j + 2)! z^j.
template <int j> struct Series {
  static constexpr int last = sizeof(Real) == 4 ? 8 : 15;
  static constexpr double factorial(int n) { return n > 1 ? n * factorial(n - 1) : 1; }
  static SEMICONV_FN Real of(Real z) {
    constexpr Real own = (Real)(2 * (j + 1) / factorial(j + 2));
    if constexpr (j == last) return own;
    else return own + z * Series<j + 1>::of(z);
  }
};

// The window of one output.
struct Window {
  const Storage* img;
  Offset plane;  // where it begins
  TapRange a, b, c;
  Offset height, width;  // of the image along the last axes
  Real eps;

  SEMICONV_FN Window(const WindowMeans& w, const Storage* img_, Offset plane_, const Offset* out)
      : img(img_), plane(plane_), a(w, 0, out[0]), b(w, 1, out[1]), c(w, 2, out[2]), height((Offset)w.img[1]),
        width((Offset)w.img[2]), eps((Real)w.eps) {}
  SEMICONV_FN Offset count() const { return a.count() * b.count() * c.count(); }
  SEMICONV_FN Real at(Offset i, Offset j, Offset k) const {
    return used(load(img[plane + (a.at(i) * height + b.at(j)) * width + c.at(k)]), eps);
  }
  // with(value) for each value inside the image; a team's threads share them.
  template <class Team, class Visit> SEMICONV_FN void visit(const Team& team, const Visit& with) const {
    if (team.lanes() == 1) {
      for (Offset i = a.begin; i < a.end; ++i)
        for (Offset j = b.begin; j < b.end; ++j) {
          SEMICONV_ROLLED
          for (Offset k = c.begin; k < c.end; ++k) with(at(i, j, k));
        }
      return;
    }
    const Offset all = count(), row = c.count(), rows = b.count();
    for (Offset n = team.lane(); n < all; n += team.lanes()) {
      const Offset line = n / row;
      with(at(a.begin + line / rows, b.begin + line % rows, c.begin + n % row));
    }
  }
};

struct Sum : BlockedSum<Real> {
  SEMICONV_FN Sum() { start(); }
};

// What the first pass over a window finds.
struct Extent {
  Real lowest, highest;
  bool nans;
  SEMICONV_FN Extent() : lowest(infinity<Real>()), highest(negative_infinity<Real>()), nans(false) {}
  SEMICONV_FN void add(Real value) {
    lowest = select_less(lowest, value);
    highest = select_greater(highest, value);
    nans = nans || value != value;
  }
  SEMICONV_FN void join(const Extent& other) {
    lowest = select_less(lowest, other.lowest);
    highest = select_greater(highest, other.highest);
    nans = nans || other.nans;
  }
};

// A window's mean: made of its extent, finished by the sums of a second pass; those of a third one make its slope.
struct WindowMean {
  Real rate, distance, value;
  Extent extent;
  Reference reference;
  Offset count;
  bool flat;  // the rate changes nothing: D is the mean of d
  bool near;  // |z| < 1/2 for all terms

  SEMICONV_FN WindowMean(Real rate_, const Extent& extent_, Offset count_)
      : rate(rate_), extent(extent_),
        reference(rate_ < 0 ? extent_.lowest : extent_.highest, extent_.lowest, extent_.highest), count(count_) {
    const Real spread = absolute(rate * reference.d(rate < 0 ? extent.highest : extent.lowest));
    flat = !(spread >= Limits<Real>::epsilon / 128);
    near = !(spread >= (Real)0.5);
  }
  // Of the sums of e^(rate d) - 1 and e^(rate d); where it is flat the first one is of d.
  SEMICONV_FN void finish(Real small, Real powers) {
    const Real n = (Real)count, mean = small / n;
    Real& extreme = reference.extreme;
    if (flat) distance = mean;
    else distance = (mean > (Real)-0.5 ? log1p(mean) : log(powers / n)) / rate;
    value = of_powers ? extreme * exp(distance) : extreme + distance;
    // Beside infinity, the mean for a rate of 0 has both ends of the window in it.
    if (!(absolute(extreme) < infinity<Real>())) value = flat ? extent.lowest + extent.highest : extreme;
    if (extent.nans || rate != rate) extreme = distance = value = infinity<Real>() - infinity<Real>();
    if (count == 0) {
      extreme = distance = 0;
      value = of_powers ? 0 : rate < 0 ? infinity<Real>() : negative_infinity<Real>();
    }
  }
  // 2 (d - D)^2 k(z) of a term, in the third pass, where all terms are near.
  SEMICONV_FN Real bend_near(Real d) const {
    const Real from_mean = d - distance;
    return Series<0>::of(rate * from_mean) * from_mean * from_mean;
  }
  // The same where not all are, times rate^2.
  SEMICONV_FN Real bend_far(Real d) const {
    const Real z = rate * (d - distance);
    const Exponential of_term(z);
    return absolute(z) < (Real)0.5 ? Series<0>::of(z) * z * z : 2 * (z * of_term.power - of_term.less_1);
  }
  // The derivative by the rate, of the sum of all bends; 0 beside an infinite value, and of no values.
  SEMICONV_FN Real slope(Real bends) const {
    if (value != value) return value;
    if (count == 0 || !(absolute(value) < infinity<Real>())) return 0;
    Real mean = (Real)0.5 * bends / (Real)count;
    if (!near) mean = mean / rate / rate;
    return of_powers ? value * mean : mean;
  }
};

// with(d) for each term that this thread of the team sees, and fold() after at most terms_per_fold of them. A team that
// `keeps` has room, kept(i), for all terms of a thread: of powers they are d by now.
template <class Team, class Visit, class Fold>
SEMICONV_FN void for_distances(const Window& window, const Team& team, int own, const Reference& reference,
                               const Visit& with, const Fold& fold) {
  if constexpr (Team::keeps) {
    for (int begin = 0; begin < own; begin += terms_per_fold) {
      const int end = minimum(begin + terms_per_fold, own);
      for (int i = begin; i < end; ++i) with(of_powers ? team.kept(i) : reference.d(team.kept(i)));
      fold();
    }
  } else {
    int terms = 0;
    window.visit(team, [&](Real term) {
      with(reference.d(term));
      if (++terms % terms_per_fold == 0) fold();
    });
  }
}

// The mean of one window by `team`, whose threads each see a part of it. Writes the result and the residuals, which lie
// in planes of `outputs` numbers.
template <class Team>
SEMICONV_FN void mean_of_window(const WindowMeans& w, const Window& window, Real rate, const Team& team, Storage* out,
                                Real* residual, int64 outputs) {
  Extent extent;
  int own = 0;  // terms
  window.visit(team, [&](Real term) {
    extent.add(term);
    if constexpr (Team::keeps) team.kept(own++) = term;
  });
  team.join(extent);
  WindowMean mean(rate, extent, window.count());
  const Reference reference = mean.reference;
  if constexpr (Team::keeps && of_powers)
    for (int i = 0; i < own; ++i) team.kept(i) = reference.d(team.kept(i));
  Sum small, powers;
  if (mean.flat) {
    for_distances(window, team, own, reference, [&](Real d) { small.add(d); }, [&] { small.fold(); });
  } else {
    const auto add = [&](Real d) {
      const Exponential of_term(rate * d);
      small.add(of_term.less_1);
      powers.add(of_term.power);
    };
    for_distances(window, team, own, reference, add, [&] {
      small.fold();
      powers.fold();
    });
  }
  team.join(small);
  team.join(powers);
  mean.finish(small.result(), powers.result());
  if (team.lane() == 0) {
    *out = store(mean.value);
    if (w.kept > 0) {
      residual[0] = mean.reference.extreme;
      residual[outputs] = mean.distance;
    }
  }
  if (w.kept < 3) return;
  Sum bends;
  const auto fold = [&] { bends.fold(); };
  if (mean.near) for_distances(window, team, own, reference, [&](Real d) { bends.add(mean.bend_near(d)); }, fold);
  else for_distances(window, team, own, reference, [&](Real d) { bends.add(mean.bend_far(d)); }, fold);
  team.join(bends);
  if (team.lane() == 0) residual[2 * outputs] = mean.slope(bends.result());
}

// The derivatives of means of windows by one term, times the terms' number.
struct Weights {
  Real term, exponent;
  bool tame;
  SEMICONV_FN Weights(Real term_, Real rate)
      : term(term_), exponent(of_powers ? rate - 1 : rate), tame(term_ >= least_tame && term_ <= most_tame) {}
  SEMICONV_FN Real of(Real extreme, Real distance) const {
    const Real d = of_powers && tame && extreme >= least_tame && extreme <= most_tame
                       ? log(tame_ratio(term, extreme))
                       : Reference(extreme, 0, 0).d(term);
    return exponent == 0 ? 1 : exp(exponent * (d - distance));
  }
};

// The outputs along one axis whose windows see a position: those in [first, last] for which sees() holds.
struct Seeing {
  Offset last, first, position, stride, dilation;
  SEMICONV_FN Seeing(const WindowMeans& w, int axis, Offset at)
      : position(at + (Offset)w.before[axis]), stride((Offset)w.stride[axis]), dilation((Offset)w.dilation[axis]) {
    const Offset reach = ((Offset)w.size[axis] - 1) * dilation;
    const int64 by = w.stride[axis];
    first = position > reach ? quotient((Offset)(position - reach + stride - 1), by, w.by_stride[axis]) : 0;
    last = minimum(quotient(position, by, w.by_stride[axis]), (Offset)(w.out[axis] - 1));
  }
  SEMICONV_FN bool sees(Offset out) const { return dilation == 1 || (position - out * stride) % dilation == 0; }
};

// The outputs of any plane that see a position.
struct Viewers {
  Seeing a, b, c;
  SEMICONV_FN Viewers(const WindowMeans& w, const Offset* at) : a(w, 0, at[0]), b(w, 1, at[1]), c(w, 2, at[2]) {}
};

// The gradient by a value of the image: the sum over the outputs that see it; its plane's begin with number `own`.
SEMICONV_FN Real gradient_of_value(const WindowMeans& w, const Viewers& viewers, Real value, Real rate, Offset own,
                                   const Storage* grad_out, const Real* extremes, const Real* distances) {
  Real sum = 0;
  if (of_powers && value < (Real)w.eps) return sum;
  const Weights weights(value, rate);
  const Seeing &a = viewers.a, &b = viewers.b, &c = viewers.c;
  // The product of an output's gradient and weight; a NaN or an infinity times 0 is 0.
  const auto product = [&](Offset n) -> Real {
    const Real grad = load(grad_out[n]), weight = weights.of(extremes[n], distances[n]);
    return grad == 0 || weight == 0 ? 0 : grad * weight;
  };
  const Offset taps = (Offset)w.size[0] * (Offset)w.size[1] * (Offset)w.size[2];
  if (w.plain) {
    for (Offset i = a.first; i <= a.last; ++i)
      for (Offset j = b.first; j <= b.last; ++j) {
        const Offset row = own + (i * (Offset)w.out[1] + j) * (Offset)w.out[2];
        for (Offset k = c.first; k <= c.last; ++k) sum += product(row + k);
      }
    return sum / (Real)taps;
  }
  for (Offset i = a.first; i <= a.last; ++i) {
    if (!a.sees(i)) continue;
    const Offset deep = TapRange(w, 0, i).count();
    for (Offset j = b.first; j <= b.last; ++j) {
      if (!b.sees(j)) continue;
      const Offset high = deep * TapRange(w, 1, j).count();
      const Offset row = own + (i * (Offset)w.out[1] + j) * (Offset)w.out[2];
      for (Offset k = c.first; k <= c.last; ++k) {
        if (!c.sees(k)) continue;
        const Offset count = high * TapRange(w, 2, k).count();
        const Real one = product(row + k);
        sum += count == taps ? one : one * ((Real)taps / (Real)count);
      }
    }
  }
  return sum / (Real)taps;
}

}  // namespace semiconv
