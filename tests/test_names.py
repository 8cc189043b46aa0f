"""The ready-made semifields: each name leads to its own, and every table has all of them."""

import inspect
import math
import re
from pathlib import Path

import cases
import pytest

import semiconv_cupy as sc
from semiconv_cupy.algebra import READY_MADE, named

ROOT = Path(__file__).parent.parent
PLAIN = [name for name, entry in READY_MADE.items() if entry.parameter is None]
FAMILIES = [name for name, entry in READY_MADE.items() if entry.parameter is not None]
# A row of a table: its first cell is `name` or `name(parameter)`, with a condition after it.
ROW = re.compile(r"^\| `([a-z_]+)(?:\((\w+)\))?`(?:, \w ([<>]) 0)? \| (.*) \|$", re.MULTILINE)
NUMBERS = {"−∞": -math.inf, "+∞": math.inf, "False": 0.0, "True": 1.0}


def rows(path):
    return ROW.findall((ROOT / path).read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", PLAIN)
def test_a_name_leads_to_its_semifield(name):
    semifield = named(name)
    assert semifield is READY_MADE[name].make()
    assert repr(semifield) == f"{type(semifield).__name__}.{name}()"


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_needs_its_parameter(name):
    entry = READY_MADE[name]
    assert list(inspect.signature(entry.make).parameters) == [entry.parameter]
    assert f"{name}({entry.parameter}=3.0)" in repr(entry.make(3.0))
    with pytest.raises(TypeError, match=rf"pass .*\.{name}\({entry.parameter}\)"):
        named(name)


def test_other_names_and_misspelt_ones_suggest_the_right_one():
    others = [(other, name) for name in READY_MADE for other in READY_MADE[name].other_names]
    assert len({other for other, _ in others} | READY_MADE.keys()) == len(others) + len(READY_MADE)
    for wrong, right in [*others, ("tropicalmax", "tropical_max"), ("Linear", "linear")]:
        with pytest.raises(ValueError, match=f"did you mean {right!r}"):
            named(wrong)
    with pytest.raises(ValueError, match="'plus' is unknown; the names are tropical_max, "):
        named("plus")


def test_every_backend_is_compared_with_an_oracle_of_each():
    compared = {name.partition("(")[0] for name in cases.SEMIFIELDS}
    assert READY_MADE.keys() <= compared
    for name in PLAIN:
        assert cases.SEMIFIELDS[name].semifield is named(name)


def test_the_documents_name_all_of_them():
    named_in = {name: parameter or None for name, parameter, *_ in rows("docs/semifields.md")}
    assert named_in == {name: entry.parameter for name, entry in READY_MADE.items()}
    for name, parameter, *_ in rows("README.md"):
        assert (parameter or None) == READY_MADE[name].parameter
    assert {"tropical_max", "log"} <= {name for name, *_ in rows("README.md")}
    listed = inspect.getdoc(sc.semifield_conv).partition("a ready-made pair:")[2].partition(".")[0]
    assert re.findall(r'``"(\w+)"``', listed) == PLAIN


@pytest.mark.parametrize("row", rows("docs/semifields.md"), ids=lambda row: "".join(row[:3]))
def test_the_documents_say_zero_and_one(row):
    name, parameter, side, cells = row
    value = -2.0 if side == "<" else 2.0
    semifield = READY_MADE[name].make(value) if parameter else named(name)
    *_, zero, one, _ = (cell.strip() for cell in cells.split("|"))
    assert semifield.zero == float(NUMBERS.get(zero, zero))
    assert semifield.times(0.7, float(NUMBERS.get(one, one))) == 0.7


def test_array_functions_of_the_same_name_add_and_multiply_the_same():
    shared = [name for name in READY_MADE if hasattr(sc.BroadcastSemifield, name)]
    assert len(shared) >= 5
    for name in shared:
        parameters = (2.0,) if READY_MADE[name].parameter else ()
        ours = READY_MADE[name].make(*parameters)
        other = getattr(sc.BroadcastSemifield, name)(*parameters)
        assert other.zero == ours.zero
        assert other.multiply(3.0, 2.0) == ours.times(3.0, 2.0)
        assert repr(other).partition(".")[2] == repr(ours).partition(".")[2]
