// Numbers of any storage type as doubles and back, where a shared object serves all dtypes.
//
// Needs SEMICONV_STORAGE=float64.
#pragma once
#include "filters.cuh"

// The codes of the storage types; _TYPES in semiconv_cupy/ndimage/host/libraries.py lists them in this order.
#define SEMICONV_EACH_TYPE(DO)                                                               \
  DO(0, boolean) DO(1, int8) DO(2, uint8) DO(3, int16) DO(4, uint16) DO(5, int32) DO(6, uint32) \
  DO(7, int64) DO(8, uint64) DO(9, float16) DO(10, bfloat16) DO(11, float32) DO(12, float64)

namespace semiconv {

constexpr int float32_code = 11, float64_code = 12;

inline int itemsize(int type) {
  switch (type) {
#define SEMICONV_SIZE(code, S) \
  case code: return sizeof(S);
    SEMICONV_EACH_TYPE(SEMICONV_SIZE)
#undef SEMICONV_SIZE
  }
  return 0;
}

template <class S> void convert_from(const void* from, double* to, int64 n) {
  for (int64 i = 0; i < n; ++i) to[i] = (double)load(((const S*)from)[i]);
}
using Reader = void (*)(const void*, double*, int64);
inline Reader reader(int type) {
  switch (type) {
#define SEMICONV_READER(code, S) \
  case code: return convert_from<S>;
    SEMICONV_EACH_TYPE(SEMICONV_READER)
#undef SEMICONV_READER
  }
  return nullptr;
}

}  // namespace semiconv
