"""What goes wrong first in a beginner's hands: each message names what was given and the remedy."""

import builtins
import importlib
import os
import re
import subprocess
import sys
import types
import warnings
from pathlib import Path

import numpy as np
import pytest

import semiconv_cupy as sc
from semiconv_cupy.backends.device import CupyDevice
from semiconv_cupy.errors import BackendUnavailableError

ROOT = Path(__file__).parent.parent

MAX = sc.SelectSemifield.tropical_max
IMG = np.zeros((1, 1, 8, 8), np.float32)
KRN = np.zeros((1, 1, 3, 3), np.float32)
RGB = np.zeros((1, 3, 8, 8), np.float32)
PICTURE = np.zeros((20, 30, 3), np.uint8)


def convolve(img=IMG, krn=KRN, semifield="tropical_max", **arguments):
    return lambda: sc.semifield_conv(img, krn, semifield, **arguments)


ARRAYS = {
    "a picture without batch and channel": (
        convolve(IMG[0, 0], KRN[0, 0]),
        ValueError,
        "got (8, 8); a single picture is img[None, None]",
    ),
    "a kernel without channels": (
        convolve(krn=KRN[0, 0]),
        ValueError,
        "got krn (3, 3) and img (1, 1, 8, 8); a single kernel is krn[None, None]",
    ),
    "channels last": (
        convolve(np.zeros((1, 8, 8, 3), np.float32)),
        ValueError,
        "krn must have 8 input channels (img channels / groups = 8 / 1), got krn of shape "
        "(1, 1, 3, 3) and img of shape (1, 8, 8, 3); channels come second, as "
        "numpy.moveaxis(img, -1, 1) has them",
    ),
    "one kernel for three channels": (
        convolve(RGB),
        ValueError,
        "one kernel for every channel is groups=3, group_broadcasting=True",
    ),
    "three kernels for three channels": (
        convolve(RGB, np.zeros((3, 1, 3, 3), np.float32)),
        ValueError,
        "a kernel for each channel is groups=3",
    ),
    "groups that do not divide": (
        convolve(np.zeros((1, 4, 8, 8), np.float32), groups=3),
        ValueError,
        "groups must divide the channels of img: channels=4, groups=3",
    ),
    "an integer kernel on a float image": (
        convolve(krn=KRN.astype(np.int64)),
        TypeError,
        "got img float32 and krn int64; convert one of them: krn.astype(img.dtype)",
    ),
    "a float kernel on an integer image": (  # whose fractions uint8 could not hold
        convolve(IMG.astype(np.uint8)),
        TypeError,
        "got img uint8 and krn float32; convert one of them: img.astype(krn.dtype)",
    ),
    "a float32 kernel on a float64 image": (
        convolve(IMG.astype(np.float64)),
        TypeError,
        "got img float64 and krn float32; convert one of them: krn.astype(img.dtype)",
    ),
    "integers where there are none": (
        convolve(IMG.astype(int), KRN.astype(int), "linear"),
        TypeError,
        "SubtractSemifield.linear() works on floating arrays only; integers need a SelectSemifield",
    ),
    "a list": (
        convolve([[[1.0]]]),
        TypeError,
        "img must be a NumPy or CuPy array, got list; numpy.asarray(img) makes one",
    ),
    "a misspelt semifield": (
        convolve(semifield="tropicalmax"),
        ValueError,
        "semifield='tropicalmax' is unknown (did you mean 'tropical_max'?); the names are "
        "tropical_max, tropical_min_negated, ",
    ),
    "a semifield without its parameter": (
        convolve(semifield="log"),
        TypeError,
        "semifield='log' needs its parameter: pass 'log' with mu=..., or "
        "semiconv_cupy.SubtractSemifield.log(mu)",
    ),
    "a parameter in the name": (
        convolve(semifield="log(2)"),
        TypeError,
        "semifield='log(2)' needs its parameter: pass 'log' with mu=..., or "
        "semiconv_cupy.SubtractSemifield.log(mu)",
    ),
    "morphology's own name": (
        convolve(semifield="erosion"),
        ValueError,
        "semifield='erosion' is unknown (did you mean 'tropical_min_negated'?)",
    ),
    "a semifield that was not called": (
        convolve(semifield=MAX),
        TypeError,
        "got SelectSemifield.tropical_max; it must be called: SelectSemifield.tropical_max(...)",
    ),
    "padding in capitals": (
        convolve(padding="SAME"),
        ValueError,
        'padding must be "valid", "same" or integers, got \'SAME\'',
    ),
    "another border": (
        convolve(padding="reflect"),
        ValueError,
        "got 'reflect'; for another border pad the image first, or see semiconv_cupy.ndimage",
    ),
    "padding as torch.nn.functional.pad has it": (
        convolve(padding=(1, 1, 1, 1)),
        ValueError,
        "one entry per axis (2), an int or a (begin, end) pair, got (1, 1, 1, 1)",
    ),
    "half a pixel": (convolve(padding=1.5), TypeError, "padding must be an integer, got 1.5"),
    "a kind that is none": (
        convolve(kind="convolution"),
        ValueError,
        'kind must be "conv" or "corr", got \'convolution\'',
    ),
    "a window larger than the image": (
        convolve(krn=np.zeros((1, 1, 9, 9), np.float32)),
        ValueError,
        "the window does not fit into the padded image: image size (8, 8)",
    ),
    "a flat function of integers": (
        lambda: sc.structuring.flat(sc.structuring.disk(2), dtype=np.uint8),
        TypeError,
        "for an integer image use semiconv_cupy.ndimage.grey_dilation(image, footprint=...)",
    ),
    "a branch in a semifield": (
        lambda: sc.SelectSemifield(
            lambda a, b: b > a, lambda img, krn: img if krn > 0 else krn, zero=0.0
        ),
        TypeError,
        "depends on the value of krn > 0: write semiconv_cupy.where(condition, a, b) instead",
    ),
    "a maximum as a selection": (
        lambda: sc.SelectSemifield(max, lambda img, krn: img + krn, zero=-np.inf),
        TypeError,
        "maximum(left, right) is a number; write right > left for a maximum",
    ),
    "a maximum as a sum": (
        lambda: sc.SubtractSemifield(np.maximum, lambda img, krn: img + krn, zero=-np.inf),
        ValueError,
        "picks one of its arguments, which cannot be undone: use SelectSemifield",
    ),
    "a function without return": (
        lambda: sc.SelectSemifield(lambda a, b: b > a, lambda img, krn: None, zero=0.0),
        TypeError,
        "times(img, krn): returned None: is `return` missing?",
    ),
    "a semifield without zero": (
        lambda: sc.SelectSemifield(lambda a, b: b > a, lambda img, krn: img + krn),
        TypeError,
        "zero is missing: pass the neutral element of the addition",
    ),
    "a gradient of integers": (
        lambda: sc.semifield_conv_vjp(IMG.astype(int), KRN.astype(int), "tropical_max"),
        TypeError,
        "derivatives need a floating dtype, got int64",
    ),
    "a filter of no size": (
        lambda: sc.ndimage.grey_dilation(IMG[0, 0]),
        ValueError,
        "size, footprint, or structure must be specified",
    ),
    "a border that SciPy does not have": (
        lambda: sc.ndimage.grey_dilation(IMG[0, 0], 3, mode="edge"),
        RuntimeError,
        "boundary mode not supported: 'edge'; known are nearest, wrap",
    ),
    "a footprint of two axes for a colour picture": (
        lambda: sc.ndimage.grey_dilation(PICTURE, footprint=sc.structuring.disk(2)),
        RuntimeError,
        "footprint.ndim (2) must match len(axes) (3); for a colour picture (H, W, 3) pass "
        "axes=(0, 1)",
    ),
    "a size of two axes for a colour picture": (
        lambda: sc.ndimage.grey_erosion(PICTURE, size=(5, 5)),
        RuntimeError,
        "sequence argument must have length equal to input rank: got (5, 5) for 3 axes; for a "
        "colour picture (H, W, 3) pass axes=(0, 1)",
    ),
    "a footprint in the place of the size": (
        lambda: sc.ndimage.grey_dilation(IMG[0, 0], sc.structuring.disk(2)),
        RuntimeError,
        "got an array of shape (5, 5); a footprint is passed as footprint=",
    ),
    "half a tap": (
        lambda: sc.ndimage.grey_dilation(IMG[0, 0], 3.5),
        TypeError,
        "size must be an integer, or one for each axis, got 3.5",
    ),
    "a file's name": (
        lambda: sc.ndimage.grey_dilation("photo.jpg", 3),
        RuntimeError,
        "data type not supported: input is the text 'photo.jpg', not an array; read the file first",
    ),
    "nothing": (
        lambda: sc.ndimage.grey_dilation(None, 3),
        RuntimeError,
        "data type not supported: input is object (its elements are Python's NoneType); convert it",
    ),
    "seed and mask in the wrong order": (
        lambda: sc.reconstruction(np.array([3.0, 5.0]), np.array([3.0, 2.0])),
        ValueError,
        "got a seed of 5.0 where the mask is 2.0; are the two exchanged?",
    ),
    "a function as a semifield": (
        convolve(semifield=lambda a, b: a + b),
        TypeError,
        "got <lambda>; functions make one: SelectSemifield(add_select=..., times=..., zero=...)",
    ),
    "an addition of one number": (
        lambda: sc.SelectSemifield(lambda a: a, lambda img, krn: img + krn, zero=0.0),
        TypeError,
        "add_select(left, right): is called with 2 arguments, but takes (a)",
    ),
    "parameters without values": (
        lambda: sc.SelectSemifield(
            lambda a, b: b > a, lambda i, k, s: i + s * k, zero=0.0, parameters=("s",)
        ),
        TypeError,
        "parameters must map names to numbers, as {'s': 1.0}, got parameters=('s',)",
    ),
    "a footprint's name in its place": (
        lambda: sc.ndimage.grey_opening(IMG[0, 0], footprint="disk(5)"),
        RuntimeError,
        "footprint is the text 'disk(5)', not an array; pass one, as numpy.ones((3, 3)) or ",
    ),
    "a size in the place of the footprint": (
        lambda: sc.ndimage.grey_dilation(IMG[0, 0], footprint=5),
        RuntimeError,
        "footprint.ndim (0) must match len(axes) (2); it is an array, as "
        "numpy.ones((3, 3)) or semiconv_cupy.structuring.disk(5)",
    ),
    "a parameter that no function takes": (
        lambda: sc.SelectSemifield(
            lambda a, b: b > a, lambda i, k: i + k, zero=0.0, parameters={"s": 1.0}
        ),
        ValueError,
        "parameters has s, which no function takes: write it as a further argument, as times(img, "
        "krn, s), or leave it out",
    ),
    "a hyphen in a semifield's name": (
        convolve(semifield="Max-Plus"),
        ValueError,
        "semifield='Max-Plus' is unknown (did you mean 'tropical_max'?)",
    ),
    "a function of the package in ndimage": (
        lambda: sc.ndimage.h_maxima,
        AttributeError,
        "semiconv_cupy.ndimage has no h_maxima: it is semiconv_cupy.h_maxima",
    ),
    "a name that only SciPy has": (
        lambda: sc.ndimage.gaussian_filter,
        AttributeError,
        "semiconv_cupy.ndimage has no gaussian_filter (it has morphology, minimum and maximum "
        "filters, convolutions and correlations); SciPy's other functions stay in scipy.ndimage",
    ),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_with_arrays(name):
    call, error, text = ARRAYS[name]
    with pytest.raises(error, match=re.escape(text)):
        call()


def test_what_the_remedies_say_works():
    channels_last = np.zeros((1, 8, 8, 3), np.float32)
    assert convolve(np.moveaxis(channels_last, -1, 1), groups=3, group_broadcasting=True)().shape
    assert convolve(RGB, np.zeros((3, 1, 3, 3), np.float32), groups=3)().shape == (1, 3, 6, 6)
    assert convolve(IMG[0, 0][None, None], KRN[0, 0][None, None])().shape == (1, 1, 6, 6)
    assert sc.ndimage.grey_erosion(PICTURE, size=(5, 5), axes=(0, 1)).shape == PICTURE.shape
    positive, log, root = IMG + 0.5, sc.SubtractSemifield.log, sc.SubtractSemifield.root
    learned_outside = convolve(3 * positive, 3 * KRN, log(1))() / 3
    np.testing.assert_allclose(learned_outside, convolve(positive, KRN, log(3))(), rtol=1e-6)
    learned_outside = convolve(positive**3, (KRN + 2) ** 3, "linear")() ** (1 / 3)
    np.testing.assert_allclose(learned_outside, convolve(positive, KRN + 2, root(3))(), rtol=1e-6)
    picture, kernel = IMG.astype(np.uint8), KRN - 0.5
    assert convolve(picture.astype(kernel.dtype), kernel)().max() == -0.5


def tensors():
    torch = pytest.importorskip("torch")
    import torch_bridge

    img, krn = torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 3, 3)
    function = torch_bridge.functional.semifield_conv
    learned = torch_bridge.LearnedKernel2D(1, 1, 3)
    return {
        "tensors for the array function": (
            convolve(img, krn),
            TypeError,
            "got torch.Tensor; for tensors use torch_bridge.functional.semifield_conv",
        ),
        "arrays for the tensor function": (
            lambda: function(IMG, KRN, "tropical_max"),
            TypeError,
            "img must be a torch.Tensor, got ndarray; for arrays use semiconv_cupy.semifield_conv",
        ),
        "tensors for the product of arrays": (
            lambda: sc.semifield_matmul(krn, krn, "tropical_max"),
            TypeError,
            "a must be a NumPy or CuPy array, got torch.Tensor; for tensors use "
            "torch_bridge.functional.semifield_matmul",
        ),
        "a tensor for the result of a product": (
            lambda: sc.semifield_matmul(KRN, KRN, "tropical_max", out=krn),
            TypeError,
            "out must be a NumPy or CuPy array, got torch.Tensor; for tensors use "
            "torch_bridge.functional.semifield_matmul",
        ),
        "a tensor for a function that tensors lack": (
            lambda: sc.semifield_closure(krn, "tropical_max"),
            TypeError,
            "a must be a NumPy or CuPy array, got torch.Tensor; a.numpy(force=True) makes one",
        ),
        "a sparse image": (
            lambda: function(img.to_sparse(), krn, "tropical_max"),
            TypeError,
            "img must be a dense tensor, got layout torch.sparse_coo; img.to_dense() makes one",
        ),
        "a sparse kernel for a module": (
            lambda: MAX().dynamic()(img, krn.to_sparse()),
            TypeError,
            "krn must be a dense tensor, got layout torch.sparse_coo",
        ),
        "a sparse kernel for array functions": (
            lambda: sc.BroadcastSemifield.tropical_max().dynamic()(img, krn.to_sparse()),
            TypeError,
            "krn must be a dense tensor, got layout torch.sparse_coo",
        ),
        "a sparse image for a layer": (
            lambda: torch_bridge.DilationPool2d(2)(img.to_sparse()),
            TypeError,
            "img must be a dense tensor, got layout torch.sparse_coo",
        ),
        "a sparse matrix": (
            lambda: torch_bridge.functional.semifield_matmul(krn, krn.to_sparse(), "tropical_max"),
            TypeError,
            "b must be a dense tensor, got layout torch.sparse_coo; b.to_dense() makes one",
        ),
        "an array and a tensor": (
            convolve(IMG, krn),
            TypeError,
            "krn must be a NumPy or CuPy array, got torch.Tensor",
        ),
        "two dtypes": (
            lambda: function(img, krn.double(), "tropical_max"),
            TypeError,
            "got img torch.float32 and krn torch.float64; convert one of them: krn.to(img.dtype)",
        ),
        "a float kernel on an integer image": (
            lambda: function(img.to(torch.uint8), krn, "tropical_max"),
            TypeError,
            "convert one of them: img.to(krn.dtype)",
        ),
        "two devices": (
            lambda: function(img.to("meta"), krn, "tropical_max"),
            ValueError,
            "img and krn must be on one device, got img on meta and krn on cpu; move one of them: "
            "krn.to(img.device), or the module that holds it, module.to(img.device)",
        ),
        "a semifield that was not called": (
            lambda: function(img, krn, MAX),
            TypeError,
            "it must be called: SelectSemifield.tropical_max(...)",
        ),
        "a semifield as a module": (
            lambda: torch_bridge.GenericConv(learned, MAX()),
            TypeError,
            "conv must be a module, got SelectSemifield: use SelectSemifield.tropical_max()."
            "dynamic()",
        ),
        "a number as a module": (
            lambda: torch_bridge.GenericConv(3, MAX().dynamic()),
            TypeError,
            "kernel must be a module, got int 3; one is torch_bridge.LearnedKernel(1, 1, 3, "
            "ndim=2)",
        ),
        "a tensor as a module": (
            lambda: torch_bridge.GenericConv(krn, MAX().dynamic()),
            TypeError,
            "kernel must be a module, got Tensor; for a tensor as kernel use "
            "torch_bridge.functional.semifield_conv",
        ),
        "a convolution's padding in a pooling": (
            lambda: torch_bridge.GeMPool2d(3, padding="same"),
            TypeError,
            "padding must be an integer, or one for each axis, got 'same'; for a result of the "
            "image's size take stride=1 and an odd kernel_size K with padding=K // 2",
        ),
        "a layer that does not know its rank": (
            lambda: torch_bridge.Dilation(3),
            ValueError,
            "kernel_size=3 does not say the number of dimensions: give one entry per axis, or ndim",
        ),
        "a layer for other channels": (
            lambda: torch_bridge.DilationPool2d(2, channels=3)(img),
            ValueError,
            "img must have 3 channels on axis 1, got an image of shape (1, 1, 8, 8)",
        ),
        "a layer for channels that lie last": (
            lambda: torch_bridge.LogSumExpPool2d(2, channels=3)(torch.zeros(8, 8, 3)),
            ValueError,
            "on axis 0, got an image of shape (8, 8, 3); they lie last: img.movedim(-1, 0)",
        ),
        "a layer of float32 on an image of float64": (
            lambda: torch_bridge.DilationPool2d(2)(img.double()),
            TypeError,
            "krn.to(img.dtype), or the module that holds it, module.to(img.dtype)",
        ),
        "an array for a layer": (
            lambda: torch_bridge.DilationPool2d(2)(IMG),
            TypeError,
            "img must be a torch.Tensor, got ndarray; torch.from_numpy(img) makes one",
        ),
        "the convolution before the kernel": (
            lambda: torch_bridge.GenericConv(MAX().dynamic(), learned),
            TypeError,
            "got the convolution SemifieldConv(SelectSemifield.tropical_max()): the kernel comes "
            "first, as in GenericConv(kernel, conv)",
        ),
        "a name as a module": (
            lambda: torch_bridge.GenericConv(learned, "tropical_max"),
            TypeError,
            "got str 'tropical_max': use SelectSemifield.tropical_max().dynamic()",
        ),
        "a mu to be learned": (
            lambda: sc.SubtractSemifield.log(torch.nn.Parameter(torch.tensor(2.0))),
            TypeError,
            "mu must be a number here, got a tensor that requires a gradient, which a semifield "
            'does not keep: SemifieldConv("log", mu=...) and '
            'torch_bridge.functional.semifield_conv(img, krn, "log", mu=...) learn it',
        ),
        "a tensor as mu of arrays": (
            lambda: sc.semifield_conv(
                img.numpy(), img.numpy(), "log", mu=torch.ones((), dtype=img.dtype)
            ),
            TypeError,
            "mu must be a NumPy or CuPy array, got torch.Tensor; for tensors use "
            "torch_bridge.functional.semifield_conv",
        ),
        "a tensor for a filter": (
            lambda: sc.ndimage.grey_dilation(img[0, 0], 3),
            TypeError,
            "input must be a NumPy or CuPy array, got a torch.Tensor: pass input.numpy()",
        ),
    }


# The names in `tensors`, which imports torch.
TENSORS = (
    "tensors for the array function",
    "arrays for the tensor function",
    "an array and a tensor",
    "two dtypes",
    "a float kernel on an integer image",
    "two devices",
    "a semifield that was not called",
    "a semifield as a module",
    "a number as a module",
    "a tensor as a module",
    "a convolution's padding in a pooling",
    "a layer that does not know its rank",
    "a layer for other channels",
    "a layer of float32 on an image of float64",
    "an array for a layer",
    "the convolution before the kernel",
    "a name as a module",
    "a mu to be learned",
    "a tensor for a filter",
    "a layer for channels that lie last",
    "a sparse image",
    "a sparse image for a layer",
    "a sparse kernel for a module",
    "a sparse kernel for array functions",
    "a sparse matrix",
    "a tensor as mu of arrays",
    "a tensor for a function that tensors lack",
    "a tensor for the result of a product",
    "tensors for the product of arrays",
)


@pytest.mark.parametrize("name", TENSORS)
def test_with_tensors(name):
    call, error, text = tensors()[name]
    with pytest.raises(error, match=re.escape(text)):
        call()


def test_that_each_call_with_tensors_has_its_name_in_the_list():
    assert sorted(tensors()) == sorted(TENSORS)


NO_COMPILER = """
import warnings

import numpy as np
import semiconv_cupy as sc

img, krn = np.ones((1, 1, 8, 8), "f4"), np.ones((1, 1, 3, 3), "f4")
with warnings.catch_warnings(record=True) as found:
    warnings.simplefilter("always")
    for _ in range(2):
        print(sc.semifield_conv(img, krn, "tropical_max").shape)
        print(sc.ndimage.grey_opening(img[0, 0], 3).shape)
for warning in found:
    print(warning.category.__name__, warning.filename, warning.message)
try:
    sc.semifield_conv(img, krn, "tropical_max", method="direct")
except sc.BackendUnavailableError as error:
    print(error)
"""


def test_no_compiler(no_compiler):
    environment = {name: value for name, value in os.environ.items() if name != "CXX"}
    done = subprocess.run(
        [sys.executable, "-c", NO_COMPILER],
        capture_output=True,
        text=True,
        timeout=100,
        env={**environment, **no_compiler},
    )
    assert done.returncode == 0, done.stderr
    *shapes, convolutions, filters, refused = done.stdout.splitlines()
    assert shapes == ["(1, 1, 6, 6)", "(8, 8)"] * 2
    text = r"slow array loops: no C\+\+ compiler found .*; install one, .* `apt install g\+\+`"
    for line in (convolutions, filters):
        assert re.match(f"BackendWarning <string> semi.* {text}", line)
    assert refused.startswith("method='direct' cannot run here: no C++ compiler found")


def test_no_cupy(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(BackendUnavailableError, match=r"CuPy is not installed; `pip install cupy-"):
        CupyDevice()


def test_cupy_without_a_driver(monkeypatch):
    class CUDARuntimeError(RuntimeError):
        pass

    def count():
        raise CUDARuntimeError("cudaErrorNoDevice: no CUDA-capable device is detected")

    runtime = types.SimpleNamespace(getDeviceCount=count)
    cupy = types.SimpleNamespace(cuda=types.SimpleNamespace(runtime=runtime))
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    text = r"CuPy finds no usable GPU \(cudaErrorNoDevice.*`python -m semiconv_cupy info` says more"
    with pytest.raises(BackendUnavailableError, match=text):
        CupyDevice()


def test_no_pytorch(monkeypatch):
    found = builtins.__import__

    def without_torch(name, *arguments, **keywords):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")
        return found(name, *arguments, **keywords)

    for name in [name for name in sys.modules if name.partition(".")[0] == "torch_bridge"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", without_torch)
    text = "torch_bridge needs PyTorch: pip install torch .*; arrays need only semiconv_cupy"
    with pytest.raises(ModuleNotFoundError, match=text):
        importlib.import_module("torch_bridge")


@pytest.mark.slow
def test_a_structure_that_rounds_to_nothing():
    image = np.arange(200, dtype=np.uint8).reshape(10, 20)
    with pytest.warns(UserWarning, match="the window is flat.*value_range=255") as found:
        sc.ndimage.grey_closing(image, structure=sc.structuring.quadratic(2.0))
    assert {warning.filename for warning in found} == {__file__}
    with pytest.warns(UserWarning, match="no value beyond 1.28, .* is nearly flat"):
        sc.ndimage.grey_dilation(image, structure=sc.structuring.quadratic(5.0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        enough = sc.structuring.quadratic(2.0, value_range=255)
        sc.ndimage.grey_closing(image, structure=enough)
        sc.ndimage.grey_dilation(image, structure=sc.structuring.flat(sc.structuring.disk(2)))
        sc.ndimage.grey_dilation(image / 255, structure=sc.structuring.quadratic(2.0))
