// Exports semiconv_quadratic and semiconv_quadratic_gradient: quadratic kernels and the gradients of their parameters,
// in any number of axes; called by semiconv_cupy/backends/quadratic.py.
//
// Needs SEMICONV_STORAGE. The arrays lie as in cuda/quadratic.cu.
#include "quadratic.cuh"
#include "exports.hpp"

namespace {

using namespace semiconv;

// The taps of a kernel in memory order.
struct Taps {
  int n;
  int32 offset[max_rank], first[max_rank], last[max_rank];

  Taps(int n_, const int64* sizes) : n(n_) {
    for (int a = 0; a < n; ++a) {
      first[a] = offset[a] = -(int32)((sizes[a] - 1) / 2);
      last[a] = first[a] + (int32)sizes[a] - 1;
    }
  }
  void next() {
    for (int a = n - 1; a >= 0 && ++offset[a] > last[a]; --a) offset[a] = first[a];
  }
};

struct Kernels {
  int rank;
  const int64* sizes;
  int64 count;
  const Storage *log_std, *pairs;

  int64 taps() const {
    int64 product = 1;
    for (int a = 0; a < rank; ++a) product *= sizes[a];
    return product;
  }
  int64 pairs_of_axes() const { return rank * (rank - 1) / 2; }
};

template <Covariance FORM> struct OfForm {
  using Kernel = Whitening<FORM, max_rank>;

  static int64 step(const Kernels& k) { return FORM == Covariance::cholesky ? k.count : 1; }
  static int64 first(const Kernels& k, int64 kernel) {
    return FORM == Covariance::spectral ? kernel * k.rank : kernel;
  }
  static Kernel kernel_of(const Kernels& k, int64 kernel) {
    return Kernel(k.rank, k.log_std + first(k, kernel), step(k), k.pairs + kernel * k.pairs_of_axes());
  }

  static void values(const Kernels& k, Storage* krn, int threads) {
    const int64 taps = k.taps();
    in_parallel(k.count, threads, [&](Items& items) {
      for (int64 kernel; items.take(kernel);) {
        const Kernel function = kernel_of(k, kernel);
        Taps tap(k.rank, k.sizes);
        for (int64 t = 0; t < taps; ++t, tap.next()) krn[kernel * taps + t] = store(function(tap.offset));
      }
    });
  }

  static void gradients(const Kernels& k, const Storage* grad_krn, Storage* grad_log_std, Storage* grad_pairs,
                        int threads) {
    const int64 taps = k.taps();
    in_parallel(k.count, threads, [&](Items& items) {
      for (int64 kernel; items.take(kernel);) {
        Moments<max_rank> moments(k.rank);
        Taps tap(k.rank, k.sizes);
        for (int64 t = 0; t < taps; ++t, tap.next())
          moments.add(k.rank, tap.offset, (double)load(grad_krn[kernel * taps + t]));
        kernel_of(k, kernel).differentiate(moments, grad_log_std + first(k, kernel), step(k),
                                           grad_pairs + kernel * k.pairs_of_axes());
      }
    });
  }
};

// act of the form with that number.
template <class Act> void with_form(int covariance, const Act& act) {
  switch ((Covariance)covariance) {
    case Covariance::isotropic: return act(OfForm<Covariance::isotropic>());
    case Covariance::spectral: return act(OfForm<Covariance::spectral>());
    case Covariance::cholesky: return act(OfForm<Covariance::cholesky>());
  }
}

}  // namespace

// sizes: of the kernel's axes, at most max_rank. Parameters and kernels as in cuda/quadratic.cu.
SEMICONV_EXPORT void semiconv_quadratic(int covariance, int rank, const long long* sizes, long long kernels,
                                        const Storage* log_std, const Storage* pairs, Storage* krn,
                                        int threads) {
  const Kernels all{rank, (const int64*)sizes, kernels, log_std, pairs};
  with_form(covariance, [&](auto form) { form.values(all, krn, threads); });
}

SEMICONV_EXPORT void semiconv_quadratic_gradient(int covariance, int rank, const long long* sizes,
                                                 long long kernels, const Storage* log_std,
                                                 const Storage* pairs, const Storage* grad_krn,
                                                 Storage* grad_log_std, Storage* grad_pairs, int threads) {
  const Kernels all{rank, (const int64*)sizes, kernels, log_std, pairs};
  with_form(covariance, [&](auto form) {
    form.gradients(all, grad_krn, grad_log_std, grad_pairs, threads);
  });
}
