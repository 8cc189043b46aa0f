// What every host library exports besides its own functions, and how exports are marked.
#pragma once
#include "geometry.cuh"

#if defined(_OPENMP)
#include <omp.h>
#endif

#define SEMICONV_EXPORT extern "C" __attribute__((visibility("default")))

SEMICONV_EXPORT int semiconv_geometry_size() { return (int)sizeof(semiconv::Geometry); }

SEMICONV_EXPORT int semiconv_threads() {
#if defined(_OPENMP)
  return omp_get_max_threads();
#else
  return 1;
#endif
}
