// Quadratic structuring functions -|W x|^2 of offsets x, and their derivative by the parameters of W.
//
// W^T W is the inverse of a covariance; torch_bridge/quadratic/covariances.py says what the parameters mean, and
// computes the same by tensors. Needs SEMICONV_STORAGE. For n axes there are n logarithms of standard deviations,
// `step` numbers apart (one for an isotropic kernel), and n (n - 1) / 2 numbers more, one for each pair of axes.
#pragma once
#include "functions.cuh"

namespace semiconv {

enum class Covariance { isotropic, spectral, cholesky };

// The sum of gradient times x_i x_j over the taps, i <= j: all that the derivative needs of a kernel's gradient.
template <int MOST> struct Moments {
  double of[MOST][MOST];

  SEMICONV_FN explicit Moments(int n) {
    for (int i = 0; i < n; ++i)
      for (int j = i; j < n; ++j) of[i][j] = 0;
  }
  SEMICONV_FN void add(int n, const int32* x, double gradient) {
    for (int i = 0; i < n; ++i)
      for (int j = i; j < n; ++j) of[i][j] += gradient * (x[i] * (double)x[j]);
  }
  SEMICONV_FN double operator()(int i, int j) const { return i < j ? of[i][j] : of[j][i]; }
};

// W of one kernel; MOST is at least its number of axes n.
template <Covariance FORM, int MOST> struct Whitening {
  static constexpr int most_pairs = MOST * (MOST - 1) / 2 + (MOST == 1);
  int n;
  Real scale[MOST];                           // isotropic: of |x|^2; spectral: of the rows; Cholesky: deviations
  Real first[most_pairs], second[most_pairs]; // of each pair of axes: cos and sin, or correlation and what it leaves
  Real rows[MOST][MOST];                      // spectral: W without its scale; Cholesky: W
  Real lower[MOST][MOST];                     // Cholesky: the inverse of W

  SEMICONV_FN Whitening(int n_, const Storage* log_std, int64 step, const Storage* pairs) : n(n_) {
    if constexpr (FORM == Covariance::isotropic) {
      scale[0] = exp(Real(-2) * (Real)load(log_std[0]));
      return;
    }
    for (int i = 0; i < n; ++i) {
      const Real log_scale = (Real)load(log_std[i * step]);
      scale[i] = exp(FORM == Covariance::spectral ? -log_scale : log_scale);
      for (int j = 0; j < n; ++j) rows[i][j] = Real(i == j);
    }
    if constexpr (FORM == Covariance::spectral) rotate(pairs);
    if constexpr (FORM == Covariance::cholesky) invert(pairs);
  }

  SEMICONV_FN Real operator()(const int32* x) const {
    Real sum = 0;
    if constexpr (FORM == Covariance::isotropic) {
      for (int i = 0; i < n; ++i) sum += (Real)x[i] * (Real)x[i];
      return -(sum * scale[0]);
    }
    for (int i = 0; i < n; ++i) {
      Real z = 0;
      for (int j = 0; j < n; ++j) z += rows[i][j] * (Real)x[j];
      if constexpr (FORM == Covariance::spectral) z *= scale[i];
      sum += z * z;
    }
    return -sum;
  }

  // The gradients of the parameters, which lie as the parameters do.
  SEMICONV_FN void differentiate(const Moments<MOST>& moments, Storage* grad_log_std, int64 step,
                                 Storage* grad_pairs) const {
    if constexpr (FORM == Covariance::isotropic) {
      double trace = 0;
      for (int i = 0; i < n; ++i) trace += moments(i, i);
      grad_log_std[0] = store((Real)(2 * (double)scale[0] * trace));
      return;
    }
    double grad[MOST][MOST];  // by W
    for (int i = 0; i < n; ++i)
      for (int j = 0; j < n; ++j) {
        double sum = 0;
        for (int k = 0; k < n; ++k) sum += (double)rows[i][k] * moments(k, j);
        grad[i][j] = -2 * sum * (FORM == Covariance::spectral ? (double)scale[i] : 1.0);
      }
    if constexpr (FORM == Covariance::spectral) differentiate_rotations(grad, grad_log_std, step, grad_pairs);
    if constexpr (FORM == Covariance::cholesky) differentiate_inverse(grad, grad_log_std, step, grad_pairs);
  }

 private:
  // One plane rotation after the other, in lexicographic order of the axes' pairs.
  SEMICONV_FN void rotate(const Storage* pairs) {
    int pair = 0;
    for (int i = 0; i < n; ++i)
      for (int j = i + 1; j < n; ++j, ++pair) {
        const Real c = first[pair] = cos((Real)load(pairs[pair]));
        const Real s = second[pair] = sin((Real)load(pairs[pair]));
        for (int k = 0; k < n; ++k) {
          const Real a = rows[i][k], b = rows[j][k];
          rows[i][k] = c * a + s * b;
          rows[j][k] = c * b - s * a;
        }
      }
  }

  SEMICONV_FN void differentiate_rotations(double (&grad)[MOST][MOST], Storage* grad_log_std, int64 step,
                                           Storage* grad_pairs) const {
    double turned[MOST][MOST];
    for (int i = 0; i < n; ++i) {
      double sum = 0;
      for (int j = 0; j < n; ++j) {
        sum += grad[i][j] * (turned[i][j] = rows[i][j]) * (double)scale[i];
        grad[i][j] *= scale[i];
      }
      grad_log_std[i * step] = store((Real)-sum);
    }
    int pair = n * (n - 1) / 2;
    for (int i = n - 2; i >= 0; --i)
      for (int j = n - 1; j > i; --j) {
        const double c = first[--pair], s = second[pair];
        double sum = 0;
        for (int k = 0; k < n; ++k) {
          const double a = turned[i][k], b = turned[j][k], of_a = grad[i][k], of_b = grad[j][k];
          sum += of_a * b - of_b * a;
          turned[i][k] = c * a - s * b;
          turned[j][k] = c * b + s * a;
          grad[i][k] = c * of_a - s * of_b;
          grad[j][k] = c * of_b + s * of_a;
        }
        grad_pairs[pair] = store((Real)sum);
      }
  }

  // W = L^-1 by forward substitution; row i of L is s_i (r_i0, r_i1 q_i0, ..., q_i0 ... q_i,i-1).
  SEMICONV_FN void invert(const Storage* pairs) {
    int pair = 0;
    for (int i = 0; i < n; ++i) {
      Real left = scale[i];
      for (int j = 0; j < i; ++j, ++pair) {
        const Real corr = (Real)load(pairs[pair]);
        first[pair] = tanh(corr);
        second[pair] = Real(1) / cosh(corr);  // sqrt(1 - tanh^2) without its cancellation
        lower[i][j] = left * first[pair];
        left *= second[pair];
        for (int k = 0; k <= j; ++k) rows[i][k] -= lower[i][j] * rows[j][k];
      }
      lower[i][i] = left;
      for (int k = 0; k <= i; ++k) rows[i][k] /= left;
    }
  }

  SEMICONV_FN void differentiate_inverse(double (&grad)[MOST][MOST], Storage* grad_log_std, int64 step,
                                         Storage* grad_pairs) const {
    int pair = n * (n - 1) / 2;
    for (int i = n - 1; i >= 0; --i) {
      // Row i of W is (e_i - the sum of L_ij times row j) / L_ii.
      const double diagonal = lower[i][i];
      double of_left = 0;
      for (int k = 0; k <= i; ++k) of_left -= grad[i][k] * (double)rows[i][k];
      of_left /= diagonal;
      double left[MOST];  // what the correlations before j leave of the deviation
      left[0] = scale[i];
      for (int j = 0; j < i; ++j) left[j + 1] = left[j] * (double)second[pair - i + j];
      for (int j = i - 1; j >= 0; --j) {
        double of_lower = 0;
        for (int k = 0; k <= j; ++k) {
          of_lower -= grad[i][k] / diagonal * (double)rows[j][k];
          grad[j][k] -= (double)lower[i][j] * (grad[i][k] / diagonal);
        }
        const double r = first[--pair], q = second[pair];
        // Of tanh the derivative is q^2, of 1 / cosh -q r.
        grad_pairs[pair] = store((Real)(left[j] * q * (of_lower * q - of_left * r)));
        of_left = of_left * q + of_lower * r;
      }
      grad_log_std[i * step] = store((Real)(of_left * (double)scale[i]));
    }
  }
};

}  // namespace semiconv
