// What every host library exports besides its own functions, and the mark of an export.
#pragma once
#include "geometry.cuh"
#include "parallel.hpp"

#define SEMICONV_EXPORT extern "C" __attribute__((visibility("default")))

SEMICONV_EXPORT int semiconv_geometry_size() { return (int)sizeof(semiconv::Geometry); }

SEMICONV_EXPORT void semiconv_use_threads(semiconv::RunOnThreads run) {
  semiconv::run_on_threads = run;
}
