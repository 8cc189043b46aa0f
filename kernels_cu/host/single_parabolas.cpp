// Exports semiconv_single_parabolas, the erosion or dilation by a parabola without end along one axis in float; called
// by semiconv_cupy/ndimage/host/lines.py.
#include "parabolic_lines.hpp"

using namespace semiconv;

// As semiconv_parabolas, from float32 to float32 or float64, where sums are exact. `out` may be the source where both
// are floats.
SEMICONV_EXPORT int semiconv_single_parabolas(const Lines* lines, const LineOutputs* outputs, const double* cost,
                                              long long groups, long long repeat, const void* source, int source_type,
                                              void* out, int out_type, int* winners, int* followers,
                                              long long follower_count, int maximum, int finish, int exact,
                                              int threads) {
  const Call call{*lines, *outputs, groups, repeat, (const char*)source, (char*)out, source_type, out_type, winners,
                  followers, follower_count, maximum != 0, exact != 0, finish};
  return run<float>(call, cost, threads);
}
