"""What `explain` returns: the steps of a call, printed as a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from kernels_cu import nvrtc
from semiconv_cupy.backends.device import Launch


@dataclass(frozen=True)
class Step:
    """One pass of a call over its arrays.

    Attributes
    ----------
    name : str
        "forward" or "backward" of a convolution; otherwise the primitive: "box", "footprint",
        "structure", "correlate" or "reconstruct".
    form : str
        What is computed: a convolution's axes in canonical form, or an array and a window.
    route : str
        Who computes it: "host", "cuda", "reference" (array loops) or "arrays" (whole-array
        functions), and "by sums" where log or root is computed by ordinary sums.
    operations : int
        Additions and multiplications of the semifield, estimated: all taps of all windows, those
        outside the image included. A flat box counts its comparisons by doubling.
    bytes : int
        Arguments and results, each moved once: the fewest that any method moves.
    libraries : tuple of str
        The compiled libraries of the CPU.
    launches : tuple of Launch
        The kernels of a GPU: source, grid, block, bytes of shared memory that a launch asks for.
    scratch : int
        Bytes: on the CPU the size to which each thread's tile is cut, or of what one window sees
        where that is larger; on a GPU that of all arrays besides arguments and results.

    See Also
    --------
    Explanation : All steps of a call.
    """

    name: str
    form: str
    route: str
    operations: int
    bytes: int
    libraries: tuple[str, ...] = ()
    launches: tuple[Launch, ...] = ()
    scratch: int = 0


@dataclass(frozen=True)
class Explanation:
    """What a call runs: its steps in order; ``print`` shows them as a table.

    Attributes
    ----------
    call : str
        The function, its arrays and arguments.
    steps : tuple of Step
    arch : str or None
        The GPU architecture that kernels were compiled for.
    resources : dict of str to kernels_cu.nvrtc.Resources
        With an `arch`, what each kernel takes of a multiprocessor, by its name.

    See Also
    --------
    Step : One of its steps.
    """

    call: str
    steps: tuple[Step, ...]
    arch: str | None
    resources: Mapping[str, nvrtc.Resources]

    @property
    def launches(self) -> tuple[Launch, ...]:
        """The launches of all steps, in order."""
        return tuple(launch for step in self.steps for launch in step.launches)

    @property
    def libraries(self) -> tuple[str, ...]:
        """The libraries of all steps, each once."""
        return tuple(dict.fromkeys(name for step in self.steps for name in step.libraries))

    def step(self, name: str) -> Step:
        """The first step of that name; ValueError where there is none."""
        for step in self.steps:
            if step.name == name:
                return step
        names = ", ".join(dict.fromkeys(step.name for step in self.steps))
        raise ValueError(f"name={name!r} is no step of this call; it has {names}")

    def __repr__(self) -> str:
        """The table."""
        return "\n".join([self.call, *(line for step in self.steps for line in self._lines(step))])

    def _lines(self, step: Step) -> Iterable[str]:
        yield f"  {step.name:<11} {step.form}"
        scratch = f", scratch {_bytes(step.scratch)}" if step.scratch else ""
        if step.scratch and step.route.startswith("host"):
            scratch = f", scratch about {_bytes(step.scratch)} a thread"
        yield (
            f"  {'':<11} {step.route}: {_with_prefix(step.operations)} operations, "
            f"{_bytes(step.bytes)} moved{scratch}"
        )
        for library in step.libraries:
            yield f"  {'':<13} library {library}"
        for launch in step.launches:
            yield f"  {'':<13} {self._launch(launch)}"

    def _launch(self, launch: Launch) -> str:
        grid, block = ("x".join(map(str, n)) for n in (launch.grid, launch.block))
        text = f"{launch.source.name} <<<{grid}, {block}>>>"
        found = self.resources.get(launch.source.name)
        if found is not None:
            spills = f", {found.spill_stores + found.spill_loads} bytes spilt"
            text += f" {found.registers} registers, {_bytes(found.shared)} shared"
            text += spills if found.spills else ""
        return text


def _bytes(number: int) -> str:
    text = _with_prefix(number)
    return f"{text}B" if " " in text else f"{text} B"


def _with_prefix(number: int) -> str:
    """Three digits and a prefix: 25.2 M. The number itself below a thousand."""
    for prefix, size in (("T", 10**12), ("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= 0.9995 * size:  # what rounds to 1000 of one prefix is 1 of the next
            return f"{number / size:.3g} {prefix}"
    return str(number)
