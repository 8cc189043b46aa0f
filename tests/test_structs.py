"""The structs of Python and their twins in C++ and CUDA: one layout."""

import ctypes
import functools
import re
import subprocess

import cases
import numpy as np
import pytest

from semiconv_cupy import source, structs
from semiconv_cupy.backends.host.compiler import compiler
from semiconv_cupy.geometry import Geometry
from semiconv_cupy.layout import Layout
from semiconv_cupy.variants import shipping_variants

STRUCTS = structs.Struct.__subclasses__()


def places(struct):
    """(size, the offset of each field) of ctypes and of NumPy."""
    names, dtype = [name for name, _ in struct._fields_], struct.dtype()
    assert dtype.names == tuple(names)
    return (
        [ctypes.sizeof(struct), *(getattr(struct, name).offset for name in names)],
        [dtype.itemsize, *(dtype.fields[name][1] for name in names)],
    )


def numbers(struct):
    """The same as expressions of C++."""
    name = struct.__name__
    return [f"sizeof({name})", *(f"__builtin_offsetof({name}, {f})" for f, _ in struct._fields_)]


def of(file):
    return [struct for struct in STRUCTS if struct.file == file]


@functools.cache
def kernels():
    return list(shipping_variants())


def on_cuda(file):
    """{name: places} of a file's structs, by a kernel of a text that includes the file."""
    expressions = [number for struct in of(file) for number in numbers(struct)]
    declared = [re.compile(rf"^struct {struct.__name__} {{", re.MULTILINE) for struct in of(file)]
    texts = [k.text for k in kernels() if all(regex.search(k.text) for regex in declared)]
    stores = "  using namespace semiconv;\n"
    stores += "".join(f"  out[{n}] = {number};\n" for n, number in enumerate(expressions))
    kernel = f'\nextern "C" __global__ void layout(long long* out) {{\n{stores}}}\n'
    out = np.zeros(len(expressions), np.int64)
    cases.harness().compile(min(texts, key=len) + kernel, "layout")((1,), (1,), (out,), 0)
    return cut(out.tolist(), file)


def on_the_host(file, folder):
    """{name: places} of a file's structs, by a program that includes the file."""
    expressions = [number for struct in of(file) for number in numbers(struct)]
    text = source.assemble(file, source.storage_macros("float32"))
    prints = "".join(f'  printf("%zu ", {number});\n' for number in expressions)
    program, binary = folder / "layout.cpp", folder / "layout"
    program.write_text(
        f"{text}\n#include <stdio.h>\nint main() {{\n  using namespace semiconv;\n{prints}}}\n"
    )
    subprocess.run([compiler(), "-std=c++17", "-o", binary, program], check=True)
    shown = subprocess.run([binary], capture_output=True, text=True, check=True)
    return cut(list(map(int, shown.stdout.split())), file)


def cut(found, file):
    found = iter(found)
    return {struct: [next(found) for _ in numbers(struct)] for struct in of(file)}


@functools.cache
def seen_by_cpp(file, folder):
    return on_cuda(file) if file.startswith("cuda/") else on_the_host(file, folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("layouts")


@pytest.mark.skipif(compiler() is None, reason="no C++ compiler")
@pytest.mark.parametrize("struct", STRUCTS, ids=lambda struct: struct.__name__)
def test_layout(struct, folder):
    """C++, ctypes and NumPy agree on the size, and on each field's place."""
    by_ctypes, by_numpy = places(struct)
    assert by_ctypes == by_numpy == seen_by_cpp(struct.file, folder)[struct]


def test_fields_in_another_order_have_another_layout(folder):
    """So that the test above can fail."""

    class Exchanged(ctypes.Structure):
        _fields_ = (structs.Geometry._fields_[-1], *structs.Geometry._fields_[:-1])

    _, *offsets = seen_by_cpp(structs.Geometry.file, folder)[structs.Geometry]
    assert offsets != [getattr(Exchanged, name).offset for name, _ in structs.Geometry._fields_]


def test_max_rank():
    (found,) = re.findall(r"constexpr int max_rank = (\d+);", source.inlined("geometry.cuh"))
    assert int(found) == structs.MAX_RANK


def test_a_geometry_holds_the_plan():
    plan = cases.GEOMETRIES["everything"].plan()
    steps = tuple(range(plan.rank + 2)), tuple(range(1, plan.rank + 3))
    layout = Layout(*steps, steps[0][::-1], 5, 6, steps[1][1:])
    filled = structs.Geometry.of(plan, layout).scalar()
    for name in ("batch", "groups", "in_channels", "outputs_per_group", "kernels", "rank"):
        assert filled[name] == getattr(plan, name)
    for name in ("image_size", "kernel_size", "out_size", "stride", "dilation", "pad_begin"):
        assert tuple(filled[name][: plan.rank]) == getattr(plan, name)
    assert filled["mirrored"] == plan.mirrored
    assert tuple(filled["img_strides"][: plan.rank + 2]) == steps[0]
    assert tuple(filled["krn_strides"][: plan.rank + 2]) == steps[1]
    assert tuple(filled["out_strides"][: plan.rank + 2]) == steps[0][::-1]
    assert tuple(filled["tap_steps"][: plan.rank + 1]) == steps[1][1:]
    assert (filled["krn_begin"], filled["first_tap"]) == (5, 6)


def test_an_axis_of_one_output_has_stride_one():
    plan = Geometry.plan((1, 1, 5), (1, 1, 5), stride=3)
    filled = structs.Geometry.of(plan, Layout.plain(plan, (5, 5, 1)))
    assert filled.stride[0] == 1
