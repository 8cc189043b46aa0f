// What every host library exports besides its own functions.
#pragma once
#include "geometry.cuh"
#include "parallel.hpp"
#include "platform.hpp"

SEMICONV_EXPORT int semiconv_geometry_size() { return (int)sizeof(semiconv::Geometry); }

SEMICONV_EXPORT void semiconv_use_threads(semiconv::RunOnThreads run) {
  semiconv::run_on_threads = run;
}
