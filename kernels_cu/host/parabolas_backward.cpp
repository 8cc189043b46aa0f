// Exports semiconv_parabolas_backward, the transpose of one pass of semiconv_parabolas; called by
// semiconv_cupy/ndimage/lines_backward.py.
//
// Each output goes back to the element that gave it, in the order of outputs along a line, so that sums have the
// same bits for any number of threads; moments are what the derivative by the scale is made of:
//
//     grad_in[winners[x]] += grad_out[x]        moment += grad_out[x] (x - winners[x])^2, one for each line
//
// One shared object serves all dtypes (SEMICONV_STORAGE is float64). Lines along another axis than the last are
// taken a few columns at a time.
#include "structs.hpp"
#include "memory.hpp"
#include "parallel.hpp"
#include "types.hpp"
#include "exports.hpp"

using namespace semiconv;

namespace {

constexpr int64 most_columns = 64;

struct Pullback {
  Lines lines;
  const int32* winners;
  const char* given;
  char* out;
  double* moments;
  int given_type, out_type;
  Reader read;
  int64 columns;

  // The lines `outer` and column .. column + count - 1; `sums` holds size * columns doubles, `row` columns.
  void compute(int64 outer, int64 column, int64 count, double* sums, double* row) const {
    const int64 size = lines.size, inner = lines.inner, begin = outer * size * inner + column;
    double moment[most_columns] = {};
    for (int64 i = 0; i < size * count; ++i) sums[i] = 0;
    for (int64 x = 0; x < size; ++x) {
      const int64 at = begin + x * inner;
      read(given + at * itemsize(given_type), row, count);
      const int32* from = winners + at;
      for (int64 c = 0; c < count; ++c) {
        if (from[c] < 0) continue;  // nothing was seen
        const double far = (double)(x - from[c]);
        sums[from[c] * count + c] += row[c];
        if (far != 0) moment[c] += row[c] * (far * far);
      }
    }
    for (int64 c = 0; c < count; ++c) moments[outer * inner + column + c] = moment[c];
    if (count == inner) return write(sums, begin, size * count);
    for (int64 x = 0; x < size; ++x) write(sums + x * count, begin + x * inner, count);
  }
  void write(const double* from, int64 at, int64 n) const {
    char* to = out + at * itemsize(out_type);
    switch (out_type) {
      case 9: return convert<float16>(from, to, n);
      case 10: return convert<bfloat16>(from, to, n);
      case 11: return convert<float>(from, to, n);
      default: memcpy(to, from, n * sizeof(double));
    }
  }
  template <class S> static void convert(const double* from, char* to, int64 n) {
    for (int64 i = 0; i < n; ++i) ((S*)to)[i] = Converted<S>::from(from[i]);
  }
};

}  // namespace

// given, out: of floating types. moments: one for each line. Returns 0, or 1 where memory ran out.
SEMICONV_EXPORT int semiconv_parabolas_backward(const Lines* lines, const int* winners, const void* given,
                                                int given_type, void* out, int out_type, double* moments,
                                                int threads) {
  const int64 size = lines->size, columns = smaller_of(lines->inner, most_columns);
  const Pullback pullback{*lines,   winners,    (const char*)given, (char*)out,
                          moments,  given_type, out_type,           reader(given_type), columns};
  const int64 parts = ceil_div(lines->inner, columns), works = lines->outer * parts;
  const int64 together = larger_of(1, 16384 / (size * columns));
  int status = success;
  in_parallel(ceil_div(works, together), threads, [&](Items& items) {
    AlignedBuffer<double> sums, row;
    if (!sums.allocate(size * columns) || !row.allocate(columns)) {
      set_flag(status, out_of_memory);
      return;
    }
    for (int64 item; items.take(item);)
      for (int64 n = item * together; n < smaller_of(works, (item + 1) * together); ++n) {
        const int64 column = n % parts * columns;
        pullback.compute(n / parts, column, smaller_of(columns, lines->inner - column), sums.data, row.data);
      }
  });
  return status;
}
