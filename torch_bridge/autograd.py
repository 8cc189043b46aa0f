"""Fused convolutions and matrix products of compiled semifields, as torch differentiates them.

What is saved for the derivative, which gradients are computed, and the second derivative of
selections. An `Operation` says what is computed: `convolutions` and `products` have one each, and
call `recorded`. `ops` has the operators themselves.

    mode                                     what records
    torch.compile                            `_Traced`
    torch.func, vmap, forward mode           `_Transformed`
    no dispatcher has to see the call        the operation's `Node` on a GPU, else `_Straight`
    all else                                 `_Eager`
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch._C import _are_functorch_transforms_active
from torch._C._functorch import get_unwrapped, is_functorch_wrapped_tensor
from torch.autograd import forward_ad

from semiconv_cupy.algebra import Semifield
from torch_bridge import ops
from torch_bridge.arguments import Shape
from torch_bridge.ops import FallBack, Handle, Node

Shapes = tuple[Shape, Shape]
Wants = tuple[bool, bool]
Directions = tuple[Tensor | None, Tensor | None]
Mode = Literal["traced", "transformed", "eager"]


class Named(Protocol):
    """What an error says of an operation."""

    name: str
    handle: Handle


class Operation(Named, Protocol):
    """What computes an output from two tensors.

    It is no tuple: torch takes every tuple among a function's arguments for several arguments, and
    loses count of them where forward mode meets vmap.
    """

    # Outside of traces: the backward pass finds it by its key, as long as something holds it.
    semifield: Semifield | None
    node: Node | None  # the one that served last

    def find_node(self, first: Tensor, second: Tensor, fall_back: FallBack) -> Node | None:
        """What records a call of such tensors in C++; None where nothing does."""

    def without_node(self) -> Operation:
        """An equal one, for the node itself: no collector finds a cycle that goes through C++."""

    def forward(self, first: Tensor, second: Tensor, with_residual: bool) -> tuple[Tensor, Tensor]:
        """The output and its residual, which is empty unless it is wanted."""

    def straight(
        self, first: Tensor, second: Tensor, with_residual: bool
    ) -> tuple[Tensor, Tensor | None]:
        """`forward` of tensors that go straight (`ops.goes_straight`)."""

    def gradients(
        self,
        grad_out: Tensor,
        first: Tensor | None,
        second: Tensor | None,
        residual: Tensor | None,
        shapes: Shapes,
        wants: Wants,
    ) -> tuple[Tensor, Tensor]:
        """Those of the tensors of these shapes that are wanted; any tensor for the others."""

    def at_winners(
        self, directions: Directions, winner: Tensor, shapes: Shapes, d_times: tuple[float, float]
    ) -> Tensor | None:
        """The derivative of the output in these directions, for the winning terms of a residual.

        An output changes as its winning term does: by the derivative of times by the first factor,
        times the direction there, and likewise for the second. That is linear in the direction, and
        the transpose of what gives the gradients.
        """


def recorded(first: Tensor, second: Tensor, operation: Operation) -> Tensor:
    """The output of checked tensors."""
    node = operation.node
    if node is not None and type(first) in ops.PLAIN_CLASSES and type(second) in ops.PLAIN_CLASSES:
        found = node(first, second)
        if found is not None:
            return found
    if ops.goes_straight(first, second) and not in_forward_mode():
        if torch.is_grad_enabled() and (first.requires_grad or second.requires_grad):
            out: Tensor | None = _by_new_node(first, second, operation)
            if out is None:
                out = _Straight.apply(first, second, operation)
            return out
        return operation.straight(first, second, False)[0]
    return recorded_with_winners(first, second, operation, False)[0]


def _by_new_node(first: Tensor, second: Tensor, operation: Operation) -> Tensor | None:
    """The output of tensors that go straight, by a node for them; None where none serves."""
    if first.get_device() < 0:
        return None
    fall_back = ByPython(operation.without_node(), (tuple(first.shape), tuple(second.shape)))
    node = operation.find_node(first, second, fall_back)
    if node is None:
        return None
    operation.node = node
    return node(first, second)


def recorded_with_winners(
    first: Tensor, second: Tensor, operation: Operation, with_winners: bool = True
) -> tuple[Tensor, Tensor]:
    """The output of checked tensors, and its residual.

    The residual is computed only where autograd records, or where winners are requested.
    """
    mode = recording(first, second)
    if mode is None:
        return operation.forward(first, second, with_winners)
    functions = {"traced": _Traced, "transformed": _Transformed, "eager": _Eager}
    found: tuple[Tensor, Tensor] = functions[mode].apply(first, second, operation)
    return found


def recording(first: Tensor, *others: Tensor) -> Mode | None:
    """How a derivative by these tensors is recorded; None where nobody records one."""
    if torch.compiler.is_compiling():
        if (torch.is_grad_enabled() or in_forward_mode()) and _inside_of_transforms():
            raise _not_compiled()
        return "traced" if torch.is_grad_enabled() and _require_grad(first, *others) else None
    if in_forward_mode():
        return "transformed" if first.is_floating_point() else None
    if not torch.is_grad_enabled():
        return None
    if _are_functorch_transforms_active():
        return "transformed" if any(map(is_recorded, (first, *others))) else None
    return "eager" if _require_grad(first, *others) else None


def _require_grad(*tensors: Tensor) -> bool:
    return any(tensor.requires_grad for tensor in tensors)


@torch.compiler.assume_constant_result
def _inside_of_transforms() -> bool:
    """Whether torch.func or torch.vmap transform what is computed; Dynamo calls it as it traces."""
    return _are_functorch_transforms_active()


def in_forward_mode() -> bool:
    """Whether tensors may carry tangents: by torch.func.jvp or torch.autograd.forward_ad."""
    return forward_ad._current_level >= 0


def is_recorded(tensor: Tensor) -> bool:
    """Whether a transform records the tensor, or autograd outside of all transforms.

    Inside of torch.vmap a batched tensor does not say that the tensor it slices is recorded.
    """
    while not tensor.requires_grad:
        if not is_functorch_wrapped_tensor(tensor):
            return False
        tensor = get_unwrapped(tensor)
    return True


def with_signature(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with its signature attached, which `apply` otherwise inspects at every call.

    That inspection was a third of a small call's time.
    """
    function.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
    return function


def _not_compiled() -> NotImplementedError:
    """The error for a transform inside of torch.compile, which would lose the derivative."""
    return NotImplementedError(
        "torch.compile cannot trace torch.func and torch.vmap around a fused operation, whose "
        "derivative it would take for 0: leave the transform uncompiled. Without gradients, "
        "torch.vmap under torch.no_grad() compiles"
    )


def no_second_derivative(operation: Named) -> RuntimeError:
    """The error for a second derivative that depends on more than the winners."""
    return RuntimeError(
        f"the second derivative of a fused {operation.name} is offered for selections by one "
        "winner (no spread_gradient) whose times has constant derivatives, such as tropical_max; "
        f"got {ops.semifield_of(operation.handle.key)!r}. A BroadcastSemifield is differentiated "
        "by torch itself, as often as you like"
    )


def no_forward_mode(operation: Named) -> NotImplementedError:
    """The error for a tangent that depends on more than the winners."""
    return NotImplementedError(
        f"forward mode through a fused {operation.name} is offered for selections by one winner "
        "(no spread_gradient) whose times has constant derivatives, such as tropical_max; got "
        f"{ops.semifield_of(operation.handle.key)!r}. Use reverse mode: torch.func.vjp, "
        "torch.func.jacrev or backward()"
    )


def no_second_tangent(operation: Named) -> NotImplementedError:
    """The error for a gradient in forward mode, as torch.func.hessian computes it."""
    return NotImplementedError(
        f"forward mode through the gradient of a fused {operation.name} is offered for selections "
        "by one winner (no spread_gradient) whose times has constant derivatives, such as "
        f"tropical_max; got {ops.semifield_of(operation.handle.key)!r}. A BroadcastSemifield is "
        "differentiated by torch itself, in any mode, as often as you like"
    )


class _Traced(torch.autograd.Function):
    """(first, second) -> (out, residual)."""

    generate_vmap_rule = True

    @staticmethod
    @with_signature
    def forward(first: Tensor, second: Tensor, operation: Operation) -> tuple[Tensor, Tensor]:
        return operation.forward(first, second, True)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        if not torch.compiler.is_compiling():  # Dynamo neither supports nor needs this call
            ctx.set_materialize_grads(False)
        first, second, operation = inputs
        _save(ctx, first, second, operation, output[1])

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor | None, _: Any = None) -> Any:
        if grad_out is None:
            return None, None, None
        residual, *arrays = ctx.saved_tensors
        first, second = arrays if arrays else (None, None)
        given = (grad_out, first, second, residual)
        return *_gradients(ctx.operation, ctx.shapes, given, ctx.needs_input_grad[:2]), None


def _gradients(
    operation: Operation, shapes: Shapes, given: tuple[Any, Any, Any, Any], wants: Wants
) -> tuple[Tensor | None, Tensor | None]:
    """Those that are wanted, for (grad_out, first, second, residual)."""
    if not torch.compiler.is_compiling() and (torch.is_grad_enabled() or in_forward_mode()):
        grad_out, first, second, residual = given
        kept = grad_out.new_empty(0) if residual is None else residual
        request = _Request(operation, shapes, wants)
        grads = _Gradients.apply(grad_out, first, second, kept, request)
    else:
        grads = operation.gradients(*given, shapes, wants)
    return grads[0] if wants[0] else None, grads[1] if wants[1] else None


@dataclass(frozen=True)
class ByPython:
    """What a node of that operation calls for all that it does not compute itself."""

    operation: Any  # an `Operation`
    shapes: Shapes

    def __call__(
        self, grad_out: Tensor, first: Any, second: Any, residual: Any, *wants: bool
    ) -> tuple[Tensor | None, Tensor | None]:
        given = (grad_out, first, second, residual)
        return _gradients(self.operation, self.shapes, given, (wants[0], wants[1]))


def _save(ctx: Any, first: Tensor, second: Tensor, operation: Operation, residual: Tensor) -> None:
    """Keep what the backward pass needs."""
    ctx.mark_non_differentiable(residual)
    ctx.operation = operation
    if not torch.compiler.is_compiling():
        # Keeps the semifield alive: the backward pass finds it by its key.
        ctx.semifield = ops.semifield_of(operation.handle.parted.unbound)
    ctx.shapes = (tuple(first.shape), tuple(second.shape))
    ctx.save_for_backward(*_saved(first, second, operation, residual))


def _saved(
    first: Tensor, second: Tensor, operation: Operation, residual: Tensor | None
) -> tuple[Tensor | None, ...]:
    return (residual, first, second) if operation.handle.needs_arrays else (residual,)


class _Eager(torch.autograd.Function):
    """`_Traced` outside of torch.compile and torch.func, where `apply` takes half the time."""

    @staticmethod
    def forward(
        ctx: Any, first: Tensor, second: Tensor, operation: Operation
    ) -> tuple[Tensor, Tensor]:
        out, residual = operation.forward(first, second, True)
        ctx.set_materialize_grads(False)
        _save(ctx, first, second, operation, residual)
        return out, residual

    backward = _Traced.backward


class _Straight(torch.autograd.Function):
    """(first, second) -> out, where the residual need not be an output, as no mode sees it."""

    @staticmethod
    def forward(ctx: Any, first: Tensor, second: Tensor, operation: Operation) -> Tensor:
        out, residual = operation.straight(first, second, True)
        ctx.set_materialize_grads(False)
        ctx.operation, ctx.shapes = operation, (first.shape, second.shape)
        ctx.save_for_backward(*_saved(first, second, operation, residual))
        return out

    backward = _Traced.backward


class _Transformed(_Traced):
    """`_Traced` with a derivative in forward mode, which torch.compile does not support."""

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        _Traced.setup_context(ctx, inputs, output)
        first, second, operation = inputs
        ctx.save_for_forward(*_saved(first, second, operation, output[1]))

    @staticmethod
    def jvp(ctx: Any, first: Tensor | None, second: Tensor | None, _: None) -> Any:
        d_times = ctx.operation.handle.constant_d_times
        if d_times is None:
            raise no_forward_mode(ctx.operation)
        winner = ctx.saved_tensors[0]
        return ctx.operation.at_winners((first, second), winner, ctx.shapes, d_times), None


class _Request:
    """Which gradients are computed; no tuple, as an `Operation` is none."""

    def __init__(self, operation: Operation, shapes: Shapes, wants: Wants) -> None:
        self.operation, self.shapes, self.wants = operation, shapes, wants


class _Gradients(torch.autograd.Function):
    """(grad_out, first, second, residual) -> gradients, themselves differentiable by grad_out.

    A selection whose terms have constant derivatives has no other second derivative: the winners
    do not move. So the gradients are linear in grad_out, and their derivative in a direction of it
    is the gradients of that direction.
    """

    generate_vmap_rule = True

    @staticmethod
    @with_signature
    def forward(
        grad_out: Tensor,
        first: Tensor | None,
        second: Tensor | None,
        residual: Tensor,
        request: _Request,
    ) -> tuple[Tensor, Tensor]:
        return request.operation.gradients(
            grad_out, first, second, residual, request.shapes, request.wants
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        residual, ctx.request = inputs[3:]
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(residual)
        ctx.save_for_forward(residual)

    @staticmethod
    def backward(ctx: Any, of_first: Tensor | None, of_second: Tensor | None) -> Any:
        request = ctx.request
        operation, (want_first, want_second) = request.operation, request.wants
        d_times = operation.handle.constant_d_times
        if d_times is None:
            raise no_second_derivative(operation)
        (winner,) = ctx.saved_tensors
        directions = (of_first if want_first else None, of_second if want_second else None)
        found = operation.at_winners(directions, winner, request.shapes, d_times)
        return found, *(None,) * 4

    @staticmethod
    def jvp(ctx: Any, grad_out: Tensor | None, *_: Any) -> Any:
        if ctx.request.operation.handle.constant_d_times is None:
            raise no_second_tangent(ctx.request.operation)
        if grad_out is None:
            return None, None
        (winner,) = ctx.saved_tensors
        return _Gradients.apply(grad_out, None, None, winner, ctx.request)
