"""The texts of kernels: which macros a semifield gives them, and what is inlined."""

import math

import pytest

from semiconv_cupy import SelectSemifield, SubtractSemifield, source
from semiconv_cupy.backends.cuda.kernels import kernel_source, specialise
from semiconv_cupy.geometry import Geometry

FORMULAS = {"SELECT", "ADD", "TIMES", "ZERO", "PARAMETER", "STORAGE"}


def selection(times, **options):
    return SelectSemifield(lambda a, b: b > a, times, zero=-math.inf, **options)


def quick_ways(semifield, storage):
    """The macros that are no formulas, with their texts."""
    macros = source.definitions(semifield, storage)
    short = {name.removeprefix("SEMICONV_"): text for name, text in macros.items()}
    return {
        name: text
        for name, text in short.items()
        if name not in FORMULAS and not name.startswith(("D_", "SUBTRACT", "POST"))
    }


GREATER = {"SELECT_GREATER": "", "PLAIN_TIMES": "krn", "CONSTANT_DERIVATIVES": ""}
EXPECTED = [
    (SelectSemifield.tropical_max(), "float32", {**GREATER, "DROP_ZERO_WEIGHTS": ""}),
    (SelectSemifield.tropical_max(), "int16", {**GREATER, "INTEGER": ""}),
    (
        SelectSemifield.tropical_max(),
        "bool",
        {"SELECT_GREATER": "", "CONSTANT_DERIVATIVES": "", "INTEGER": ""},
    ),
    (
        SelectSemifield.tropical_min_negated(channels_add=True, spread_gradient=True),
        "float16",
        {
            "SELECT_LESS": "",
            "PLAIN_TIMES": "-krn",
            "DROP_ZERO_WEIGHTS": "",
            "SPREAD_GRADIENT": "",
            "CHANNELS_ADD": "",
            "CONSTANT_DERIVATIVES": "",
        },
    ),
    (SelectSemifield.max_times(), "float64", {"SELECT_GREATER": "", "DROP_ZERO_WEIGHTS": ""}),
    (SelectSemifield.boolean(), "float64", {"SELECT_GREATER": ""}),
    (
        selection(lambda img, krn: 3 * img - 2 * krn),
        "uint8",
        {"SELECT_GREATER": "", "CONSTANT_DERIVATIVES": "", "INTEGER": "", "WIDE_TIMES": ""},
    ),
    (
        SelectSemifield(lambda a, b: abs(b) > abs(a), lambda img, krn: img * krn, zero=0),
        "int16",
        {"INTEGER": "", "WIDE_SELECT": ""},
    ),
    (SubtractSemifield.linear(), "bfloat16", {"SUM": "", "SUM_OF_PRODUCTS": ""}),
    (
        SubtractSemifield(lambda a, b: a + b, lambda img, krn: (img * krn) ** 2, zero=0),
        "float32",
        {"SUM": ""},
    ),
    (
        SubtractSemifield.log(2.0),
        "float32",
        {"LOG": "", "PLAIN_TIMES": "krn", "CONSTANT_DERIVATIVES": ""},
    ),
    (SubtractSemifield.root(3.0), "float32", {"ROOT": ""}),
    (SubtractSemifield(math.hypot, lambda img, krn: img * krn, zero=0), "float32", {}),
]


@pytest.mark.parametrize(
    ("semifield", "storage", "expected"),
    EXPECTED,
    ids=[f"{semifield.word} {storage}" for semifield, storage, _ in EXPECTED],
)
def test_the_quick_ways_of_a_semifield(semifield, storage, expected):
    assert quick_ways(semifield, storage) == expected


def test_only_additions_that_are_folded_term_by_term_have_their_formulas():
    def macros(semifield):
        return source.definitions(semifield, "float32").keys()

    folded = {"SEMICONV_ADD", "SEMICONV_SUBTRACT", "SEMICONV_D_ADD_D_RIGHT"}
    assert folded <= macros(SubtractSemifield(math.hypot, lambda a, b: a * b, zero=0))
    for semifield in (SubtractSemifield.linear(), SubtractSemifield.log(1)):
        assert not folded & macros(semifield)


@pytest.mark.parametrize(
    ("times", "fused"),
    [
        (lambda img, krn: krn - img**2, False),
        (lambda img, krn: img * krn - 1, False),
        (lambda img, krn: -img * krn, True),
        (lambda img, krn: img - krn, True),
    ],
)
def test_gpus_do_not_fuse_products_and_sums_of_terms(times, fused):
    plane = Geometry.plan((1, 1, 8, 8), (1, 1, 3, 3))
    for storage in ("float32", "int32"):
        options = kernel_source(specialise("forward", selection(times), storage, plane)).options
        assert ("-fmad=false" in options) == (not fused and storage == "float32")


def test_each_include_is_inlined_once():
    text = source.host_library(SubtractSemifield.linear(), "float32", "forward")
    assert '#include "' not in text
    assert text.count("struct Geometry {") == 1
    assert text.startswith("#define SEMICONV_STORAGE float32\n")
    with pytest.raises(FileNotFoundError, match=r"includes nothing\.cuh, which is not there"):
        source.inlined("nothing.cuh")
