"""The arrows: which file of the three packages may import which; what the tables of kernels list.

Imports are read from the sources at every level, in functions and under ``if TYPE_CHECKING`` too.
"""

import ast
import re
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("semiconv_cupy", "kernels_cu", "torch_bridge")

# From the bottom up: a file imports its own layer and those below it, never one above.
LAYERS = {
    "ground": (
        "semiconv_cupy/errors.py", "semiconv_cupy/once.py", "semiconv_cupy/chunked.py",
        "semiconv_cupy/progress.py",
        "semiconv_cupy/files/*",
    ),
    "sources of kernels": (
        "kernels_cu/__init__.py", "kernels_cu/nvrtc.py", "kernels_cu/sass.py",
        "kernels_cu/model.py",
    ),
    "algebra": (
        "semiconv_cupy/algebra/*", "semiconv_cupy/modules.py",
    ),
    "windows and texts": (
        "semiconv_cupy/geometry.py", "semiconv_cupy/source.py", "semiconv_cupy/residual.py",
        "semiconv_cupy/structs.py", "semiconv_cupy/strides.py", "semiconv_cupy/layout.py",
        "semiconv_cupy/product.py", "semiconv_cupy/product_route.py", "semiconv_cupy/methods.py",
        "semiconv_cupy/backends/by_sums.py", "semiconv_cupy/backends/broadcast.py",
        "semiconv_cupy/backends/place.py", "semiconv_cupy/backends/host/compiler.py",
        "semiconv_cupy/backends/host/prebuilt.py",
        "semiconv_cupy/route.py", "semiconv_cupy/canonical.py",
        "semiconv_cupy/vectors.py", "semiconv_cupy/winners.py",
        "semiconv_cupy/operands.py",
    ),
    "backends": ("semiconv_cupy/backends/*", "semiconv_cupy/parameters.py"),
    "calls": (
        "semiconv_cupy/checks.py", "semiconv_cupy/conv.py", "semiconv_cupy/conv_vjp.py",
        "semiconv_cupy/matmul.py", "semiconv_cupy/matmul_plans.py", "semiconv_cupy/matmul_vjp.py",
        "semiconv_cupy/powers.py",
        "semiconv_cupy/run.py", "semiconv_cupy/own_gradients.py", "semiconv_cupy/ndimage/*",
        "semiconv_cupy/background.py", "semiconv_cupy/reconstructions.py",
        "semiconv_cupy/heights.py", "semiconv_cupy/openings.py",
        "semiconv_cupy/structuring.py", "semiconv_cupy/footprints.py", "semiconv_cupy/extents.py",
        "semiconv_cupy/parabolic.py",
        "semiconv_cupy/parabolic_passes.py",
    ),
    "arrays in chunks": ("semiconv_cupy/dask/*",),
    "views of the whole core": (
        "semiconv_cupy/__init__.py", "semiconv_cupy/demo.py", "semiconv_cupy/demo_sheet.py",
        "semiconv_cupy/explain.py", "semiconv_cupy/explaining/*", "semiconv_cupy/explanation.py",
        "semiconv_cupy/info.py",
        "semiconv_cupy/saved.py", "semiconv_cupy/ahead.py", "semiconv_cupy/works.py",
        "semiconv_cupy/variants.py", "semiconv_cupy/texts.py", "semiconv_cupy/apply.py",
        "semiconv_cupy/image_conv.py", "semiconv_cupy/preview.py",
    ),
    "users of the core": (
        "kernels_cu/report.py", "kernels_cu/build.py", "kernels_cu/__main__.py",
        "semiconv_cupy/__main__.py", "torch_bridge/*",
    ),
}  # fmt: skip

# Who may import an optional package, and nobody else.
ONLY = {
    # info.py says which versions are installed.
    "torch": ("torch_bridge/*", "semiconv_cupy/info.py"),
    "cupy": ("semiconv_cupy/backends/device.py",),
    "dask": ("semiconv_cupy/dask/*",),
    "distributed": ("semiconv_cupy/dask/*",),
    # The special functions that NumPy lacks, of the arrays that a semifield is given.
    "cupyx": ("semiconv_cupy/algebra/arrays.py",),
}


# ---- the checker ---------------------------------------------------------------------------------


def read(root):
    """The text of each file of the packages, by its path."""
    paths = (path for package in PACKAGES for path in (root / package).rglob("*.py"))
    return {path.relative_to(root).as_posix(): path.read_text(encoding="utf-8") for path in paths}


# import_module("cupy"), __import__("cupy")
CALLED = re.compile(r"\b(?:import_module|__import__)\(\s*[\"']([\w.]+)")


def statements(body):
    """All statements, those of functions, classes and branches included."""
    for statement in body:
        yield statement
        for part in ("body", "orelse", "finalbody", "handlers", "cases"):
            yield from statements(getattr(statement, part, ()))


def names_imported(path, text):
    """(module, name or None) of each import of a file."""
    folder = path.split("/")[:-1]
    for node in statements(ast.parse(text).body):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = folder[: len(folder) + 1 - node.level] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((module, alias.name) for alias in node.names)
    yield from ((module, None) for module in CALLED.findall(text))


def arrows(tree):
    """What each file imports: paths of other files, or the name of a package outside."""
    files = {path.removesuffix(".py").removesuffix("/__init__"): path for path in tree}

    def target(module, name):
        dotted = module.replace(".", "/")
        return files.get(f"{dotted}/{name}") or files.get(dotted) or module.partition(".")[0]

    return {
        path: {target(*found) for found in names_imported(path, text)} - {path}
        for path, text in tree.items()
    }


def circles(graph):
    """The sets of files each of which leads to all others of its set."""

    def reached(start):
        seen, left = set(), [start]
        while left:
            for found in graph.get(left.pop(), ()):
                if found not in seen:
                    seen.add(found)
                    left.append(found)
        return seen

    reach = {path: reached(path) for path in graph}
    sets = {frozenset(q for q in reach[p] if p in reach.get(q, ())) for p in graph if p in reach[p]}
    return [sorted(circle) for circle in sets]


def layer(path):
    """The height of a file's layer, None where it has none."""
    heights = enumerate(LAYERS.values())
    return next((n for n, files in heights if any(fnmatch(path, file) for file in files)), None)


def violations(graph):
    """What is wrong with the arrows of a tree, one line each."""
    names = list(LAYERS)
    found = [f"a circle: {', '.join(circle)}" for circle in circles(graph)]
    found += [f"{path} has no layer: add it to LAYERS" for path in graph if layer(path) is None]
    for path, imported in graph.items():
        for other in sorted(imported):
            if other in graph:
                own, its = layer(path), layer(other)
                if own is not None and its is not None and its > own:
                    found.append(
                        f"{path} ({names[own]}) imports {other} ({names[its]}), which lies above"
                    )
            elif other in ONLY and not any(fnmatch(path, file) for file in ONLY[other]):
                found.append(f"{path} imports {other}; only {', '.join(ONLY[other])} may")
    return found


# ---- the tree ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def graph():
    return arrows(read(ROOT))


def test_every_import_points_down(graph):
    assert violations(graph) == []


def test_no_layer_and_no_exception_outlives_its_file(graph):
    for pattern in (pattern for patterns in LAYERS.values() for pattern in patterns):
        assert any(fnmatch(path, pattern) for path in graph), pattern
    for package, patterns in ONLY.items():
        for pattern in patterns:
            assert any(fnmatch(path, pattern) and package in graph[path] for path in graph), pattern


def test_the_documents_show_these_layers():
    page = (ROOT / "docs" / "internals.md").read_text(encoding="utf-8").partition("| layer |")[2]
    rows = re.findall(r"^\| (\w[\w ]*) \| (.*) \|$", page, re.MULTILINE)
    assert [name for name, _ in rows] == list(reversed(LAYERS))
    for name, cell in rows:
        for pattern in LAYERS[name]:
            file = pattern.removesuffix("/*").rpartition("/")[2]
            assert file.startswith("__") or re.search(rf"[`/]{re.escape(file)}`", cell), pattern


# A made-up tree in order, and what one more line in one file makes of it.
TREE = dict.fromkeys(
    (file.replace("*", "__init__.py") for files in LAYERS.values() for file in files), ""
) | {
    "semiconv_cupy/conv.py": "from semiconv_cupy.backends import cuda\nimport numpy\n",
    "semiconv_cupy/backends/device.py": "def device():\n    import cupy\n",
    "semiconv_cupy/backends/cuda/__init__.py": "",
    "torch_bridge/autograd.py": "import torch.nn\nfrom semiconv_cupy import conv\n",
    "kernels_cu/report.py": "def main():\n    from semiconv_cupy.variants import variants\n",
}


def test_a_tree_in_order_passes():
    assert violations(arrows(TREE)) == []


@pytest.mark.parametrize(
    ("path", "line", "message"),
    [
        (
            "semiconv_cupy/algebra/laws.py",
            "from semiconv_cupy.algebra.reductions import Sum",
            "circle: semiconv_cupy/algebra/laws.py, semiconv_cupy/algebra/reductions.py",
        ),
        (
            "semiconv_cupy/backends/host/calls.py",
            "import semiconv_cupy.backends.cuda",
            "circle: semiconv_cupy/backends/cuda/__init__.py, semiconv_cupy/backends/host/calls.py",
        ),
        (
            "semiconv_cupy/algebra/names.py",
            "def dynamic():\n    from torch_bridge.autograd import forward",
            "names.py (algebra) imports torch_bridge/autograd.py (users of the core)",
        ),
        (
            "semiconv_cupy/conv.py",
            "import importlib\nimportlib.import_module('torch_bridge.autograd')",
            "conv.py (calls) imports torch_bridge/autograd.py",
        ),
        (
            "semiconv_cupy/conv.py",
            "from torch import Tensor",
            "semiconv_cupy/conv.py imports torch",
        ),
        (
            "semiconv_cupy/conv.py",
            "def f():\n    import torch.nn as nn",
            "imports torch; only",
        ),
        ("kernels_cu/report.py", "import torch", "report.py imports torch; only"),
        ("semiconv_cupy/ndimage/__init__.py", "import cupy as cp", "imports cupy; only"),
        (
            "semiconv_cupy/backends/cuda/__init__.py",
            "import cupyx.scipy.special",
            "imports cupyx; only",
        ),
        (
            "kernels_cu/model.py",
            "from semiconv_cupy import conv",
            "kernels_cu/model.py (sources of kernels) imports semiconv_cupy/conv.py (calls)",
        ),
        (
            "semiconv_cupy/algebra/tracing.py",
            "from semiconv_cupy.backends.device import Device",
            "tracing.py (algebra) imports semiconv_cupy/backends/device.py (backends)",
        ),
        ("semiconv_cupy/info.py", "try:\n    pass\nfinally:\n    import cupyx", "imports cupyx"),
        ("semiconv_cupy/info.py", "try:\n    x\nexcept E:\n    import cupyx", "imports cupyx"),
        ("semiconv_cupy/info.py", "with x:\n    __import__('cupyx.scipy')", "imports cupyx"),
        (
            "semiconv_cupy/algebra/cpp.py",
            "from ..ndimage import grey_dilation",
            "cpp.py (algebra) imports semiconv_cupy/ndimage/__init__.py (calls)",
        ),
        (
            "semiconv_cupy/backends/cuda/__init__.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ... import ndimage",
            "cuda/__init__.py (backends) imports semiconv_cupy/ndimage/__init__.py (calls)",
        ),
        ("semiconv_cupy/utils.py", "", "semiconv_cupy/utils.py has no layer"),
    ],
)
def test_each_wrong_import_is_found(path, line, message):
    extra = {
        "semiconv_cupy/algebra/laws.py": "",
        "semiconv_cupy/algebra/reductions.py": "from semiconv_cupy.algebra import laws\n",
        "semiconv_cupy/backends/cuda/__init__.py": "from ..host import calls\n",
        "semiconv_cupy/backends/host/calls.py": "",
    }
    tree = TREE | extra
    assert violations(arrows(tree)) == []
    tree[path] = tree.get(path, "") + line + "\n"
    assert any(message in violation for violation in violations(arrows(tree)))


# ---- the tables of kernels_cu/README.md ----------------------------------------------------------

KERNELS = {
    path.relative_to(ROOT / "kernels_cu").as_posix(): path.read_text(encoding="utf-8")
    for pattern in ("*.py", "*.cuh", "*/*.cu", "*/*.cuh", "*/*.cpp", "*/*.hpp")
    for path in (ROOT / "kernels_cu").glob(pattern)
}
README = (ROOT / "kernels_cu" / "README.md").read_text(encoding="utf-8")
MACRO = re.compile(r"\bSEMICONV_\w+")


def head(text):
    """The comment that a file of C++ begins with."""
    return re.match(r"(?:(?://.*)?\n)*", text)[0]


def macros_named(text):
    """The macros of a text, "SEMICONV_THREADS_Y, _X" being two."""
    found = set()
    for first, others in re.findall(r"(SEMICONV_\w+)((?:`?, `?_\w+)*)", text):
        stem = first.rpartition("_")[0]
        found |= {first, *(stem + other for other in re.findall(r"_\w+", others))}
    return found


def unlisted_files(files, readme):
    first_cells = re.findall(r"^\| (.*?) \|", readme, re.MULTILINE)
    listed = set(re.findall(r"`([\w/]+\.\w+)`", "\n".join(first_cells)))
    return sorted(set(files) - {"__init__.py", "__main__.py"} - listed), sorted(
        name for name in listed - set(files)
    )


def unexplained_macros(files, readme):
    texts = {name: text for name, text in files.items() if not name.endswith(".py")}
    used = {macro for text in texts.values() for macro in MACRO.findall(text)}
    defined = {macro for text in texts.values() for macro in re.findall(r"#define (\w+)", text)}
    explained = macros_named(readme).union(*(macros_named(head(text)) for text in texts.values()))
    return sorted(used - defined - explained)


def test_the_table_lists_every_file_of_the_kernels_and_no_other():
    assert unlisted_files(KERNELS, README) == ([], [])


def test_each_macro_is_explained_in_the_table_or_at_the_head_of_a_file():
    assert unexplained_macros(KERNELS, README) == []


def test_missing_rows_and_macros_are_found():
    files = {"cuda/a.cu": "// SEMICONV_ROWS, _COLUMNS: a tile\n#if SEMICONV_X\n", "b.cuh": ""}
    files["b.cuh"] = "#define SEMICONV_FN\nint n = SEMICONV_COLUMNS + SEMICONV_TIMES;\n"
    readme = "| `b.cuh`, `c.cuh` | text | `cuda/a.cu` |\n| `SEMICONV_TIMES` | the product |\n"
    assert unlisted_files(files, readme) == (["cuda/a.cu"], ["c.cuh"])
    assert unexplained_macros(files, readme) == ["SEMICONV_X"]
