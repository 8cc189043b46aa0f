"""The CPU harness itself: it computes what CUDA would, and it reports what CUDA forbids."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cuda_on_cpu.device import (
    CompileError,
    HarnessDevice,
    LaunchError,
    sanitizer_environment,
)

SOURCE = r"""
// Comments may speak of __shared__ things; as they like.
#define KERNEL_NAME renamed_by_a_macro
#define THREADS 64
namespace toy {

struct Pair {
  short first;
  double second;
  int many[3];
};

template <class T> __device__ __forceinline__ T block_total(T value) {
  __shared__ T part[32];  // one for each T
  for (int d = 16; d; d /= 2) value += __shfl_down_sync(0xffffffffu, value, d);
  __syncthreads();
  if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = value;
  __syncthreads();
  value = threadIdx.x < blockDim.x / 32 ? part[threadIdx.x] : T(0);
  for (int d = 16; d; d /= 2) value += __shfl_xor_sync(0xffffffffu, value, d);
  return value;
}

extern "C" __global__ void __launch_bounds__(1024) totals(
    const float* __restrict__ in, float* floats, long long* integers, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  const float f = block_total<float>(i < n ? __ldg(in + i) : 0.f);
  const long long k = block_total<long long>(i < n ? (long long)in[i] : 0);
  if (threadIdx.x == 0) { floats[blockIdx.x] = f; atomicAdd((unsigned long long*)integers, k); }
}

extern "C" __global__ void reduce_dynamic(const int* in, int* out) {
  extern __shared__ __align__(16) int tree[];
  tree[threadIdx.x] = in[blockIdx.x * blockDim.x + threadIdx.x];
  for (int half = blockDim.x / 2; half; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) tree[threadIdx.x] += tree[threadIdx.x + half];
  }
  if (threadIdx.x == 0) out[blockIdx.x] = tree[0];
}

extern "C" __global__ void warp_scan(const int* in, int* out, int width) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  int value = in[i];
  for (int d = 1; d < width; d *= 2) {
    const int left = __shfl_up_sync(0xffffffffu, value, d, width);
    if (threadIdx.x % width >= d) value += left;
  }
  out[i] = value;
}

extern "C" __global__ void transpose(const float* in, float* out, int rows, int columns) {
  __shared__ float tile[16][17], unused;
  const int x = blockIdx.x * 16 + threadIdx.x, y = blockIdx.y * 16 + threadIdx.y;
  if (y < rows && x < columns) tile[threadIdx.y][threadIdx.x] = in[y * columns + x];
  __syncthreads();
  const int row = blockIdx.x * 16 + threadIdx.y, column = blockIdx.y * 16 + threadIdx.x;
  if (row < columns && column < rows) out[row * rows + column] = tile[threadIdx.x][threadIdx.y];
}

extern "C" __global__ void neighbour_without_barrier(int* out) {
  __shared__ int row[64];
  row[threadIdx.x] = threadIdx.x;
  out[threadIdx.x] = row[(threadIdx.x + 63) % 64];
}

extern "C" __global__ void indices(unsigned* out) {
  const unsigned long long block =
      blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * (unsigned long long)blockIdx.z);
  const unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  unsigned* const mine = out + 6 * (block * blockDim.x * blockDim.y * blockDim.z + thread);
  mine[0] = threadIdx.x; mine[1] = threadIdx.y; mine[2] = threadIdx.z;
  mine[3] = blockIdx.x; mine[4] = blockIdx.y; mine[5] = blockIdx.z;
}

extern "C" __global__ void votes(unsigned* out, int limit) {
  const bool mine = threadIdx.x < limit;
  out[0 * blockDim.x + threadIdx.x] = __ballot_sync(0xffffffffu, mine);
  out[1 * blockDim.x + threadIdx.x] = __any_sync(0xffffffffu, mine);
  out[2 * blockDim.x + threadIdx.x] = __all_sync(0xffffffffu, mine);
  out[3 * blockDim.x + threadIdx.x] = __syncthreads_count(mine);
  out[4 * blockDim.x + threadIdx.x] = __syncthreads_or(mine);
  out[5 * blockDim.x + threadIdx.x] = __syncthreads_and(mine);
  __syncwarp();
}

extern "C" __global__ void half_warps(int* out) {
  int got = -1;
  if (threadIdx.x < 16) got = __shfl_sync(0x0000ffffu, (int)threadIdx.x, 15 - threadIdx.x);
  else got = __shfl_sync(0xffff0000u, (int)threadIdx.x, 16 + (threadIdx.x + 1) % 16);
  out[threadIdx.x] = got;
}

extern "C" __global__ void atomics(
    int* i, unsigned* u, unsigned long long* l, float* f, double* d) {
  const int me = threadIdx.x;
  atomicAdd(i + 0, me); atomicSub(i + 1, me); atomicMin(i + 2, -me); atomicMax(i + 3, me);
  const unsigned bit = 1u << me % 32;
  atomicAnd(u + 0, ~bit); atomicOr(u + 1, bit); atomicXor(u + 2, bit);
  atomicInc(u + 3, 9); atomicDec(u + 4, 9);
  atomicAdd(l, 1ull << 40); atomicAdd(f, 0.5f); atomicAdd(d, 0.25);
  unsigned* const bits = (unsigned*)(f + 1);  // a float maximum by compare and swap
  for (unsigned seen = *bits, assumed;;) {
    assumed = seen;
    seen = atomicCAS(bits, assumed, __float_as_uint(fmaxf(__uint_as_float(assumed), (float)me)));
    if (seen == assumed) break;
  }
}

extern "C" __global__ void by_value(
    const Pair pair, const unsigned char byte, long long wide, float single, double* out) {
  out[0] = pair.first; out[1] = pair.second; out[2] = pair.many[2];
  out[3] = byte; out[4] = wide; out[5] = single;
}

extern "C" __global__ void names(float* out) {
  out[0] = fminf(1.f, 2.f); out[1] = max(3, 4); out[2] = expf(0.f); out[3] = rsqrtf(4.f);
  out[4] = __int_as_float(0x40400000); out[5] = __popc(0xffu) + __clz(1) + __ffs(8);
  out[6] = __float2int_rn(2.5f); out[7] = __umulhi(0x80000000u, 6u); out[8] = warpSize;
  const float4 four = make_float4(1, 2, 3, 4);
  out[9] = four.w + sizeof(float4) + alignof(float4);
  out[10] = __float2int_rz(1e20f) == 2147483647; out[11] = __fmaf_rn(2.f, 3.f, 1.f);
}

extern "C" __global__ void KERNEL_NAME(int* out) { out[0] = THREADS; }
extern "C" __launch_bounds__(THREADS, 2) __global__ void bounded(int* out) { out[0] = 1; }
extern "C" __global__ void nothing() {}
#if 0
extern "C" __global__ void left_out(Undefined type) {}
#endif

extern "C" __global__ void early_exit(int limit) {
  if (threadIdx.x >= limit) return;
  __syncthreads();
}
extern "C" __global__ void divergent_barrier() {
  if (threadIdx.x < 7) __syncthreads();
  else
    __syncthreads();
}
extern "C" __global__ void unequal_barriers() {
  for (int i = 0; i <= (threadIdx.x == 40); ++i) __syncthreads();
}
extern "C" __global__ void divergent_shuffle(int* out) {
  if (threadIdx.x % 2) out[threadIdx.x] = __shfl_sync(0xffffffffu, 1, 0);
}
extern "C" __global__ void foreign_mask(int* out) {
  out[threadIdx.x] = __shfl_sync(0x0000ffffu, 1, 0);
}
extern "C" __global__ void trap() { if (blockIdx.x == 2 && threadIdx.x == 3) __trap(); }
extern "C" __global__ void poisoned(unsigned* out) {
  __shared__ unsigned fixed[THREADS];
  extern __shared__ unsigned sized[];
  out[2 * blockIdx.x] = fixed[5]; out[2 * blockIdx.x + 1] = sized[5];
  fixed[5] = sized[5] = 0;
}
extern "C" __global__ void inactive_lane(unsigned* out) {
  out[threadIdx.x] = __shfl_down_sync(0xffffffffu, threadIdx.x, 1);
}
extern "C" __global__ void over_static() {
  __shared__ int a[48 * 1024 / 4], b;
  a[0] = b = 0;
}

extern "C" __global__ void write_global(int* out, int n) { out[threadIdx.x + n] = 1; }
extern "C" __global__ void write_static(int* out, int n) {
  __shared__ int row[THREADS];
  row[(int)threadIdx.x + n] = threadIdx.x;
  __syncthreads();
  out[threadIdx.x] = row[threadIdx.x];
}
extern "C" __global__ void write_dynamic(int* out, int n) {
  extern __shared__ int row[];
  row[(int)threadIdx.x + n] = threadIdx.x;
  __syncthreads();
  out[threadIdx.x] = row[threadIdx.x];
}
extern "C" __global__ void overflow(int* out, int n) {
  out[threadIdx.x] = 2147483647 - 63 + (int)threadIdx.x + n;
}
}  // namespace toy
"""
THREADS = 64


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cuda_on_cpu")


@pytest.fixture(scope="module", params=["forward", "reverse", "ucontext"])
def device(request, cache):
    if request.param == "ucontext":
        return HarnessDevice(ucontext=True, cache_folder=cache)
    return HarnessDevice(order=request.param, cache_folder=cache)


@pytest.fixture(scope="module")
def forward(cache):
    return HarnessDevice(cache_folder=cache)


def run(device, name, grid, block, *args, shared_bytes=0):
    device.compile(SOURCE, name)(grid, block, args, shared_bytes)


@pytest.mark.table(1)
def test_static_shared_memory_of_a_template_shuffles_and_atomics(device):
    values = np.arange(2000, dtype=np.float32)
    floats, integers = device.empty(8, np.float32), np.zeros(1, np.int64)
    run(device, "totals", (8,), (256,), values, floats, integers, np.int32(values.size))
    expected = np.pad(values, (0, 48)).reshape(8, 256).sum(1)
    np.testing.assert_array_equal(floats, expected)
    assert integers[0] == values.sum()


@pytest.mark.parametrize("threads", [2, 32, 128, 1024])
def test_block_reduction_in_dynamic_shared_memory(device, threads):
    values = np.arange(5 * threads, dtype=np.int32) % 1000
    totals = device.empty(5, np.int32)
    run(device, "reduce_dynamic", (5,), (threads,), values, totals, shared_bytes=4 * threads)
    np.testing.assert_array_equal(totals, values.reshape(5, -1).sum(1))


@pytest.mark.parametrize("width", [8, 32])
def test_scan_by_shuffles(device, width):
    values = np.random.default_rng(0).integers(-9, 9, 3 * 96, dtype=np.int32)
    scanned = device.empty(values.size, np.int32)
    run(device, "warp_scan", (3,), (96,), values, scanned, np.int32(width))
    np.testing.assert_array_equal(scanned, values.reshape(-1, width).cumsum(1).ravel())


def test_transposition_through_shared_memory(device):
    matrix = np.random.default_rng(0).random((37, 50), np.float32)
    transposed = device.empty((50, 37), np.float32)
    size = np.int32(37), np.int32(50)
    run(device, "transpose", (4, 3), (16, 16), matrix, transposed, *size)
    np.testing.assert_array_equal(transposed, matrix.T)


def test_a_missing_barrier_shows_in_one_of_the_two_orders(cache):
    results = []
    for order in ("forward", "reverse"):
        device = HarnessDevice(order=order, cache_folder=cache)
        out = device.empty(64, np.int32)
        run(device, "neighbour_without_barrier", (1,), (64,), out)
        results.append(out)
    assert (results[0] != results[1]).any()


@pytest.mark.parametrize(
    ("grid", "block"), [((5,), (7,)), ((2, 3), (4, 5)), ((2, 3, 4), (5, 3, 2))]
)
def test_indices_of_up_to_three_dimensions(device, grid, block):
    out = device.empty((int(np.prod(grid)), int(np.prod(block)), 6), np.uint32)
    run(device, "indices", grid, block, out)
    full_grid, full_block = grid + (1,) * (3 - len(grid)), block + (1,) * (3 - len(block))
    for b, block_index in enumerate(np.ndindex(full_grid[::-1])):
        for t, thread_index in enumerate(np.ndindex(full_block[::-1])):
            assert tuple(out[b, t]) == thread_index[::-1] + block_index[::-1]


def test_votes_of_warps_and_blocks(device):
    out = device.empty((6, 64), np.uint32)
    run(device, "votes", (1,), (64,), out, np.int32(40))
    assert set(out[0, :32]) == {0xFFFFFFFF}
    assert set(out[0, 32:]) == {0xFF}
    assert set(out[1]) == {1}
    assert (out[2] == (np.arange(64) < 32)).all()
    assert set(out[3]) == {40}
    assert set(out[4]) == {1}
    assert set(out[5]) == {0}


def test_half_warps_shuffle_apart(device):
    out = device.empty(32, np.int32)
    run(device, "half_warps", (1,), (32,), out)
    np.testing.assert_array_equal(out[:16], np.arange(16)[::-1])
    np.testing.assert_array_equal(out[16:], np.roll(np.arange(16, 32), -1))


def test_atomics(device):
    i = np.zeros(4, np.int32)
    u = np.array([0xFFFFFFFF, 0, 0, 0, 0], np.uint32)
    long, f, d = np.zeros(1, np.uint64), np.zeros(2, np.float32), np.zeros(1)
    run(device, "atomics", (1,), (96,), i, u, long, f, d)
    total = 95 * 96 // 2
    assert i.tolist() == [total, -total, -95, 95]
    assert u.tolist() == [0, 0xFFFFFFFF, 0xFFFFFFFF, 96 % 10, (-96) % 10]
    assert long[0] == 96 << 40
    assert f.tolist() == [48.0, 95.0]
    assert d[0] == 24.0


PAIR = np.dtype([("first", "i2"), ("second", "f8"), ("many", "i4", 3)], align=True)


@pytest.mark.parametrize("as_array", [False, True])
def test_structures_and_numbers_by_value(device, as_array):
    pair = np.zeros((), PAIR)
    pair["first"], pair["second"], pair["many"] = -3, 0.5, (7, 8, 9)
    out = device.empty(6, np.float64)
    numbers = np.uint8(200), np.int64(-(2**40)), np.float32(0.25)
    run(device, "by_value", (1,), (1,), pair if as_array else pair[()], *numbers, out)
    assert out.tolist() == [-3, 0.5, 9, 200, -(2.0**40), 0.25]


def test_cuda_names(device):
    out = device.empty(12, np.float32)
    run(device, "names", (1,), (1,), out)
    assert out.tolist() == [1, 4, 1, 0.5, 3, 8 + 31 + 4, 2, 3, 32, 4 + 16 + 16, 1, 7]


def test_kernel_named_by_a_macro_and_kernel_without_arguments(forward):
    out = forward.empty(1, np.int32)
    run(forward, "renamed_by_a_macro", (1,), (1,), out)
    assert out[0] == THREADS
    run(forward, "nothing", (2, 2), (32,))


def test_a_define_is_passed_on(forward):
    source = 'extern "C" __global__ void f(int* out) { *out = VALUE; }'
    out = forward.empty(1, np.int32)
    forward.compile(source, "f", ("-DVALUE=5", "-std=c++17"))((1,), (1,), (out,))
    assert out[0] == 5
    with pytest.raises(ValueError, match=r"--frobnicate"):
        forward.compile(source, "f", ("--frobnicate",))


# ---- what must be reported ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("early_exit", (np.int32(10),), "10 threads wait in __syncthreads.*54 threads have ended"),
        ("divergent_barrier", (), "7 threads wait in __syncthreads.*57 threads wait in __syncthr"),
        ("unequal_barriers", (), r"63 threads have ended.*1 threads wait.*thread \(40, 0, 0\)"),
        ("divergent_shuffle", (np.zeros(64, np.int32),), "32 threads wait in the warp operation"),
        ("foreign_mask", (np.zeros(64, np.int32),), "does not name the calling lane (16|31)"),
        ("trap", (), r"block \(2, 0, 0\): thread \(3, 0, 0\): line \d+: __trap"),
        ("over_static", (), "49156 bytes of static"),
        ("write_dynamic", (np.zeros(64, np.int32), np.int32(0)), "the launch asked for none"),
    ],
)
def test_errors_of_a_launch(device, name, args, message):
    with pytest.raises(LaunchError, match=rf"(?s)kernel {name}.*{message}"):
        run(device, name, (4,), (64,), *args)
    test_half_warps_shuffle_apart(device)  # the device serves on


def test_shared_memory_is_poisoned_before_each_block(device):
    out = np.zeros((3, 2), np.uint32)
    run(device, "poisoned", (3,), (1,), out, shared_bytes=64)
    assert (out == 0xA5A5A5A5).all()


def test_a_lane_that_the_block_lacks_gives_poison(device):
    out = device.empty(40, np.uint32)
    run(device, "inactive_lane", (1,), (40,), out)
    np.testing.assert_array_equal(out[:31], np.arange(1, 32))
    assert out[31] == 31
    np.testing.assert_array_equal(out[32:39], np.arange(33, 40))
    assert out[39] == 0xA5A5A5A5


@pytest.mark.skipif(os.environ.get("CUDA_ON_CPU_SANITIZE") == "1", reason="ends the process there")
@pytest.mark.parametrize("offset", [1, -1])
def test_a_write_outside_dynamic_shared_memory_is_reported_without_sanitizers(forward, offset):
    out = np.zeros(64, np.int32)
    with pytest.raises(LaunchError, match="outside the 256 bytes of dynamic shared memory"):
        run(forward, "write_dynamic", (1,), (64,), out, np.int32(offset), shared_bytes=256)


RACES = r"""
__device__ void meet(int by) {
  const unsigned me = threadIdx.x, all = 0xffffffffu;
  if (by == 1) __ballot_sync(all, me & 1);
  if (by == 2) __shfl_xor_sync(all, (int)me, 1);
  if (by == 3) __syncwarp(0x55555555u << (me & 1));  // the even lanes, the odd ones
  if (by == 4) __syncwarp(3u << (me & 30));          // pairs
  if (by == 5) __syncwarp();
  if (by == 6) __syncthreads();
}
extern "C" __global__ void exchange(int* out, int by, int apart, int reads_first) {
  __shared__ short fixed[64];
  extern __shared__ short sized[];
  short* const row = reads_first ? fixed : sized;
  const unsigned me = threadIdx.x, other = me ^ apart;
  row[me] = me;
  __syncthreads();
  int found = -1;
  if (reads_first) found = row[other];
  else row[me] = me + 1;
  meet(by);
  if (reads_first) row[me] = found;
  else found = row[other];
  out[me] = found;
}
extern "C" __global__ void one_after_another(int* out) {
  __shared__ int number;
  const unsigned me = threadIdx.x;
  if (me == 0) number = 7;
  if (me < 2) __syncwarp(3);
  if (me == 1 || me == 2) __syncwarp(6);
  if (me == 2) out[0] = number;
}
"""


@pytest.mark.skipif(os.environ.get("CUDA_ON_CPU_SANITIZE") == "1", reason="one of the two")
@pytest.mark.parametrize("reads_first", [0, 1])
@pytest.mark.parametrize(
    ("apart", "orders"), [(0, range(7)), (1, (4, 5, 6)), (2, (3, 5, 6)), (32, (6,))]
)
def test_accesses_that_no_barrier_orders_are_reported(cache, reads_first, apart, orders):
    """Shuffles and votes order no memory, a part of a warp that meets orders its own lanes."""
    kernel = HarnessDevice(races=True, cache_folder=cache).compile(RACES, "exchange")
    for by in range(7):
        out = np.zeros(64, np.int32)
        arguments = out, *map(np.int32, (by, apart, reads_first))
        if by in orders:
            kernel((2,), (64,), arguments, 128)
            np.testing.assert_array_equal(out, (np.arange(64) ^ apart) + (not reads_first))
        else:
            with pytest.raises(
                LaunchError, match=r"(reads|writes) byte \d+ of shared memory without"
            ):
                kernel((2,), (64,), arguments, 128)


@pytest.mark.skipif(os.environ.get("CUDA_ON_CPU_SANITIZE") == "1", reason="one of the two")
def test_barriers_of_pairs_of_lanes_order_one_after_another(cache):
    kernel = HarnessDevice(races=True, cache_folder=cache).compile(RACES, "one_after_another")
    out = np.zeros(1, np.int32)
    kernel((1,), (32,), (out,))
    assert out[0] == 7


def test_empty_arrays_are_poisoned(forward):
    array = forward.empty((2, 3), np.int16)
    assert array.shape == (2, 3)
    assert (array.view(np.uint16) == 0xA5A5).all()


@pytest.mark.parametrize(
    ("grid", "block", "shared_bytes"),
    [
        ((1,), (1025,), 0),
        ((1,), (32, 33), 0),
        ((1,), (1, 1, 65), 0),
        ((1, 65536), (1,), 0),
        ((1, 1, 65536), (1,), 0),
        ((2**31,), (1,), 0),
        ((0,), (1,), 0),
        ((1,), (0,), 0),
        ((), (1,), 0),
        ((1, 1, 1, 1), (1,), 0),
        ((1,), (1,), 227 * 1024 + 1),
        ((1,), (1,), -1),
    ],
)
def test_limits_of_a_launch(forward, grid, block, shared_bytes):
    with pytest.raises(ValueError, match=r"block=|block must|grid=|grid must|shared_bytes="):
        run(forward, "nothing", grid, block, shared_bytes=shared_bytes)


def test_launch_bounds(forward):
    out = forward.empty(1, np.int32)
    run(forward, "bounded", (1,), (64,), out)
    with pytest.raises(LaunchError, match=r"96 threads a block, but __launch_bounds__ says 64"):
        run(forward, "bounded", (1,), (96,), out)


READ_ONLY = np.zeros(2000, np.int32)
READ_ONLY.flags.writeable = False


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("trap", (np.int32(1),), "takes 0 arguments, got 1"),
        ("write_global", (np.zeros(64, np.int32), 0), r"args\[1\].*NumPy scalar, got int"),
        ("write_global", (np.zeros(64, np.int32), np.int64(0)), r"args\[1\].*4 bytes, got int64"),
        ("write_global", (np.zeros(64, np.int32), np.float32(0)), r"signed.*got float32"),
        ("write_global", (np.zeros(64, np.int64), np.int32(0)), r"elements of 4.*int64"),
        ("write_global", (READ_ONLY, np.int32(0)), r"args\[0\].*read-only"),
        ("write_global", ([0], np.int32(0)), r"args\[0\].*got list"),
        ("by_value", (np.zeros((), "i2,f8")[()],) + (None,) * 4, r"struct of 32 bytes, got"),
    ],
)
def test_wrong_arguments(forward, name, args, message):
    with pytest.raises(TypeError, match=message):
        run(forward, name, (1,), (1,), *args)


def test_unknown_kernel_and_broken_source(forward):
    with pytest.raises(ValueError, match=r"name='left_out'.*nothing"):
        forward.compile(SOURCE, "left_out")
    with pytest.raises(CompileError, match=r"(?s)kernel.cu:2.*undeclared_name"):
        forward.compile('extern "C" __global__ void f()\n{ undeclared_name = 1; }', "f")
    with pytest.raises(ValueError, match=r"line 2: cannot read this __shared__"):
        forward.compile("\n__shared__ struct { int a; } odd;", "f")


def test_pointers_to_null_and_to_bytes(forward):
    source = r"""
    struct Row { float values[3]; };
    extern "C" __global__ void f(const Row* in, Row* out, float* maybe) {
      out[threadIdx.x] = in[threadIdx.x];
      if (maybe) maybe[0] = 1;
    }"""
    workspace = forward.empty(24, np.uint8)
    rows = np.arange(6, dtype=np.float32).view("V12")
    forward.compile(source, "f")((1,), (2,), (rows, workspace, None))
    np.testing.assert_array_equal(workspace.view(np.float32), np.arange(6))


# ---- sanitizers: they end the process, so each runs in its own -----------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "offset", "report"),
    [
        ("write_global", 1, "AddressSanitizer: heap-buffer-overflow"),
        ("write_static", 1, "index 64 out of bounds"),
        ("write_dynamic", 1, "AddressSanitizer: heap-buffer-overflow"),
        ("overflow", 1, "signed integer overflow"),
        ("write_static", 0, None),
    ],
)
def test_sanitizers(cache, name, offset, report):
    script = f"""
import sys, numpy as np
sys.path.insert(0, {str(Path(__file__).parent)!r})
from cuda_on_cpu.device import HarnessDevice
device = HarnessDevice(sanitize=True, cache_folder={str(cache)!r})
kernel = device.compile(sys.stdin.read(), {name!r})
kernel((2,), (64,), (device.empty(64, np.int32), np.int32({offset})), 256)
print("finished")
"""
    result = subprocess.run(
        [sys.executable, "-c", script],
        input=SOURCE,
        env=sanitizer_environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    if report is None:
        assert (result.returncode, result.stdout) == (0, "finished\n"), result.stderr
    else:
        assert result.returncode != 0
        assert report in result.stderr
        assert f"in {name} " in result.stderr
        assert "finished" not in result.stdout


def test_sanitizing_needs_its_environment(monkeypatch):
    monkeypatch.delenv("CUDA_ON_CPU_SANITIZE", raising=False)
    with pytest.raises(ValueError, match="sanitizer_environment"):
        HarnessDevice(sanitize=True)
