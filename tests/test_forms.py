"""A work's canonical form and its plain one agree: random works of every role (`forms.py`)."""

import dataclasses

import cases
import forms
import numpy as np
import pytest

WORKS = 500  # of a semifield, in the exhaustive run; `python tests/forms.py` compares 2000
# Forms follow from shapes and from the bytes of a number. Each dtype of a semifield is five or more
# libraries: `python tests/forms.py` has all of them.
DTYPES = {
    "tropical_max": ("float32", "float64", "bfloat16", "uint8", "int16", "bool"),
    "linear": ("float32", "float64", "float16"),
    "log(2)": ("float32", "float64"),
}


def agree(name, dtypes, seeds, size=forms.HOST, device=None):
    tally = forms.compare(name, dtypes, seeds, size, device)
    assert tally.faults == [], "\n\n".join(tally.faults[:5])
    assert set(tally.works) == set(forms.ROLES)
    return tally


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("tropical_max", "float32"), ("tropical_max", "uint8"), ("linear", "float32")],
)
def test_both_forms_agree(name, dtype):
    tally = agree(name, [dtype], range(20 * len(forms.ROLES)))
    # A form that is always the plain one agrees with it, of course.
    assert sum(tally.rewritten.values()) >= sum(tally.works.values()) // 5


@pytest.mark.slow
@pytest.mark.parametrize("name", forms.SEMIFIELDS)
def test_both_forms_agree_on_many_works(name):
    agree(name, DTYPES.get(name, ("float32",)), range(WORKS))


@pytest.mark.slow
@pytest.mark.parametrize(("turn", "name"), list(enumerate(["tropical_max", "linear", "log(2)"])))
def test_both_forms_agree_on_cuda(turn, name):
    """A work of each role, and another for each semifield: each is three or more kernels."""
    works = range(turn * len(forms.ROLES), (turn + 1) * len(forms.ROLES))
    agree(name, ["float32"], works, forms.HARNESS, cases.harness())


@pytest.mark.parametrize("name", ["tropical_max", "linear"])
def test_gradients_of_a_batch_of_pixels_on_cuda(name):
    """As free axes, batch and space are one, of which the image has the channels in between."""
    rng = np.random.default_rng(4)
    img, krn, grad_out = (rng.normal(size=n) for n in ((5, 6, 1), (1, 6, 1), (5, 1, 1)))
    semifield = forms.SEMIFIELDS[name].semifield
    found = cases.gradients("cuda_on_cpu", img, krn, grad_out, semifield)
    expected = cases.gradients("host", img, krn, grad_out, semifield)
    for array, right in zip(found, expected, strict=True):
        np.testing.assert_allclose(array, right, rtol=1e-12)


# ---- the comparison itself -----------------------------------------------------------------------


def test_a_seed_says_which_work_is_drawn():
    one, same, other = (
        forms.work(seed, "float32", cases.REALS) for seed in (7, 7, 7 + len(forms.ROLES))
    )
    assert str(one) == str(same) != str(other)
    assert one.role == other.role
    for drawn, again in ((one.img, same.img), (one.krn, same.krn), (one.grad_out, same.grad_out)):
        np.testing.assert_array_equal(drawn, again)


@pytest.mark.parametrize("name", ["tropical_max", "linear"])
@pytest.mark.parametrize("which", ["out", "grad_img", "grad_krn", "residual"])
def test_a_difference_is_found(name, which):
    """One number of one form changed by a little."""
    case = forms.SEMIFIELDS[name]
    drawn = forms.work(0, "float32", cases.REALS)
    found, *_, plain = (forms.computed(route, drawn) for route in forms.routes(case, drawn))
    array = getattr(plain, which)
    if array is None:
        pytest.skip("plain sums keep nothing")
    forms.require_agreement(case, drawn, found, plain)
    changed = array.copy()
    at = np.unravel_index(np.argmax(np.isfinite(changed)), changed.shape)
    changed[at] += 1
    with pytest.raises(AssertionError, match=f"{which} of the two forms"):
        forms.require_agreement(case, drawn, found, dataclasses.replace(plain, **{which: changed}))
