"""Every public docstring has its parameters, result, errors, relatives, formula and example.

What is read is the text, as `help` and the reference show it. A section may say "as in" of another
name; that name exists.
"""

import inspect
import pkgutil
import re

import pytest

import semiconv_cupy as sc
from semiconv_cupy import ndimage, structuring
from semiconv_cupy.algebra.laws import LawReport

torch_bridge = pytest.importorskip("torch_bridge")

# Exceptions and warnings are raised, not called; a report and a structuring function are returned.
RETURNED = (BaseException, LawReport, structuring.StructuringFunction)
# They compute nothing of which there is a formula: they choose, compile or explain; they hold what
# is passed; or the formula stands in the class that they are a case of.
WITHOUT_FORMULA = {
    "where", "prepare", "explain", "SelectSemifield", "SubtractSemifield", "BroadcastSemifield",
    "SemifieldConv", "BroadcastConv", "TorchLinearConv2D", "TorchMaxPool2D", "LearnedKernel",
    "box", "ball", "disk",
}  # fmt: skip
# They take anything and raise nothing of their own.
WITHOUT_ERRORS = {"where", "BroadcastSemifield", "TorchLinearConv2D"}


def public():
    """(full name, object) of all public functions and classes that are called."""
    for module in (sc, ndimage, structuring, torch_bridge, torch_bridge.functional):
        for name in module.__all__:
            found = getattr(module, name)
            returned = inspect.isclass(found) and issubclass(found, RETURNED)
            if callable(found) and not returned:
                yield f"{module.__name__}.{name}", found


NAMES = dict(public())
SECTION = re.compile(r"^(\w[\w ]*)\n-+\n", re.MULTILINE)


def sections(text):
    """The text of each section by its title; what stands before them has the title ''."""
    parts = SECTION.split("\n" + inspect.cleandoc(text))
    return {"": parts[0]} | dict(zip(parts[1::2], parts[2::2], strict=True))


def documented_parameters(section):
    """The names in the lines that are not indented: ``a, b : int``."""
    lines = re.findall(r"^(\S.*?)(?: : .*)?$", section, re.MULTILINE)
    return {name.strip().lstrip("*") for line in lines for name in line.split(",")}


def parameters(called):
    """The names in its signature; none of a module that takes what `torch.nn.Module` takes."""
    names = set(inspect.signature(called).parameters)
    return set() if names == {"args", "kwargs"} else names


def relatives(section):
    """The names of a section "See Also"."""
    lines = re.findall(r"^(\S.*?) : ", section, re.MULTILINE)
    return [name.strip() for line in lines for name in line.split(",")]


def found(name, beside):
    """The object that a docstring of the module `beside` means by a name; None if there is none."""
    for place in (f"{beside}.", beside.partition(".")[0] + ".", "semiconv_cupy.", ""):
        try:
            return pkgutil.resolve_name(place + name)
        except (ImportError, AttributeError):
            continue
    return None


@pytest.mark.parametrize("name", NAMES)
def test_a_public_docstring_has_its_sections(name):
    called, last = NAMES[name], name.rpartition(".")[2]
    parts = sections(called.__doc__)
    assert parts[""].strip().partition("\n")[0].endswith("."), "a summary in one line"
    undocumented = parameters(called) - documented_parameters(parts.get("Parameters", ""))
    assert not undocumented, f"Parameters lacks {sorted(undocumented)}"
    if inspect.isfunction(called):
        assert "Returns" in parts
    assert "Raises" in parts or last in WITHOUT_ERRORS
    assert ">>> " in parts.get("Examples", "")
    assert relatives(parts.get("See Also", "")), "See Also lists no name"
    formula = ".. math::" in called.__doc__ or ":math:" in called.__doc__
    assert formula or last in WITHOUT_FORMULA or last.endswith(("1d", "3d", "2D"))


@pytest.mark.parametrize("name", NAMES)
def test_its_relatives_exist(name):
    module = name.rpartition(".")[0]
    for relative in relatives(sections(NAMES[name].__doc__).get("See Also", "")):
        assert found(relative, module) is not None, relative
        assert found(relative, module) is not NAMES[name], "itself"


YEAR = re.compile(r"\b(?:19|20)\d\d\b")
# They choose and compile; nothing in them is anybody's.
WITHOUT_SOURCE = {"semiconv_cupy.explain", "semiconv_cupy.prepare"}


def test_a_source_is_at_most_three_relatives_away():
    """A book or a paper, known by its year: in the docstring itself, or where "See Also" leads."""
    near = {name for name, called in NAMES.items() if YEAR.search(called.__doc__)}
    steps = {}
    for name, called in NAMES.items():
        module, shown = name.rpartition(".")[0], sections(called.__doc__)["See Also"]
        steps[name] = [found(relative, module) for relative in relatives(shown)]
    for _ in range(3):
        known = [NAMES[name] for name in near]
        near |= {name for name, others in steps.items() if any(o in known for o in others)}
    assert NAMES.keys() - near == WITHOUT_SOURCE


def test_what_is_missing_is_noticed():
    text = """A sum.

    Parameters
    ----------
    a, *b : int
        Numbers.
    c
        Another.

    See Also
    --------
    grey_erosion, nothing : Others.
    """
    parts = sections(text)
    assert documented_parameters(parts["Parameters"]) == {"a", "b", "c"}
    assert relatives(parts["See Also"]) == ["grey_erosion", "nothing"]
    assert found("grey_erosion", "semiconv_cupy.ndimage") is ndimage.grey_erosion
    assert found("ndimage.grey_erosion", "semiconv_cupy.structuring") is ndimage.grey_erosion
    assert found("nothing", "semiconv_cupy.ndimage") is None
