// What a kernel that was compiled for the CPU may ask of the runtime (runtime.cpp), and how Python
// (device.py) launches it. cuda_on_cpu.hpp puts the CUDA names on top; kernels never include this.
#pragma once

#pragma GCC visibility push(default)  // one runtime library serves the libraries of all kernels

struct uint3 {
  unsigned x, y, z;
};

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  constexpr dim3() = default;
  constexpr dim3(unsigned x, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
  constexpr operator uint3() const { return uint3{x, y, z}; }
};

// Of the thread that runs now; the runtime sets them at every switch.
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;

namespace cuda_on_cpu {

// One parameter of a kernel, for the launcher's checks.
struct Parameter {
  unsigned long long size;     // bytes of the parameter itself
  unsigned long long pointee;  // bytes of what a pointer points to; 0: not a pointer, or to void
  char kind;                   // p: pointer, c: pointer to const, b i u f: number, s: struct
};

struct Entry {
  const char* name;
  int parameter_count;
  const Parameter* parameters;
  void (*run)(void** arguments);  // the body of one thread
  const Entry* next;
  bool watched;  // says of each access to memory where it is (races.hpp)
};

// Reports the error of the running thread, ends the launch, does not return.
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

void* dynamic_shared(int line);
void shared_variable(void* address, unsigned long long size, int line);
void check_launch_bounds(long long threads);

enum class Reduction { none, count, conjunction, disjunction };
int block_barrier(Reduction reduction, int predicate, int line);

enum class WarpOperation { synchronise, shuffle, ballot };
// shuffle: the value of lane `source`; ballot: the lanes whose value is not 0.
unsigned long long warp_operation(WarpOperation operation, unsigned mask, int line,
                                  unsigned long long value, unsigned source);
unsigned lane();
unsigned unfinished_lanes();

}  // namespace cuda_on_cpu

#pragma GCC visibility pop
