"""The route that was chosen is the one that is gone."""

import pytest

from semiconv_cupy import SelectSemifield, run
from semiconv_cupy.backends.device import Recorder
from semiconv_cupy.backends.gradients import GradientArrays
from semiconv_cupy.backends.place import Place
from semiconv_cupy.geometry import Geometry
from semiconv_cupy.route import choose


@pytest.mark.parametrize(
    ("method", "kernels"),
    [("direct", ["forward", "grad_image"]), ("auto", ["forward_tiled", "grad_tiled"])],
)
def test_calls_by_addresses_take_the_method_of_their_route(method, kernels):
    recorder = Recorder()
    geometry = Geometry.plan((1, 1, 512, 512), (1, 1, 3, 3))
    place = Place("CuPy", gpu=0, device=recorder)
    route = choose(SelectSemifield.tropical_max(), geometry, "float32", place, method)
    strides = (512 * 512, 512 * 512, 512, 1), (9, 9, 3, 1)
    run.forward_at(route, *strides)(0, 0, 0, None, None)
    run.backward_at(route, *strides, (True, False))(GradientArrays(0, None, None, 0, 0, None), None)
    for launch, kernel in zip(recorder.launches, kernels, strict=True):
        assert launch.source.name.startswith(f"semiconv_{kernel}_tropical_max")
