"""Chunks of another array library stay its arrays: a made-up CuPy on the CPU, a real one."""

import sys
import types

import numpy as np
import pytest

da = pytest.importorskip("dask.array", reason="Dask is not installed: pip install '.[dask]'")

import semiconv_cupy as sc  # noqa: E402
from semiconv_cupy import ndimage  # noqa: E402
from semiconv_cupy.ndimage import reference  # noqa: E402
from semiconv_cupy.ndimage.neighbourhood import served_by  # noqa: E402

IMAGE = np.random.default_rng(0).integers(0, 256, (20, 23), np.uint8)


def unwrapped(value):
    if isinstance(value, Array):
        return value.values
    if isinstance(value, tuple | list):
        return type(value)(map(unwrapped, value))
    return value


def wrapped(value):
    return Array(value) if isinstance(value, np.ndarray) else value


class Array(np.lib.mixins.NDArrayOperatorsMixin):
    """NumPy's numbers, which are no NumPy array."""

    device = types.SimpleNamespace(id=0)
    __hash__ = None

    def __init__(self, values):
        self.values = values

    def __array_ufunc__(self, ufunc, method, *inputs, out=(), **kwargs):
        if out:
            kwargs["out"] = unwrapped(out)
        return wrapped(getattr(ufunc, method)(*unwrapped(inputs), **kwargs))

    def __array_function__(self, function, types, args, kwargs):
        kwargs = {name: unwrapped(value) for name, value in kwargs.items()}
        return wrapped(function(*unwrapped(args), **kwargs))

    def __getitem__(self, part):
        return wrapped(self.values[unwrapped(part)])

    def __setitem__(self, part, value):
        self.values[unwrapped(part)] = unwrapped(value)

    def __len__(self):
        return len(self.values)

    def __bool__(self):
        return bool(self.values)

    def __getattr__(self, name):
        if name.startswith("__") or name == "values":
            raise AttributeError(name)
        found = getattr(self.values, name)
        if not callable(found):
            return wrapped(found)
        return lambda *args, **kwargs: wrapped(found(*unwrapped(args), **kwargs))

    def get(self):
        return self.values


class Library(types.ModuleType):
    """NumPy's functions, whose results are such arrays."""

    ndarray = Array
    cuda = types.SimpleNamespace(runtime=types.SimpleNamespace(getDevice=lambda: 0))

    def __getattr__(self, name):
        found = getattr(np, name)
        if not callable(found) or isinstance(found, type):
            return found
        return lambda *args, **kwargs: wrapped(
            found(*unwrapped(args), **{key: unwrapped(value) for key, value in kwargs.items()})
        )


CALLS = {
    "opening": lambda image: ndimage.grey_opening(image, (3, 4), mode="wrap"),
    "tophat": lambda image: ndimage.white_tophat(image, footprint=[[1, 1], [0, 1]], mode="ignore"),
    "sum": lambda image: ndimage.correlate(image, [[1, 2, 3]], mode="mirror"),
    "steps": lambda image: ndimage.binary_closing(image > 99, iterations=3),
    "holes": lambda image: ndimage.binary_fill_holes(image > 70),
    "reconstruction": lambda image: sc.reconstruction(image // 2, image),
    "heights": lambda image: sc.h_maxima(image, 40),
    "closing": lambda image: sc.closing_by_reconstruction(image, size=3),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_made_up_library(name, monkeypatch):
    expected = CALLS[name](IMAGE)
    monkeypatch.setitem(sys.modules, "cupy", Library("cupy"))
    there = Array(IMAGE)
    later = da.from_array(there, chunks=(7, 9), asarray=False)
    with served_by(reference):
        result = CALLS[name](later)
        assert type(result._meta) is Array
        blocks = result.to_delayed().ravel()
        computed = [block.compute(scheduler="sync") for block in blocks]
        assert {type(block) for block in computed} == {Array}
        np.testing.assert_array_equal(
            np.asarray(unwrapped(result.compute(scheduler="sync"))), expected
        )


@pytest.mark.gpu
@pytest.mark.parametrize("name", CALLS)
def test_cupy(name):
    cupy = pytest.importorskip("cupy")
    try:
        cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        pytest.skip(f"no GPU: {error}")
    later = da.from_array(cupy.asarray(IMAGE), chunks=(7, 9), asarray=False)
    result = CALLS[name](later)
    assert isinstance(result._meta, cupy.ndarray)
    found = result.compute(scheduler="threads", num_workers=2)
    assert isinstance(found, cupy.ndarray)
    np.testing.assert_array_equal(found.get(), CALLS[name](IMAGE))
