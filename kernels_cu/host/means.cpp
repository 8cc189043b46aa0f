// Exports semiconv_means and semiconv_means_gradient: means of windows at every rate and their gradients by the image;
// called by semiconv_cupy/backends/means.py.
//
// Needs SEMICONV_STORAGE, and SEMICONV_POWERS or not.
#include "means.cuh"
#include "exports.hpp"

namespace {

using namespace semiconv;

constexpr int most_kept = 32;

struct Alone {
  static constexpr bool keeps = false;
  static int lane() { return 0; }
  static int lanes() { return 1; }
  static void join(Extent&) {}
  static void join(Sum& sum) { sum.fold(); }
};

struct Keeper : Alone {
  static constexpr bool keeps = true;
  Real* own;
  Real& kept(int i) const { return own[i]; }
};

// act(n, plane, position) for all positions of all planes of these sizes, n counting them.
template <class Act> void for_all(const WindowMeans& w, const int64* sizes, int threads, const Act& act) {
  const int64 rows = w.planes * sizes[0] * sizes[1];
  in_parallel(rows, threads, [&](Items& items) {
    for (int64 row; items.take(row);) {
      const int64 block = row / sizes[1];
      for (int64 k = 0; k < sizes[2]; ++k) {
        const int64 at[3] = {block % sizes[0], row % sizes[1], k};
        act(row * sizes[2] + k, block / sizes[0], at);
      }
    }
  });
}

}  // namespace

SEMICONV_EXPORT void semiconv_means(const Storage* img, const Real* rate, Storage* out, Real* residual,
                                    const WindowMeans* w, int threads) {
  const int64 pixels = w->img[0] * w->img[1] * w->img[2];
  const int64 outputs = w->planes * w->out[0] * w->out[1] * w->out[2];
  for_all(*w, w->out, threads, [&](int64 n, int64 plane, const int64* at) {
    const Window window(*w, img, plane * pixels, at);
    Real* const rest = residual ? residual + n : residual;
    if (window.count() <= most_kept) {
      Real terms[most_kept];
      Keeper keeper;
      keeper.own = terms;
      mean_of_window(*w, window, rate[plane % w->rates], keeper, out + n, rest, outputs);
    } else {
      mean_of_window(*w, window, rate[plane % w->rates], Alone(), out + n, rest, outputs);
    }
  });
}

SEMICONV_EXPORT void semiconv_means_gradient(const Storage* grad_out, const Storage* img, const Real* rate,
                                             const Real* residual, Storage* grad_img, const WindowMeans* w,
                                             int threads) {
  const int64 in_plane = w->out[0] * w->out[1] * w->out[2];
  for_all(*w, w->img, threads, [&](int64 n, int64 plane, const int64* at) {
    grad_img[n] = store(gradient_of_value(*w, Viewers(*w, at), load(img[n]), rate[plane % w->rates], plane * in_plane,
                                          grad_out, residual, residual + w->planes * in_plane));
  });
}
