// Runs one kernel launch on the calling OS thread: blocks one after another, the threads of a block
// as fibers, so that barriers and warp operations truly wait. No CUDA names here (cuda_on_cpu.hpp).
//
// A worker fiber runs thread after thread in a plain loop; only a thread that waits keeps its fiber,
// and the next unstarted thread takes another. A kernel without barriers never switches.
#include "runtime.hpp"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <deque>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#if defined(CUDA_ON_CPU_ASAN)  // the kernels are instrumented, this file only tells where stacks are
#include <sanitizer/common_interface_defs.h>
extern "C" void __asan_unpoison_memory_region(const volatile void* address, size_t size);
#endif
#if !defined(__x86_64__) && !defined(CUDA_ON_CPU_UCONTEXT)
#define CUDA_ON_CPU_UCONTEXT 1
#endif
#if defined(CUDA_ON_CPU_UCONTEXT)
#include <ucontext.h>
#endif

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace cuda_on_cpu {
namespace {

constexpr int poison = 0xA5;
constexpr size_t static_shared_limit = 48 * 1024, shared_limit = 227 * 1024;
constexpr unsigned warp_size = 32;
constexpr size_t stack_bytes = 256 * 1024, page = 4096;

}  // namespace
}  // namespace cuda_on_cpu

#include "races.hpp"

namespace cuda_on_cpu {
namespace {

// ---- fibers ------------------------------------------------------------------------------------

struct Context {
#if defined(CUDA_ON_CPU_UCONTEXT)
  ucontext_t context;
#else
  void* stack_pointer = nullptr;
#endif
  void* fake_stack = nullptr;  // AddressSanitizer's
  const void* stack_bottom = nullptr;
  size_t stack_size = 0;
};

#if !defined(CUDA_ON_CPU_UCONTEXT)
// The registers that a System V function must keep; the rest the caller has saved. (swapcontext
// does the same and two system calls for the signal mask.)
extern "C" void cuda_on_cpu_switch(void** save, void* load);
asm(R"(
  .text
  .p2align 4
  .hidden cuda_on_cpu_switch
  .globl cuda_on_cpu_switch
  .type cuda_on_cpu_switch, @function
cuda_on_cpu_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
  .size cuda_on_cpu_switch, .-cuda_on_cpu_switch
)");
#endif

void switch_context(Context& from, Context& to) {
#if defined(CUDA_ON_CPU_ASAN)
  __sanitizer_start_switch_fiber(&from.fake_stack, to.stack_bottom, to.stack_size);
#endif
#if defined(CUDA_ON_CPU_UCONTEXT)
  swapcontext(&from.context, &to.context);
#else
  cuda_on_cpu_switch(&from.stack_pointer, to.stack_pointer);
#endif
#if defined(CUDA_ON_CPU_ASAN)
  __sanitizer_finish_switch_fiber(from.fake_stack, nullptr, nullptr);
#endif
}

void worker_entry();

struct Fiber : Context {
  char* memory;
  unsigned long long launch = 0;  // the launch that it was prepared for

  explicit Fiber(size_t number) {
    // The lowest page stays forbidden: a stack that overflows must not run into its neighbour.
    memory = static_cast<char*>(mmap(nullptr, page + stack_bytes, PROT_NONE,
                                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    if (memory == MAP_FAILED || mprotect(memory + page, stack_bytes, PROT_READ | PROT_WRITE)) {
      perror("cuda_on_cpu: no memory for the stack of a thread");
      abort();
    }
    stack_bottom = memory + page;
    // Stacks start at different cache sets, else the 1024 tops of stack evict each other.
    stack_size = stack_bytes - number % 32 * 128;
  }
  Fiber(const Fiber&) = delete;
  ~Fiber() {
#if defined(CUDA_ON_CPU_ASAN)
    __asan_unpoison_memory_region(stack_bottom, stack_bytes);
#endif
    munmap(memory, page + stack_bytes);
  }

  // From the top again, whatever ran here before (perhaps a thread of a launch that failed).
  void prepare() {
    fake_stack = nullptr;
#if defined(CUDA_ON_CPU_ASAN)
    __asan_unpoison_memory_region(stack_bottom, stack_bytes);
#endif
#if defined(CUDA_ON_CPU_UCONTEXT)
    getcontext(&context);
    context.uc_stack.ss_sp = const_cast<void*>(stack_bottom);
    context.uc_stack.ss_size = stack_size;
    context.uc_link = nullptr;
    makecontext(&context, worker_entry, 0);
#else
    void** top = reinterpret_cast<void**>(memory + page + stack_size);
    *--top = nullptr;  // a return address that ends a backtrace; and the stack is aligned as by a call
    *--top = reinterpret_cast<void*>(worker_entry);
    for (int i = 0; i < 6; ++i) *--top = nullptr;
    stack_pointer = top;
#endif
  }
};

// ---- the state of a launch ---------------------------------------------------------------------

enum class State { unstarted, running, at_block_barrier, at_warp_operation, finished };

struct Thread {
  uint3 index;
  Fiber* fiber;
  State state;
  int line;
  // Of the pending warp operation:
  unsigned mask, source;
  unsigned long long value, result;
};

struct WarpGroup {  // the lanes that wait for one warp operation with one mask
  WarpOperation operation;
  unsigned mask, arrived;
  int line;
};

struct SharedVariable {
  void* address;
  size_t size;
  unsigned long long block;  // the block that poisoned it last
};

struct Launch {
  const Entry* entry;
  void** arguments;
  bool reverse;
  size_t dynamic_bytes;
  char* dynamic;  // with margins around it, see below

  unsigned threads;
  unsigned long long block_number;
  std::vector<Thread> thread;
  std::vector<std::vector<WarpGroup>> warp;
  std::deque<unsigned> ready;
  unsigned started, finished, waiting, predicates;
  int barrier_result;
  std::vector<SharedVariable> shared;
  size_t static_bytes;
  Watch watch;

  unsigned current;
  Fiber* running;
  bool failed;
  std::string message;
};

Launch* launch;  // null between launches
Context scheduler;
std::vector<std::unique_ptr<Fiber>> fibers;
std::vector<Fiber*> idle;
unsigned long long launches;

// Without AddressSanitizer, bytes around the dynamic shared memory tell of a write outside it.
#if defined(CUDA_ON_CPU_ASAN)
constexpr size_t margin = 0;
#else
constexpr size_t margin = 1024;
#endif

std::string describe(const char* what, uint3 index) {
  char text[96];
  snprintf(text, sizeof text, "%s (%u, %u, %u)", what, index.x, index.y, index.z);
  return text;
}

void set_error(const std::string& what) {
  launch->failed = true;
  launch->message = std::string("kernel ") + launch->entry->name + ", " +
                    describe("block", blockIdx) + ": " + what;
}

unsigned in_order(unsigned i) { return launch->reverse ? launch->threads - 1 - i : i; }

Thread& current_thread() {
  if (!launch) {
    fputs("cuda_on_cpu: a device function was called outside of a kernel\n", stderr);
    abort();
  }
  return launch->thread[launch->current];
}

void make_current(unsigned number) {
  launch->current = number;
  threadIdx = launch->thread[number].index;
}

// The body of every fiber: never returns.
void worker_entry() {
#if defined(CUDA_ON_CPU_ASAN)
  __sanitizer_finish_switch_fiber(nullptr, &scheduler.stack_bottom, &scheduler.stack_size);
#endif
  Fiber* const self = launch->running;
  for (;;) {
    while (launch->started < launch->threads) {
      const unsigned number = in_order(launch->started++);
      launch->thread[number].fiber = self;
      launch->thread[number].state = State::running;
      make_current(number);
      launch->entry->run(launch->arguments);
      launch->thread[number].state = State::finished;
      ++launch->finished;
    }
    idle.push_back(self);
    switch_context(*self, scheduler);
  }
}

void wait_for_others(Thread& self) { switch_context(*self.fiber, scheduler); }

void resume(Fiber* fiber) {
  launch->running = fiber;
  switch_context(scheduler, *fiber);
}

Fiber* idle_fiber() {
  if (idle.empty()) {
    fibers.push_back(std::make_unique<Fiber>(fibers.size()));
    idle.push_back(fibers.back().get());
  }
  Fiber* const fiber = idle.back();
  idle.pop_back();
  if (fiber->launch != launches) {
    fiber->launch = launches;
    fiber->prepare();
  }
  return fiber;
}

// ---- when nobody can go on ---------------------------------------------------------------------

std::string waiting_for(const Thread& thread) {
  char text[96];
  if (thread.state == State::finished) return "have ended";
  if (thread.state == State::at_block_barrier)
    snprintf(text, sizeof text, "wait in __syncthreads of line %d", thread.line);
  else
    snprintf(text, sizeof text, "wait in the warp operation of line %d with mask 0x%08x",
             thread.line, thread.mask);
  return text;
}

std::string who_waits_where() {
  struct Kind {
    std::string what;
    unsigned count;
    uint3 first;
  };
  std::vector<Kind> kinds;
  for (const Thread& thread : launch->thread) {
    const std::string what = waiting_for(thread);
    bool known = false;
    for (Kind& kind : kinds)
      if (kind.what == what) {
        ++kind.count;
        known = true;
      }
    if (!known) kinds.push_back({what, 1, thread.index});
  }
  std::string text;
  for (const Kind& kind : kinds)
    text += (text.empty() ? "" : "; ") + std::to_string(kind.count) + " threads " + kind.what +
            " (first: " + describe("thread", kind.first) + ")";
  return text;
}

// Lets the block pass its barrier if every thread has come to the same one.
void release_block() {
  const int line = launch->thread[0].line;
  bool same = launch->waiting == launch->threads;
  for (const Thread& thread : launch->thread) same = same && thread.line == line;
  if (!same) {
    set_error("not every thread reaches the same barrier: " + who_waits_where());
    return;
  }
  launch->barrier_result = static_cast<int>(launch->predicates);
  launch->predicates = launch->waiting = 0;
  launch->watch.block_met();
  for (unsigned i = 0; i < launch->threads; ++i) {
    launch->thread[in_order(i)].state = State::running;
    launch->ready.push_back(in_order(i));
  }
}

void run_block() {
  ++launch->block_number;
  launch->watch.block_met();
  launch->started = launch->finished = launch->waiting = launch->predicates = 0;
  launch->static_bytes = 0;
  if (launch->dynamic_bytes) memset(launch->dynamic, poison, launch->dynamic_bytes + 2 * margin);
  while (!launch->failed && launch->finished < launch->threads) {
    if (launch->started < launch->threads) {
      resume(idle_fiber());
    } else if (!launch->ready.empty()) {
      const unsigned number = launch->ready.front();
      launch->ready.pop_front();
      make_current(number);
      resume(launch->thread[number].fiber);
    } else {
      release_block();
    }
  }
  for (size_t i = 0; !launch->failed && launch->dynamic_bytes && i < margin; ++i) {
    const unsigned char before = launch->dynamic[i];
    const unsigned char after = launch->dynamic[margin + launch->dynamic_bytes + i];
    if (before != poison || after != poison)
      set_error("a write outside the " + std::to_string(launch->dynamic_bytes) +
                " bytes of dynamic shared memory");
  }
}

void run_grid(dim3 grid, dim3 block) {
  gridDim = grid;
  blockDim = block;
  Launch& l = *launch;
  l.thread.resize(l.threads);
  l.warp.resize((l.threads + warp_size - 1) / warp_size);
  for (unsigned i = 0; i < l.threads; ++i)
    l.thread[i].index = {i % block.x, i / block.x % block.y, i / block.x / block.y};
  const unsigned long long blocks = 1ull * grid.x * grid.y * grid.z;
  for (unsigned long long i = 0; i < blocks && !l.failed; ++i) {
    const unsigned long long b = l.reverse ? blocks - 1 - i : i;
    blockIdx = {static_cast<unsigned>(b % grid.x), static_cast<unsigned>(b / grid.x % grid.y),
                static_cast<unsigned>(b / grid.x / grid.y)};
    run_block();
  }
}

}  // namespace

// ---- what kernels call -------------------------------------------------------------------------

void fail(const char* format, ...) {
  char text[512];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  Thread& self = current_thread();
  set_error(describe("thread", self.index) + ": " + text);
  for (;;) switch_context(*self.fiber, scheduler);
}

void* dynamic_shared(int line) {
  current_thread();
  if (!launch->dynamic_bytes)
    fail("line %d uses dynamic shared memory, but the launch asked for none", line);
  return launch->dynamic + margin;
}

void shared_variable(void* address, unsigned long long size, int line) {
  Launch& l = *launch;
  SharedVariable* variable = nullptr;
  for (SharedVariable& known : l.shared)
    if (known.address == address) variable = &known;
  if (variable && variable->block == l.block_number) return;
  if (!variable) {
    l.shared.push_back({address, static_cast<size_t>(size), 0});
    variable = &l.shared.back();
    l.watch.add(address, static_cast<size_t>(size));
  }
  variable->block = l.block_number;
  memset(address, poison, size);
  l.static_bytes += size;
  if (l.static_bytes > static_shared_limit || l.static_bytes + l.dynamic_bytes > shared_limit)
    fail("line %d: %zu bytes of static and %zu of dynamic shared memory; the limits are %zu for "
         "static and %zu for both",
         line, l.static_bytes, l.dynamic_bytes, static_shared_limit, shared_limit);
}

void watched_access(const void* address, size_t size, bool writes) {
  if (!launch || !launch->watch.on) return;
  const char* const at = static_cast<const char*>(address);
  for (const Watched& memory : launch->watch.memory) {
    if (!memory.has(at)) continue;
    const size_t offset = static_cast<size_t>(at - memory.begin), end = std::min(offset + size, memory.size);
    for (size_t i = offset; i < end; ++i)
      if (const unsigned other = launch->watch.seen(memory.bytes[i], launch->current, writes)) {
        const Thread& they = launch->thread[other - 1];
        fail("after line %d it %s byte %zu of shared memory without a barrier between this and what %s does, "
             "which now is at line %d",
             current_thread().line, writes ? "writes" : "reads", i, describe("thread", they.index).c_str(), they.line);
      }
    return;
  }
}

void check_launch_bounds(long long threads) {
  if (launch->threads > threads)
    fail("launched with %u threads a block, but __launch_bounds__ says %lld", launch->threads,
         threads);
}

int block_barrier(Reduction reduction, int predicate, int line) {
  Thread& self = current_thread();
  self.state = State::at_block_barrier;
  self.line = line;
  ++launch->waiting;
  launch->predicates += predicate != 0;
  wait_for_others(self);
  const int count = launch->barrier_result;
  switch (reduction) {
    case Reduction::count: return count;
    case Reduction::conjunction: return count == static_cast<int>(launch->threads);
    case Reduction::disjunction: return count != 0;
    case Reduction::none: break;
  }
  return 0;
}

unsigned lane() {
  current_thread();
  return launch->current % warp_size;
}

unsigned unfinished_lanes() {
  current_thread();
  const unsigned first = launch->current / warp_size * warp_size;
  unsigned lanes = 0;
  for (unsigned i = 0; i < warp_size && first + i < launch->threads; ++i)
    if (launch->thread[first + i].state != State::finished) lanes |= 1u << i;
  return lanes;
}

unsigned long long warp_operation(WarpOperation operation, unsigned mask, int line,
                                  unsigned long long value, unsigned source) {
  Thread& self = current_thread();
  const unsigned me = launch->current % warp_size, first = launch->current - me;
  if (!(mask >> me & 1)) fail("line %d: mask 0x%08x does not name the calling lane %u", line, mask, me);
  self.state = State::at_warp_operation;
  self.line = line;
  self.mask = mask;
  self.value = value;
  self.source = source;

  std::vector<WarpGroup>& groups = launch->warp[launch->current / warp_size];
  size_t g = 0;
  while (g < groups.size() && !(groups[g].mask == mask && groups[g].operation == operation &&
                                groups[g].line == line))
    ++g;
  if (g == groups.size()) groups.push_back({operation, mask, 0, line});
  groups[g].arrived |= 1u << me;

  // Lanes that the block does not have need not come (a block of 48 threads, mask 0xffffffff).
  const unsigned exist = launch->threads - first;
  const unsigned wanted = exist < warp_size ? mask & ((1u << exist) - 1) : mask;
  if (groups[g].arrived != wanted) {
    wait_for_others(self);
    return self.result;
  }
  groups.erase(groups.begin() + static_cast<long>(g));
  if (operation == WarpOperation::synchronise) launch->watch.lanes_met(first, wanted);
  unsigned long long ballot = 0;
  for (unsigned i = 0; i < warp_size; ++i)
    if (wanted >> i & 1) ballot |= static_cast<unsigned long long>(launch->thread[first + i].value != 0) << i;
  for (unsigned k = 0; k < warp_size; ++k) {
    const unsigned i = launch->reverse ? warp_size - 1 - k : k;
    if (!(wanted >> i & 1)) continue;
    Thread& thread = launch->thread[first + i];
    // A lane that does not take part has no value to give: CUDA says undefined, here it is poison.
    if (operation == WarpOperation::ballot)
      thread.result = ballot;
    else if (wanted >> thread.source & 1)
      thread.result = launch->thread[first + thread.source].value;
    else
      memset(&thread.result, poison, sizeof thread.result);
    thread.state = State::running;
    if (i != me) launch->ready.push_back(first + i);
  }
  return self.result;
}

// ---- what Python calls -------------------------------------------------------------------------

extern "C" __attribute__((visibility("default"))) int cuda_on_cpu_launch(const Entry* entry, const unsigned* grid, const unsigned* block,
                                  void** arguments, size_t dynamic_bytes, int reverse,
                                  char* message, size_t message_bytes) {
  Launch state = {};
  state.entry = entry;
  state.arguments = arguments;
  state.reverse = reverse != 0;
  state.dynamic_bytes = dynamic_bytes;
  state.dynamic = dynamic_bytes ? static_cast<char*>(malloc(dynamic_bytes + 2 * margin)) : nullptr;
  state.threads = block[0] * block[1] * block[2];
  ++launches;
  idle.clear();
  for (const auto& fiber : fibers) idle.push_back(fiber.get());
  launch = &state;
  if (entry->watched) state.watch.start(state.dynamic + margin, dynamic_bytes, state.threads);
  run_grid({grid[0], grid[1], grid[2]}, {block[0], block[1], block[2]});
  launch = nullptr;
  free(state.dynamic);
  snprintf(message, message_bytes, "%s", state.message.c_str());
  return state.failed;
}

}  // namespace cuda_on_cpu
