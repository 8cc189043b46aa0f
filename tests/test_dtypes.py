"""Dtypes, layouts, kinds of arrays: right results of what is accepted, reasons for what is not."""

import contextlib
import sys
import types

import cases
import numpy as np
import oracle
import pytest
from cases import GEOMETRIES, MAGNITUDES, SEMIFIELDS
from compare import assert_matches
from hypothesis import given
from hypothesis import strategies as st
from oracle import Selection

import semiconv_cupy as sc
from semiconv_cupy import SelectSemifield, SubtractSemifield
from semiconv_cupy.backends.host import libraries
from semiconv_cupy.backends.place import Place, gpu_of, place_of
from semiconv_cupy.chunked import by_chunks
from semiconv_cupy.ndimage.arguments import as_array

INTEGERS = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")
EVERYTHING = GEOMETRIES["everything"]
OUTSIDE = GEOMETRIES["windows wholly outside"]
TROPICAL_MAX = SelectSemifield.tropical_max()


def check(backend, semifield, algebra, img, krn, **arguments):
    expected = oracle.convolve(img, krn, algebra, **arguments)
    got = cases.run(backend, img, krn, semifield, **arguments)
    assert_matches(got, expected, dtype=img.dtype, library=cases.library_of(backend))


# ---- integers: exact and saturating ------------------------------------------------------------


# Each (semifield, dtype) is a library to compile: all dtypes for sums, the ends for differences.
SUMS = [("tropical_max", dtype) for dtype in INTEGERS]
DIFFERENCES = [("tropical_min_negated", dtype) for dtype in ("int8", "uint64")]


@pytest.mark.table(6)
@pytest.mark.parametrize(("name", "dtype"), SUMS + DIFFERENCES)
def test_integers(backend, name, dtype):
    """The data reach both ends of every range: sums and differences saturate, at 64 bits too."""
    case = SEMIFIELDS[name]
    img, krn = cases.arrays_of(case, EVERYTHING, dtype)
    check(backend, case.semifield, case.algebra, img, krn, **EVERYTHING.arguments)


@pytest.mark.table(2)
@pytest.mark.parametrize("dtype", ["uint32", "int64"])
def test_integer_products(backend, dtype):
    case = SEMIFIELDS["max_times"]
    img, krn = cases.arrays_of(case, EVERYTHING, dtype)
    check(backend, case.semifield, case.algebra, img, krn, **EVERYTHING.arguments)


@pytest.mark.parametrize("dtype", ["int64"])
def test_integer_expressions_leave_the_range_only_on_the_way(backend, dtype):
    """3 img - 2 krn: exact in between, saturated once at the end."""
    algebra = Selection(oracle.larger, lambda img, krn: 3 * img - 2 * krn, -np.inf)
    img, krn = (cases.numbers(shape, dtype, seed=5) for shape in (EVERYTHING.img, EVERYTHING.krn))
    check(backend, cases.weighted_max(), algebra, img, krn, **EVERYTHING.arguments)


@pytest.mark.table(4)
@pytest.mark.parametrize("dtype", ["int8", "int64", "uint8"])
def test_integer_selections_leave_the_range_only_on_the_way(backend, dtype):
    """|right| > |left|, where the magnitude of the lowest integer is beyond the highest."""
    case = SEMIFIELDS["largest_magnitude"]
    img, krn = (cases.numbers(shape, dtype, seed=5) for shape in (EVERYTHING.img, EVERYTHING.krn))
    img.flat[::7] = np.iinfo(dtype).min
    check(backend, case.semifield, case.algebra, img, krn, **EVERYTHING.arguments)


@pytest.mark.table(4)
@pytest.mark.parametrize("dtype", INTEGERS)
def test_integers_saturate_at_both_ends(backend, dtype):
    limits = np.iinfo(dtype)
    img = np.array([[[limits.min, limits.min + 1, 7, limits.max - 1, limits.max]]], dtype)
    for name in ("tropical_max", "tropical_min_negated"):
        for number in {limits.min, limits.min + 2, 3, limits.max}:
            krn = np.array([[[number]]], dtype)
            exact = [
                v + number if name == "tropical_max" else v - number for v in img[0, 0].tolist()
            ]
            clipped = [min(max(v, limits.min), limits.max) for v in exact]
            got = cases.run(backend, img, krn, SEMIFIELDS[name].semifield)
            expected = np.array([[clipped]], dtype)
            assert_matches(got, expected, dtype=dtype, library=cases.library_of(backend))


def test_large_integers_do_not_pass_through_floating_point(backend):
    """Differences of 1 above 2^53, where SciPy rounds."""
    img = np.array([[[2**60 + 1, 2**60, 2**60 + 3]]])
    out = cases.run(backend, img, np.zeros((1, 1, 2), "int64"), TROPICAL_MAX)
    expected = np.array([[[2**60 + 1, 2**60 + 3]]])
    assert_matches(out, expected, dtype="int64", library=cases.library_of(backend))


# ---- bool: or/and ------------------------------------------------------------------------------

BOOLEAN = {
    "tropical_max": oracle.OR_AND,
    "boolean": oracle.OR_AND,
    "max_times": oracle.OR_AND,
    "tropical_min": oracle.AND_OR,
    "tropical_min_negated": oracle.ERODING,
}


@pytest.mark.table(3)
@pytest.mark.parametrize("name", BOOLEAN)
def test_bool(backend, name):
    case = SEMIFIELDS[name]
    img, krn = cases.arrays_of(case, EVERYTHING, "bool")
    check(backend, case.semifield, BOOLEAN[name], img, krn, **EVERYTHING.arguments)


def test_bool_from_bytes_that_are_neither_0_nor_1(backend):
    """A view of bytes as bool: NumPy calls everything but 0 true, and so do we."""
    img = np.array([[[0, 1, 2, 0, 255, 0, 0]]], np.uint8).view(bool)
    krn = np.array([[[4, 0]]], np.uint8).view(bool)
    out = cases.run(backend, img, krn, TROPICAL_MAX, padding="same", kind="corr")
    got = np.asarray(out.get() if hasattr(out, "get") else out)
    assert got.view(np.uint8).tolist() == [[[0, 1, 1, 0, 1, 0, 0]]]


# ---- 16-bit floating point ---------------------------------------------------------------------


@pytest.mark.table(2)
@pytest.mark.parametrize("name", ["tropical_max", "log(2)"])
def test_float16(backend, name):
    case = SEMIFIELDS[name]
    img, krn = cases.arrays_of(case, EVERYTHING, "float16")
    check(backend, case.semifield, case.algebra, img, krn, **EVERYTHING.arguments)


def test_float16_rounds_and_overflows_as_ieee_says(backend):
    """Every half there is, through load and store; sums beyond the range become infinite."""
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    img = every[~np.isnan(every)].reshape(1, 1, -1)
    for number in (0.0, 1.0, -3e-5, 2.0**-24, 40000.0):
        krn = np.array([[[number]]], np.float16)
        check(backend, TROPICAL_MAX, oracle.TROPICAL_MAX, img, krn)


def bfloat16(array):
    """Bits of the nearest bfloat16 (ties to even) and the number that they stand for."""
    bits = np.asarray(array, np.float32).view(np.uint32)
    nan = np.isnan(bits.view(np.float32))
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    rounded = np.where(nan, np.uint16(0x7FC0), rounded)
    return rounded, (rounded.astype(np.uint32) << 16).view(np.float32)


@pytest.mark.table(2)
@pytest.mark.parametrize("name", ["tropical_max", "linear"])
def test_bfloat16(backend, name):
    """As the bridge sends it: the bits in uint16 arrays."""
    case = SEMIFIELDS[name]
    arrays = cases.arrays_of(case, EVERYTHING, "float32")
    (img_bits, img), (krn_bits, krn) = map(bfloat16, arrays)
    out, _ = cases.run_with_residual(
        backend, img_bits, krn_bits, case.semifield, "bfloat16", **EVERYTHING.arguments
    )
    expected = oracle.convolve(img, krn, case.algebra, **EVERYTHING.arguments)
    nearest, _ = bfloat16(expected.value)
    if case.selects:
        assert_matches(out, nearest, dtype="uint16")
    else:  # the float32 result may lie on the other side of a tie
        assert abs(out.astype(int) - nearest.astype(int)).max() <= 1
        assert (out == nearest).mean() > 0.99


@pytest.mark.parametrize("backend", ["host", "reference"])
def test_bfloat16_of_ml_dtypes(backend):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    dtype = np.dtype(ml_dtypes.bfloat16)
    for name in ("tropical_max", "linear"):
        case = SEMIFIELDS[name]
        img, krn = cases.arrays_of(case, EVERYTHING, dtype)
        check(backend, case.semifield, case.algebra, img, krn, **EVERYTHING.arguments)


# ---- layouts -----------------------------------------------------------------------------------


def channels_last(array):
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(array, 1, -1)), -1, 1)


def embedded(array, step, offset=1):
    """The same numbers as every step-th (or reversed) element of a larger array."""
    size = tuple(n * abs(step) + offset for n in array.shape)
    large = np.zeros(size, array.dtype)
    view = large[tuple(slice(offset, None, abs(step)) for _ in size)]
    view = view[tuple(slice(n) for n in array.shape)]
    if step < 0:
        view = view[(slice(None, None, -1),) * array.ndim]
    view[...] = array
    return view


def unaligned(array):
    raw = np.empty(array.nbytes + 1, np.uint8)
    view = np.ndarray(array.shape, array.dtype, buffer=raw, offset=1)
    view[...] = array
    return view


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


def in_records(array):
    """A field of records of 5 bytes and more: strides that are not whole elements."""
    records = np.zeros(array.shape, [("byte", "u1"), ("number", array.dtype)])
    records["number"] = array
    return records["number"]


LAYOUTS = {
    "C": np.ascontiguousarray,
    "Fortran": np.asfortranarray,
    "every second": lambda array: embedded(array, 2),
    "reversed": lambda array: embedded(array, -1),
    "every third, reversed": lambda array: embedded(array, -3),
    "channels last": lambda array: np.moveaxis(
        np.ascontiguousarray(np.moveaxis(array, 1, -1)), -1, 1
    ),
    "unaligned": unaligned,
    "read-only": read_only,
    "fields of records": in_records,
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("which", ["img", "krn", "both"])
def test_layouts(backend, layout, which):
    """Results are C-contiguous, and the caller's arrays are left as they were."""
    if layout in ("unaligned", "fields of records") and backend in ("cuda_on_cpu", "cupy"):
        pytest.skip("CuPy arrays are aligned")
    img, krn = cases.arrays_of(SEMIFIELDS["tropical_max"], EVERYTHING, "float32")
    expected = oracle.convolve(img, krn, oracle.TROPICAL_MAX, **EVERYTHING.arguments)
    arrange = LAYOUTS[layout]
    one = img if which == "krn" else arrange(img)
    two = krn if which == "img" else arrange(krn)
    for _ in range(2):  # planned, and found again
        got = cases.run(backend, one, two, TROPICAL_MAX, **EVERYTHING.arguments)
        assert_matches(got, expected, dtype="float32", library=cases.library_of(backend))
    assert_matches(np.ascontiguousarray(one), img, dtype="float32")
    assert_matches(np.ascontiguousarray(two), krn, dtype="float32")


def test_aligned_and_unaligned_arrays_do_not_share_a_plan():
    img, krn = cases.numbers((1, 2, 20, 40), "f4"), cases.numbers((1, 2, 3, 3), "f4", seed=3)
    expected = oracle.convolve(img, krn, oracle.TROPICAL_MAX)
    for arrange in (np.copy, unaligned, np.copy, unaligned):
        out = sc.semifield_conv(arrange(img), arrange(krn), TROPICAL_MAX)
        assert_matches(out, expected, dtype="float32")


def test_broadcast_arrays(backend):
    """Strides of 0: one picture for every batch entry and channel, one kernel for every output."""
    img = np.broadcast_to(cases.numbers((1, 1, 6, 7), "f4"), (2, 3, 6, 7))
    krn = np.broadcast_to(cases.numbers((1, 1, 3, 3), "f4", seed=3), (4, 3, 3, 3))
    check(backend, TROPICAL_MAX, oracle.TROPICAL_MAX, img, krn, padding=1)


@pytest.mark.parametrize("dtype", [">f4", ">f8", ">i2", ">f2"])
@pytest.mark.parametrize("backend", ["host", "reference"])
def test_byte_swapped_arrays_give_native_results(backend, dtype):
    native = np.dtype(dtype).newbyteorder("=")
    img, krn = cases.arrays_of(SEMIFIELDS["tropical_max"], EVERYTHING, native)
    expected = oracle.convolve(img, krn, oracle.TROPICAL_MAX, **EVERYTHING.arguments)
    got = cases.run(
        backend, img.astype(dtype), krn.astype(dtype), TROPICAL_MAX, **EVERYTHING.arguments
    )
    assert_matches(got, expected, dtype=native)


@given(
    steps=st.lists(st.sampled_from([1, 2, -1, -2]), min_size=4, max_size=4),
    order=st.permutations(range(4)),
)
def test_any_strides(steps, order):
    img, krn = cases.arrays_of(SEMIFIELDS["tropical_max"], GEOMETRIES["same"], "float32")
    expected = cases.expected_of("tropical_max", GEOMETRIES["same"], "float32")
    large = np.zeros([n * abs(s) for n, s in zip(img.shape, steps, strict=True)], "f4")
    view = large.transpose(order).copy().transpose(np.argsort(order))
    view = view[tuple(slice(None, None, s) for s in steps)]
    view[...] = img
    out = cases.run("host", view, krn, TROPICAL_MAX, padding="same")
    assert_matches(out, expected, dtype="float32")


@pytest.mark.parametrize("backend", ["host", "cuda_on_cpu"])
def test_offsets_beyond_31_bits(backend):
    """Strides of an array larger than 2 GiB, of which next to nothing is touched."""
    storage = np.zeros(2**31 + 2**12, np.uint8)
    img = np.lib.stride_tricks.as_strided(storage, (2, 1, 5, 6), (2**31, 1, 64, 2))
    img[...] = cases.numbers(img.shape, np.uint8, seed=4)
    krn = cases.numbers((1, 1, 3, 3), np.uint8, seed=3)
    check(backend, TROPICAL_MAX, oracle.TROPICAL_MAX, img, krn, padding=1)


# ---- sizes of nothing --------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8", "bool"])
@pytest.mark.parametrize("shape", [(0, 2, 5, 6), (0, 2, 0, 6)])
def test_zero_size_batches(backend, shape, dtype):
    img, krn = np.zeros(shape, dtype), np.zeros((3, 2, 3, 3), dtype)
    out = cases.run(backend, img, krn, TROPICAL_MAX, padding=2)
    expected = np.zeros((0, 3, shape[2] + 2, shape[3] + 2), dtype)
    assert_matches(out, expected, dtype=dtype, library=cases.library_of(backend))


# ---- what is refused ---------------------------------------------------------------------------

IMG, KRN = np.zeros((1, 1, 5, 5), "f4"), np.zeros((1, 1, 3, 3), "f4")


class Tensor:
    """Looks like torch's, without torch."""

    __module__ = "torch"
    shape = (1, 1, 5, 5)


REFUSED = {
    "mixed dtypes": (IMG, KRN.astype("f8"), "linear", "img float32 and krn float64.*astype"),
    "byte orders": (IMG, KRN.astype(">f4"), "linear", "img float32 and krn >f4"),
    "lists": (
        IMG.tolist(),
        KRN,
        "linear",
        r"img must be a .* array, got list",
    ),
    "a list for a kernel": (IMG, KRN.tolist(), "linear", "krn must be a NumPy or CuPy array"),
    "None": (IMG, None, "linear", "krn must be a NumPy or CuPy array, got NoneType"),
    "tensors": (Tensor(), KRN, "linear", "torch.Tensor; for tensors use torch_bridge"),
    "complex": (IMG.astype("c8"), KRN.astype("c8"), "linear", "img has dtype complex64; supported"),
    "long double": (IMG.astype("g"), KRN.astype("g"), "linear", "longdouble|float128"),
    "objects": (IMG.astype(object), KRN.astype(object), "linear", "img has dtype object"),
    "dates": (IMG.astype("M8[s]"), KRN.astype("M8[s]"), "tropical_max", "img has dtype datetime64"),
    "integers with a sum": (
        IMG.astype(int),
        KRN.astype(int),
        "linear",
        r"linear\(\) works on floating arrays only",
    ),
    "bool with a sum": (IMG > 0, KRN > 0, "linear", r"linear\(\) works on floating arrays only"),
    "bool without an or/and": (
        IMG > 0,
        KRN > 0,
        cases.largest_magnitude(),
        "cannot work on bool arrays",
    ),
    "semifield": (
        IMG,
        KRN,
        max,
        r"semifield must be a .*got max",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_type_errors_read_well(name):
    img, krn, semifield, message = REFUSED[name]
    for method in ("auto", "reference"):
        with pytest.raises(TypeError, match=message):
            sc.semifield_conv(img, krn, semifield, method=method)


def test_integers_refuse_what_needs_fractions():
    halved = SelectSemifield(
        lambda left, right: right > left, lambda img, krn: img * 0.5 + krn, zero=0
    )
    with pytest.raises(TypeError, match=r"cannot work on integer arrays.*0\.5"):
        sc.semifield_conv(IMG.astype("i4"), KRN.astype("i4"), halved)


def test_tensors_are_refused_with_the_remedy():
    torch = pytest.importorskip("torch")
    with pytest.raises(TypeError, match=r"img must be .*torch\.Tensor; .* torch_bridge"):
        sc.semifield_conv(torch.zeros(1, 1, 5, 5), KRN, "linear")


def test_libraries_do_not_mix(monkeypatch):
    """NumPy with CuPy: an error that names both, found without a GPU by a stand-in for CuPy."""

    class ndarray:
        shape, strides, dtype = KRN.shape, KRN.strides, KRN.dtype

    monkeypatch.setitem(sys.modules, "cupy", types.SimpleNamespace(ndarray=ndarray))
    with pytest.raises(TypeError, match="img is a NumPy array, krn is a CuPy array"):
        sc.semifield_conv(IMG, ndarray(), "linear")


@pytest.fixture
def gpus(monkeypatch):
    """A stand-in for CuPy with two GPUs; a function that gives an array on one of them."""

    class Array:
        def __init__(self, gpu):
            self.device = types.SimpleNamespace(id=gpu)

    runtime = types.SimpleNamespace(getDevice=lambda: 0)
    cuda = types.SimpleNamespace(runtime=runtime, Device=lambda gpu: f"context of {gpu}")
    monkeypatch.setitem(sys.modules, "cupy", types.SimpleNamespace(ndarray=Array, cuda=cuda))
    return Array


def test_arrays_of_two_gpus_are_refused(gpus):
    assert place_of(img=gpus(1), krn=gpus(1)) == Place("CuPy", 1)
    with pytest.raises(TypeError, match="img and krn must be on one device, got GPU 0 and GPU 1"):
        place_of(img=gpus(0), krn=gpus(1))
    one = gpus(1)
    assert gpu_of(a=one, b=one) is one.device
    with pytest.raises(TypeError, match="a and b must be on one device, got GPU 0 and GPU 1"):
        gpu_of(a=gpus(0), b=gpus(1))


def test_a_place_knows_its_gpu(gpus):
    place = place_of(input=gpus(1))
    assert (place.on_gpu, str(place), place.current()) == (True, "CuPy on GPU 1", "context of 1")
    assert place.array_module is sys.modules["cupy"]
    with pytest.raises(
        ValueError, match=r"input is on GPU 1, and the current one is 0.*Device\(1\)"
    ):
        place.require_current("input")
    place_of(input=gpus(0)).require_current("input")


def test_a_call_goes_to_the_gpu_of_its_arrays(gpus, monkeypatch):
    cuda = sys.modules["cupy"].cuda

    @contextlib.contextmanager
    def current(gpu):
        monkeypatch.setattr(cuda.runtime, "getDevice", lambda: gpu)
        try:
            yield
        finally:
            monkeypatch.setattr(cuda.runtime, "getDevice", lambda: 0)

    monkeypatch.setattr(cuda, "Device", current)

    @by_chunks
    def call(input, mask):
        as_array(input)
        as_array(mask, "mask")
        return cuda.runtime.getDevice()

    assert (call(gpus(0), gpus(0)), call(gpus(1), gpus(1))) == (0, 1)
    assert cuda.runtime.getDevice() == 0
    for input, mask in ((1, 0), (1, 2)):
        with pytest.raises(TypeError, match="must be on one GPU") as refused:
            call(gpus(input), gpus(mask))
        for part in (f"input is on GPU {input}", f"mask is on GPU {mask}"):
            assert part in str(refused.value)
    assert cuda.runtime.getDevice() == 0


def test_a_place_knows_what_numpy_must_convert():
    array = np.zeros(4, "f4")
    unaligned = np.frombuffer(bytearray(17), "f4", 4, 1)
    assert place_of(array=array).is_native(array)
    for other in (array.astype(array.dtype.newbyteorder()), unaligned):
        assert not place_of(array=other).is_native(other)


def test_names_of_semifields():
    with pytest.raises(ValueError, match=r"'plus' is unknown; the names are tropical_max"):
        sc.semifield_conv(IMG, KRN, "plus")
    with pytest.raises(TypeError, match=r"'log' needs its parameter"):
        sc.semifield_conv(IMG, KRN, "log")
    for name in ("tropical_max", "tropical_min", "tropical_min_negated", "max_times", "linear"):
        out = sc.semifield_conv(IMG, KRN, name)
        assert_matches(out, sc.semifield_conv(IMG, KRN, SEMIFIELDS[name].semifield), dtype="f4")


# ---- method= -----------------------------------------------------------------------------------


def test_methods_are_honoured_or_refused():
    with pytest.raises(ValueError, match=r"method must be one of .*got method='fast'"):
        sc.semifield_conv(IMG, KRN, "linear", method="fast")
    broadcast = sc.BroadcastSemifield.linear()
    with pytest.raises(ValueError, match="method='direct' has no kernels for a BroadcastSemifield"):
        sc.semifield_conv(IMG, KRN, broadcast, method="direct")


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int64"])
@pytest.mark.parametrize("name", ["linear", "tropical_max"])
def test_broadcast_semifields_refuse_integers(name, dtype):
    """In whole-array reductions they would wrap, or leave their dtype."""
    img, krn = np.ones((1, 1, 4), dtype), np.ones((1, 1, 2), dtype)
    semifield = getattr(sc.BroadcastSemifield, name)()
    message = (
        rf"BroadcastSemifield\.{name}\(\) works on floating arrays only, got .*{dtype}; convert"
    )
    with pytest.raises(TypeError, match=message):
        sc.semifield_conv(img, krn, semifield)
    torch = pytest.importorskip("torch")
    import torch_bridge  # noqa: F401  (provides the module)

    with pytest.raises(TypeError, match=message):
        semifield.dynamic()(torch.from_numpy(img), torch.from_numpy(krn))


@pytest.mark.parametrize(
    ("p", "method"), [(3.0, "auto"), *((p, "reference") for p in (1.0, 2.0, 3.0, -2.0))]
)
def test_negative_numbers_are_no_numbers_of_the_root(p, method):
    """Compiled, whatever the power; by whole arrays where the power is not real."""
    img, krn = np.array([[[-2.0, 1.0, 1.0]]]), np.ones((1, 1, 2))
    out = sc.semifield_conv(img, krn, sc.SubtractSemifield.root(p), method=method)
    np.testing.assert_allclose(out, [[[np.nan, 2 ** (1 / p)]]])
    with np.errstate(invalid="ignore"):
        out = sc.semifield_conv(img, krn, sc.BroadcastSemifield.root(p))
        expected = (img[..., :-1] ** p + img[..., 1:] ** p) ** (1 / p)
    np.testing.assert_allclose(out, expected)


@pytest.mark.parametrize("times", [lambda a, b: a % 0.25 + b, lambda a, b: np.trunc(a) + b - a])
def test_functions_without_a_value_at_the_zero_are_padded_with_nothing(times):
    """At -inf both are NaN."""
    semifield = sc.SelectSemifield(lambda a, b: b > a, times, zero=-np.inf)
    img, krn = np.array([[[0.7, 1.3, 0.4]]]), np.array([[[0.5, 0.25]]])
    out = sc.semifield_conv(img, krn, semifield, padding=1, kind="corr", method="reference")
    wide = np.pad(img[0, 0], 1)
    terms = times(np.stack([wide[:-1], wide[1:]]), krn[0, 0][:, None])
    terms[0, 0] = terms[1, -1] = -np.inf
    np.testing.assert_allclose(out[0, 0], terms.max(0), rtol=1e-14)
    assert not semifield.absorbing


@pytest.mark.table(3)
@pytest.mark.parametrize(
    ("dtype", "power"), [("uint8", 9), ("int16", 5), ("int32", 2), ("int32", 3), ("uint32", 3)]
)
def test_formulas_of_integers_are_exact_beyond_64_bits(dtype, power):
    """The sum of two powers of the extremes needs 64 to 97 bits."""
    extremes = [np.iinfo(dtype).min, np.iinfo(dtype).max]
    numbers = np.random.default_rng(1).choice([*extremes, 1, 2, 3], 40).astype(dtype)
    semifield = SelectSemifield(
        lambda a, b: b**power + b**power > a**power + a**power, lambda img, krn: img, zero=0
    )
    windows = zip(*(map(int, numbers[n : n + 38]) for n in range(3)), strict=True)
    best = [max((0, *window), key=lambda number: number**power) for window in windows]
    arrays = numbers[None, None], np.ones((1, 1, 3), dtype)
    for method in ("auto", "reference"):
        out = sc.semifield_conv(*arrays, semifield, method=method)
        np.testing.assert_array_equal(out[0, 0], np.array(best, dtype), err_msg=method)


@pytest.mark.table(2)
@pytest.mark.parametrize(
    ("dtype", "zero", "constant"),
    [
        ("int8", -5.0, 2**40),
        ("int8", -1000.0, 2**31),
        ("int64", 7.0, -(2**63)),
        ("uint8", 2.0**63, 2**70 + 3),
        ("int8", 1e30, 1),
    ],
)
def test_integers_have_any_zero_and_constant(backend, dtype, zero, constant):
    """A zero that the dtype does not hold saturates; constants may be longer than literals."""
    limits = np.iinfo(dtype)
    semifield = SelectSemifield(
        lambda a, b: b > a, lambda img, krn: (img + constant) + 2 * krn - constant // 2, zero=zero
    )
    img = np.array([[[limits.min, 0, 3, limits.max] * 9]], dtype)
    krn = np.array([[[1, 2]]], dtype)

    def saturated(number):
        return min(max(number, limits.min), limits.max)

    terms = [[v + constant + 2 * k - constant // 2 for v in img[0, 0].tolist()] for k in (1, 2)]
    best = [
        max(saturated(int(zero)), *map(saturated, pair))
        for pair in zip(terms[0], terms[1][1:], strict=False)
    ]
    got = cases.run(backend, img, krn, semifield, kind="corr")
    expected = np.array([[best]], dtype)
    assert_matches(got, expected, dtype=dtype, library=cases.library_of(backend))


@pytest.mark.parametrize("method", ["auto", "reference"])
@pytest.mark.parametrize(("dtype", "power"), [("uint64", 2), ("int64", 3), ("uint8", 16)])
def test_formulas_of_integers_beyond_128_bits_are_refused(dtype, power, method):
    semifield = SelectSemifield(lambda a, b: b > a, lambda a, b: a**power - b, zero=0)
    arrays = np.ones((1, 1, 4), dtype), np.ones((1, 1, 2), dtype)
    with pytest.raises(TypeError, match=f"cannot work on {dtype} arrays: .* than 128 bits"):
        sc.semifield_conv(*arrays, semifield, method=method)


def test_the_reference_runs_no_kernel():
    semifield = SelectSemifield(lambda a, b: b > a, lambda img, krn: img - 3 * krn, zero=-np.inf)
    img, krn = cases.numbers((1, 1, 4, 31), "f4"), cases.numbers((1, 1, 2, 2), "f4", seed=3)
    before = libraries.loaded()
    out = sc.semifield_conv(img, krn, semifield, method="reference")
    assert libraries.loaded() == before
    assert_matches(sc.semifield_conv(img, krn, semifield, method="direct"), out, dtype="float32")
    assert len(libraries.loaded()) > len(before)


@pytest.mark.parametrize("name", ["tropical_max", "tropical_min_negated", "linear", "log", "root"])
def test_broadcast_semifields_compute_the_same(name):
    parameter = {"log": (2.0,), "root": (3.0,)}.get(name, ())
    domain = MAGNITUDES if name == "root" else cases.REALS
    table = {"log": oracle.Log(2.0), "root": oracle.Root(3.0)}
    algebra = table.get(name) or SEMIFIELDS[name].algebra
    semifield = getattr(sc.BroadcastSemifield, name)(*parameter)
    for geometry in (EVERYTHING, OUTSIDE, GEOMETRIES["group broadcasting"], GEOMETRIES["3-D"]):
        img = cases.numbers(geometry.img, "float64", domain, seed=1)
        krn = cases.numbers(geometry.krn, "float64", domain, seed=2)
        out = sc.semifield_conv(img, krn, semifield, **geometry.arguments)
        expected = oracle.convolve(img, krn, algebra, **geometry.arguments)
        assert_matches(out, expected, dtype="float64", ulps=16)  # NumPy's sums, uncompensated


def test_subclasses_and_scalars_of_numpy():
    assert_matches(
        sc.semifield_conv(IMG.view(np.recarray), KRN, "linear"), np.zeros((1, 1, 3, 3)), dtype="f4"
    )
    assert SubtractSemifield.linear() is SubtractSemifield.linear()
