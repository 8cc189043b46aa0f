"""The CUDA gradient kernels, launched by the real launch code, on the CPU.

`test_vjp.py` compares what the launch code picks; here tiles are forced on small images. The oracle
is the host backend, which `test_vjp.py` holds against differences.
"""

import math
import subprocess
import sys
from pathlib import Path

import cases
import large_arrays
import launch_every_kernel
import numpy as np
import pytest
from cuda_on_cpu.device import HarnessDevice, sanitizer_environment
from hypothesis import given, settings
from hypothesis import strategies as st
from test_vjp import SEMIFIELDS

import kernels_cu
import semiconv_cupy as sc
from semiconv_cupy import run
from semiconv_cupy.backends import cuda
from semiconv_cupy.backends.cuda.bins import BINS_THREADS, bins_of
from semiconv_cupy.backends.cuda.gradient_tile import gradient_tile_of
from semiconv_cupy.backends.cuda.limits import LIMITS, Limits
from semiconv_cupy.backends.cuda.weight_tile import weight_tile_of
from semiconv_cupy.backends.device import Recorder
from semiconv_cupy.backends.gradients import GradientArrays
from semiconv_cupy.geometry import Geometry
from semiconv_cupy.ndimage import cuda as neighbourhoods
from semiconv_cupy.ndimage.neighbourhood import served_by
from semiconv_cupy.residual import residual_of

HERE = Path(__file__).parent
BOTH = (True, True)
GEOMETRIES = {
    "depthwise": ((2, 3, 20, 37), (3, 1, 3, 3), dict(groups=3, padding="same")),
    "depthwise, rows of fours": ((1, 2, 9, 36), (2, 1, 5, 5), dict(groups=2, padding=2)),
    "depthwise, stride": ((2, 3, 28, 28), (3, 1, 3, 3), dict(groups=3, padding=1, stride=2)),
    "depthwise, uneven": (
        (2, 2, 19, 31),
        (2, 1, 5, 4),
        dict(groups=2, padding=((3, 2), (5, 1)), stride=2, dilation=(1, 3), kind="corr"),
    ),
    "dilation": (
        (1, 2, 30, 33),
        (2, 1, 3, 3),
        dict(groups=2, padding=((1, 4), (7, 2)), dilation=(3, 2)),
    ),
    "patches": ((1, 2, 30, 41), (2, 2, 4, 4), dict(stride=4, padding=1)),
    "mixing": ((2, 3, 9, 21), (4, 3, 3, 2), dict(padding="same")),
    "many channels": ((1, 70, 5, 9), (2, 70, 2, 2), dict(padding=1, kind="corr")),
    "one kernel for all groups": (
        (2, 4, 9, 14),
        (1, 1, 3, 3),
        dict(groups=4, group_broadcasting=True),
    ),
    "windows wholly outside": ((1, 2, 4, 5), (2, 2, 3, 3), dict(padding=((6, 3), (2, 8)))),
    "large window": ((1, 1, 20, 150), (1, 1, 9, 11), dict(padding="same")),
    "depthwise, 14 columns": ((3, 3, 14, 14), (3, 1, 3, 3), dict(groups=3, padding=1)),
    "depthwise, several tiles": ((2, 2, 37, 70), (2, 1, 3, 3), dict(groups=2, padding="same")),
    "depthwise, far padding": ((2, 2, 5, 6), (2, 1, 3, 3), dict(groups=2, padding=9)),
    "signal": ((2, 2, 300), (2, 1, 9), dict(groups=2, padding=4, stride=2)),
    "volume": ((1, 1, 4, 3, 5), (2, 1, 2, 3, 2), dict(padding="same")),
}


def problem(name, geometry, dtype):
    img_shape, krn_shape, arguments = GEOMETRIES[geometry]
    rng = np.random.default_rng(7)
    img, krn = ((rng.random(shape) + 0.1).astype(dtype) for shape in (img_shape, krn_shape))
    plan = Geometry.plan(img_shape, krn_shape, **arguments)
    grad_out = rng.standard_normal(plan.out_shape).astype(dtype)
    semifield, storage = SEMIFIELDS[name], np.dtype(dtype).name
    spec = residual_of(semifield, storage, plan)
    residual = spec and np.empty(spec.shape, spec.dtype)
    route = cases.route_of(semifield, plan, storage, method="direct")
    run.forward(route, img, krn, np.empty_like(grad_out), residual)
    return (grad_out, img, krn, residual), semifield, plan, storage


def expected_of(arrays, semifield, plan, storage):
    real = np.promote_types(storage, "f4")
    grads = np.zeros(plan.img_shape, real), np.empty(plan.krn_shape, real)
    run.backward(cases.route_of(semifield, plan, storage), GradientArrays(*arrays, *grads))
    return grads


def gradients(device, arrays, semifield, plan, storage, wants=BOTH, method="tiled", limits=LIMITS):
    real = np.promote_types(storage, "f4")
    shapes = (plan.img_shape, plan.krn_shape)
    grads = [device.empty(s, real) if want else None for s, want in zip(shapes, wants, strict=True)]
    case = cuda.Case(semifield, plan, storage)
    cuda.backward(device, case, GradientArrays(*arrays, *grads), method, limits)
    return grads


def check(name, geometry, dtype="f4", wants=BOTH, limits=LIMITS):
    given = problem(name, geometry, dtype)
    expected = expected_of(*given)
    tolerance = 1e-11 if dtype == "f8" else 3e-6
    for got, right in zip(
        gradients(HarnessDevice(), *given, wants, limits=limits), expected, strict=True
    ):
        if got is not None:
            assert np.abs(got - right).max() <= tolerance * max(1, np.abs(right).max())


@pytest.mark.table(4)
@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("name", ["max", "log"])
def test_tiles_on_every_geometry(name, geometry):
    check(name, geometry)


@pytest.mark.table(2)
@pytest.mark.parametrize("geometry", ["depthwise", "patches", "volume"])
@pytest.mark.parametrize("name", SEMIFIELDS)
def test_tiles_on_every_semifield(name, geometry):
    check(name, geometry)


@pytest.mark.table(4)
@pytest.mark.parametrize("wants", [(True, False), (False, True)])
@pytest.mark.parametrize("geometry", ["depthwise, uneven", "large window"])
@pytest.mark.parametrize("name", ["max", "max times", "log"])
def test_one_gradient_alone(name, geometry, wants):
    check(name, geometry, wants=wants)


@pytest.mark.table(1)
@pytest.mark.parametrize("dtype", ["f2", "f8"])
@pytest.mark.parametrize("name", ["max", "log"])
def test_tiles_on_other_dtypes(name, dtype):
    check(name, "depthwise", dtype)


# Sums of products that mix channels: more and fewer of them than a block holds, windows cut into
# slabs, rows of the image that stay in registers and rows that do not, folded signals.
MIXING = {
    "channels of two blocks": ((2, 20, 9, 40), (19, 20, 3, 3), dict(padding="same")),
    "groups, stride": ((2, 8, 13, 11), (12, 4, 3, 2), dict(stride=(2, 3), padding=1, groups=2)),
    "one kernel for all groups, dilation": (
        (1, 8, 13, 14),
        (6, 4, 3, 3),
        dict(dilation=(2, 3), padding="same", groups=2, group_broadcasting=True, kind="corr"),
    ),
    "slabs": ((1, 4, 20, 8), (4, 4, 7, 7), dict(padding=((6, 3), (2, 8)))),
    "one tap": ((1, 40, 6, 12), (17, 40, 1, 1), dict()),
    "signal": ((2, 6, 301), (4, 6, 7), dict(padding=3, stride=2, kind="corr")),
}


def sums(geometry, dtype="f4", device=None, spoil=None, limits=LIMITS):
    """(both gradients of an ordinary sum as the launch code picks them, those of array loops)."""
    img_shape, krn_shape, arguments = geometry
    rng = np.random.default_rng(7)
    plan, semifield = Geometry.plan(img_shape, krn_shape, **arguments), SEMIFIELDS["linear"]
    arrays = [
        rng.standard_normal(shape).astype(dtype) for shape in (plan.out_shape, img_shape, krn_shape)
    ]
    if spoil:
        spoil(*arrays)
    case = (semifield, plan, np.dtype(dtype).name)
    assert weight_tile_of(*case[::2], plan) is not None
    device = device or HarnessDevice()
    got = gradients(device, [*arrays, None], *case, method="auto", limits=limits)
    wide = [array.astype("f8") for array in arrays]
    right = np.zeros(img_shape), np.empty(krn_shape)
    by_loops = cases.route_of(semifield, plan, "float64", method="reference")
    run.backward(by_loops, GradientArrays(*wide, None, *right))
    return got, right


def assert_sums(got, right):
    for one, exact in zip(got, right, strict=True):
        tolerance = 8 * np.finfo(one.dtype).eps * np.abs(exact).max(initial=0)
        assert np.abs(one - exact).max(initial=0) <= tolerance


@pytest.mark.table(2)
@pytest.mark.parametrize("geometry", MIXING)
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_sums_that_mix_channels(geometry, dtype):
    assert_sums(*sums(MIXING[geometry], dtype))


def test_sums_of_halves():
    assert_sums(*sums(MIXING["channels of two blocks"], "f2"))


@pytest.mark.slow
@given(
    geometry=cases.geometries(((3, 3), (1, 1), (1, 1))),
    blocks=st.integers(1, 9),
    terms=st.sampled_from([1, 32, 10**6]),
)
@settings(max_examples=15)
def test_sums_of_drawn_geometries(geometry, blocks, terms):
    """A block goes through any number of tiles, all at once or by parts, from image to image."""
    geometry = (
        (geometry.img[0], 4 * geometry.img[1], *geometry.img[2:]),
        (4 * geometry.krn[0], 4 * geometry.krn[1], *geometry.krn[2:]),
        geometry.arguments,
    )
    limits = Limits(busy_blocks=blocks, terms=terms)
    assert_sums(*sums(geometry, device=cases.harness(), limits=limits))


def test_many_terms_keep_their_digits():
    """All alike, so that plain sums of so many would drift by some 50 ulp."""
    got = sums(
        ((8, 4, 64, 64), (4, 4, 1, 1), dict()),
        spoil=lambda grad_out, img, krn: (grad_out.fill(0.1), img.fill(1.1)),
    )
    assert_sums(*got)


@pytest.mark.table(1)
@pytest.mark.parametrize(
    ("geometry", "terms"),
    [("channels of two blocks", 1), ("channels of two blocks", 48), ("slabs", 32), ("signal", 1)],
)
def test_a_block_adds_its_tiles_by_parts(geometry, terms):
    limits = Limits(busy_blocks=1, terms=terms)
    img_shape, krn_shape, arguments = MIXING[geometry]
    plan = Geometry.plan(img_shape, krn_shape, **arguments)
    tile = weight_tile_of(SEMIFIELDS["linear"], "float32", plan, limits)
    _, parts, jobs = tile.partition(plan, limits)
    assert jobs > tile.jobs_at_once(limits) * parts
    assert_sums(*sums(MIXING[geometry], limits=limits))


@pytest.mark.parametrize("batch", [1, 256, 10**4])
@pytest.mark.parametrize("channels", [4, 64, 512])
def test_partial_sums_take_little_memory(batch, channels):
    """However many tiles there are."""
    shapes = (batch, channels, 56, 56), (channels, channels, 3, 3)
    plan = Geometry.plan(*shapes, padding="same")
    tile = weight_tile_of(SEMIFIELDS["linear"], "float32", plan)
    assert math.prod(shapes[1]) * tile.partition(plan, LIMITS).parts * 8 < 64e6


SPOILED = [
    "grad_out at the edge", "image under no gradient", "image",
    "kernel under no gradient", "kernel",
]  # fmt: skip


@pytest.mark.table(1)
@pytest.mark.parametrize("spoiled", SPOILED)
@pytest.mark.parametrize(
    ("dtype", "geometry"), [("f4", "rows"), ("f4", "odd rows"), ("f8", "rows"), ("f2", "rows")]
)
@pytest.mark.parametrize("by_parts", [False, True])
def test_sums_beside_what_is_not_finite(spoiled, dtype, geometry, by_parts):
    """It takes part where it is seen, and only there."""
    limits = Limits(busy_blocks=1, terms=1) if by_parts else LIMITS
    width = 40 if geometry == "rows" else 39  # copied by chunks, or by elements

    def spoil(grad_out, img, krn):
        if spoiled.startswith("grad_out"):
            grad_out[0, 1, 0, 0] = np.inf
        elif spoiled.startswith("image"):
            img[1, 2, 4, 30] = np.nan
        else:
            krn[5, 7, 2, 0] = np.inf
        if spoiled == "image under no gradient":
            grad_out[1, :, 2:7, 25:36] = 0
        if spoiled == "kernel under no gradient":
            grad_out[:, 5, 2:, 4:] = 0

    geometry = ((2, 20, 9, width), (19, 20, 3, 3), dict(padding="same"))
    got, right = sums(geometry, dtype, spoil=spoil, limits=limits)
    for one, exact in zip(got, right, strict=True):
        np.testing.assert_array_equal(np.isfinite(one), np.isfinite(exact))
        np.testing.assert_allclose(one, exact, rtol=1e-4, atol=1e-4)


def test_the_table_has_tiles():
    """So that the tests of tiles test them."""
    for name in ("max", "log"):
        for geometry in GEOMETRIES:
            _, semifield, plan, storage = problem(name, geometry, "f4")
            residual = residual_of(semifield, storage, plan).dtype
            case, limits = (semifield, storage, plan, residual), LIMITS.for_method("tiled")
            alone = [
                gradient_tile_of(*case, wants, limits) for wants in ((True, False), (False, True))
            ]
            assert alone[0] is not None
            assert (alone[1] is not None) == (name == "log")
            both = gradient_tile_of(*case, BOTH, limits)
            single = geometry.startswith(("depthwise", "dilation", "one", "signal"))
            assert (both is not None) == single


@pytest.mark.table(3)
@pytest.mark.parametrize("geometry", ["depthwise", "mixing", "large window"])
@pytest.mark.parametrize("name", ["max", "log", "linear"])
def test_no_bit_depends_on_the_order_of_threads(name, geometry):
    given = problem(name, geometry, "f4")
    one, other = (gradients(HarnessDevice(order=order), *given) for order in ("forward", "reverse"))
    for a, b in zip(one, other, strict=True):
        assert np.array_equal(a, b)


def test_many_taps_are_binned_by_slices():
    limits = Limits(bins_bytes=BINS_THREADS // 32 * 4 * 10)
    _, semifield, plan, storage = problem("max times", "mixing", "f4")
    bins = bins_of(semifield, storage, plan, limits)
    assert (bins.taps, bins.slots, bins.slices) == (10, 1, 2)
    check("max times", "mixing", limits=limits)


def test_few_outputs_are_binned_by_many_blocks():
    """A multiprocessor without a block gains nothing from blocks with fewer bins in all."""
    arguments = dict(groups=6, padding=3, stride=2)
    plan = Geometry.plan((32, 6, 28, 28), (6, 1, 7, 7), **arguments)
    semifield = SEMIFIELDS["max"]
    owners, parts, jobs = bins_of(semifield, "float32", plan).partition(semifield, plan, LIMITS)
    assert (owners, parts, jobs) == (6, 32, 32)


@pytest.mark.parametrize("parts", [1, 7])
def test_blocks_share_tiles(parts):
    """A block goes through several tiles; the partial sums are those of all."""
    limits = Limits(full_blocks=2 * parts, multiprocessors=1, light_threads=3 * 64 * parts)
    check("max", "depthwise, stride", limits=limits)
    check("max", "depthwise, several tiles", limits=limits)
    check("log", "mixing", limits=limits)


@pytest.mark.parametrize("batch", [1, 70, 4096, 2**20])
@pytest.mark.parametrize(
    ("channels", "side", "stride"),
    [(6, 28, 2), (32, 14, 1), (64, 28, 1), (512, 7, 1), (10000, 9, 1)],
)
def test_blocks_of_small_planes_are_resident_at_once(batch, channels, side, stride):
    """Or in whole waves, where sums stay exact for so many planes; of many channels nearly so."""
    shapes = (batch, channels, side, side), (channels, 1, 3, 3)
    plan = Geometry.plan(*shapes, groups=channels, padding=1, stride=stride)
    tile = gradient_tile_of(SEMIFIELDS["max"], "float32", plan, np.dtype("u1"), BOTH)
    owners, parts, jobs = tile.partition(plan, LIMITS)
    at_once = LIMITS.multiprocessors * (LIMITS.light_threads // tile.threads)
    each = -(-jobs // parts)
    assert (owners, jobs) == (channels, batch)
    assert each <= LIMITS.jobs
    assert parts * each - jobs < each  # none of the blocks is idle
    # Planes of the places that have most to do, and of each if all had as many.
    busiest, ideal = -(-owners * parts // at_once) * each, batch * channels / at_once
    assert busiest <= 1.3 * max(1, ideal)


def test_a_small_gpu_holds_fewer_blocks_at_once():
    class Small(Recorder):
        def multiprocessors(self):
            return 20

    plan = Geometry.plan((512, 6, 28, 28), (6, 1, 3, 3), groups=6, padding=1)
    case = cuda.Case(SEMIFIELDS["max"], plan, "float32")
    arrays = GradientArrays(
        *(np.zeros(shape, "f4") for shape in (plan.out_shape, plan.img_shape, plan.krn_shape)),
        np.zeros(plan.out_shape, "u1"),
        *(np.zeros(shape, "f4") for shape in (plan.img_shape, plan.krn_shape)),
    )
    blocks = []
    for device in (Small(), Recorder()):
        cuda.backward(device, case, arrays)
        blocks.append(math.prod(device.launches[0].grid))
    tile = gradient_tile_of(SEMIFIELDS["max"], "float32", plan, np.dtype("u1"), BOTH)
    at_once = LIMITS.light_threads // tile.threads
    assert 0.8 * 20 * at_once < blocks[0] <= 20 * at_once < blocks[1] <= 132 * at_once


def test_empty_arrays_have_empty_gradients():
    device, semifield = HarnessDevice(), SEMIFIELDS["max"]
    plan = Geometry.plan((2, 1, 0, 4), (1, 1, 3, 3), padding=2)
    grad_out = np.ones(plan.out_shape, "f4")
    residual = np.full(plan.out_shape, 255, "u1")
    _, grad_krn = gradients(device, (grad_out, None, None, residual), semifield, plan, "float32")
    assert (grad_krn == 0).all()


@pytest.mark.parametrize(
    ("stride", "dilation"), [(2**31 - 2, 1), ((2**31 - 2, 1), 1), (2**30, 2), ((3, 4), (2, 6))]
)
def test_the_gathered_gradient_steps_by_any_stride(stride, dilation):
    rng, shapes = np.random.default_rng(1), ((1, 1, 9, 13), (1, 1, 3, 5))
    img, krn = (rng.normal(size=shape).astype("f4") for shape in shapes)
    semifield, arguments = (
        cases.SEMIFIELDS["linear"].semifield,
        dict(stride=stride, dilation=dilation, padding=7),
    )
    plan, device = Geometry.plan(img.shape, krn.shape, **arguments), cases.harness()
    grad_out = np.ones(plan.out_shape, "f4")
    found = np.empty_like(img)
    arrays = GradientArrays(grad_out, img, krn, None, found, None)
    cuda.backward(device, cuda.Case(semifield, plan, "float32"), arrays, "direct")
    expected, _ = sc.semifield_conv_vjp(img, krn, semifield, **arguments)[1](grad_out)
    np.testing.assert_allclose(found, expected, 1e-5, 1e-5)


@pytest.mark.slow
def test_what_compute_sanitizer_is_given():
    """launch_every_kernel.py runs: here on the harness, or the host."""
    semifields = [(SEMIFIELDS["max"], ["float32"])]
    some = launch_every_kernel.convolutions(semifields, launch_every_kernel.GEOMETRIES[:1])
    for case in (*some, *launch_every_kernel.gradients_of_tensors()):
        case(HarnessDevice())
    for case in launch_every_kernel.of_library(np):
        case()


class Zeros(Recorder):
    """Kernels write nothing, so that what is read back must be there already."""

    def empty(self, shape, dtype):
        return np.zeros(shape, dtype)


def test_compute_sanitizer_is_given_every_file_of_kernels():
    device = Zeros()
    for case in launch_every_kernel.of_device():
        case(device)
    given = launch_every_kernel
    lines = given.lines(np, of_indices=[False])  # those that nobody has computed are no indices
    with served_by(neighbourhoods.Backend(device)):
        for case in (*given.filters(np), *lines, *given.whole_images(np)):
            case()
    texts = {launch.source.text for launch in device.launches}
    folder = Path(kernels_cu.__file__).parent / "cuda"
    files = {path.name: path.read_text().splitlines()[0] for path in folder.glob("*.cu")}
    missing = [name for name, line in files.items() if not any(line in text for text in texts)]
    assert not missing


@pytest.mark.slow
def test_what_is_compared_of_large_arrays():
    assert large_arrays.main(["--numpy", "--side", "1100", "--many", "70"]) == 0


SANITIZED = """
import sys
sys.path[:0] = {path!r}
import test_by_sums
from test_cuda_backward import MIXING, assert_sums, check, sums
for geometry in ("channels of two blocks", "groups, stride", "signal"):
    assert_sums(*sums(MIXING[geometry]))
    sums(MIXING[geometry], spoil=lambda grad_out, img, krn: grad_out.fill(float("inf")))
test_by_sums.test_gradients_on_cuda_of_what_is_not_proven("root(3)")
for name in ("max times", "log"):
    for geometry in ("depthwise, uneven", "windows wholly outside", "mixing"):
        check(name, geometry)
print("clean")
"""


@pytest.mark.slow
def test_sanitizers_find_nothing():
    done = subprocess.run(
        [sys.executable, "-c", SANITIZED.format(path=[str(HERE), str(HERE.parent)])],
        capture_output=True,
        text=True,
        env=sanitizer_environment(),
        timeout=300,
    )
    assert (done.returncode, done.stdout) == (0, "clean\n"), done.stderr[-4000:]
