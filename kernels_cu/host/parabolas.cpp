// Exports semiconv_parabolas, the erosion or dilation by a parabola without end along one axis in double, of any
// dtype; called by semiconv_cupy/ndimage/host/lines.py. single_parabolas.cpp has the same of floats.
#include "parabolic_lines.hpp"

using namespace semiconv;

// cost: of the distances 0 .. size - 1, of each group; one that begins with infinity leaves its lines as they are.
// winners and followers may be null, and are of whole lines; finish: one of Finish. exact: sums are exact in the
// source's type, as those of integers are. `out` may be the source where both are doubles. Returns 0, or 1 where
// memory ran out.
SEMICONV_EXPORT int semiconv_parabolas(const Lines* lines, const LineOutputs* outputs, const double* cost,
                                       long long groups, long long repeat, const void* source, int source_type,
                                       void* out, int out_type, int* winners, int* followers, long long follower_count,
                                       int maximum, int finish, int exact, int threads) {
  const Call call{*lines, *outputs, groups, repeat, (const char*)source, (char*)out, source_type, out_type, winners,
                  followers, follower_count, maximum != 0, exact != 0, finish};
  return run<double>(call, cost, threads);
}
