"""Many networks of one architecture at once: parameters stacked, one step for all of them.

A small network leaves most of a GPU idle, and its step is a hundred launches. Here the parameters
of V networks lie in tensors (V, ...), `torch.vmap` makes one call of V (a convolution gets V
groups), and a CUDA graph launches the whole step at once. Every network sees its own order of the
examples; a step of Adam is elementwise, so no network has an effect on another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from examples.thesis.data import Data, Split

TEST_IMAGES_AT_ONCE = 2000


class Ensemble:
    """V networks, their optimiser, and the step of all of them.

    Parameters
    ----------
    make : callable
        ``make(seed)`` is a network. Its buffers, if any, are the same for each seed.
    seeds : sequence of int
        One for each network.
    data : Data
        On the device where the networks will be.
    rate : float
        Adam's learning rate.
    batch : int
        Examples of a step, for each network.
    graph : bool
        Whether a step on a GPU is a CUDA graph.
    """

    def __init__(
        self,
        make: Callable[[int], nn.Module],
        seeds: Sequence[int],
        data: Data,
        rate: float,
        batch: int,
        graph: bool = True,
    ) -> None:
        self.data, self.seeds = data, list(seeds)
        self.device = data.train.images.device
        members = [make(seed) for seed in seeds]
        self.network = members[0]
        stacked, _ = stack_module_state(members)
        self.parameters = {
            name: value.detach().to(self.device).requires_grad_() for name, value in stacked.items()
        }
        self.buffers = {name: b.to(self.device) for name, b in self.network.named_buffers()}
        on_gpu = self.device.type == "cuda"
        self.graph = graph and on_gpu
        self.optimiser = torch.optim.Adam(
            self.parameters.values(), rate, capturable=on_gpu, fused=on_gpu
        )
        self.index = torch.zeros(len(members), batch, dtype=torch.long, device=self.device)
        self.losses = torch.zeros(len(members), device=self.device)
        self.replay: Callable[[], None] | None = None

    # ---- learning --------------------------------------------------------------------------------

    def step(self, index: Tensor) -> None:
        """A step of all networks on the examples of `index`, (V, batch); adds up the losses."""
        self.index.copy_(index, non_blocking=True)
        if self.graph:
            if self.replay is None:
                self.replay = self._captured()
            self.replay()
        else:
            self._step()

    def _step(self) -> None:
        images, labels = self.data.train
        self.optimiser.zero_grad(set_to_none=True)
        losses = vmap(self._loss)(self.parameters, images[self.index], labels[self.index])
        losses.sum().backward()
        self.optimiser.step()
        self.losses += losses.detach()

    def _loss(self, parameters: dict[str, Tensor], images: Tensor, labels: Tensor) -> Tensor:
        scores = self._scores(parameters, images)
        return nn.functional.cross_entropy(scores, labels)

    def _captured(self) -> Callable[[], None]:
        """The step as a CUDA graph.

        A few steps run before (cuDNN tries its algorithms, kernels are compiled, Adam allocates);
        they are undone.
        """
        before = {name: value.detach().clone() for name, value in self.parameters.items()}
        states = [dict(self.optimiser.state[p]) for p in self.parameters.values()]
        kept = [{name: value.clone() for name, value in state.items()} for state in states]
        losses = self.losses.clone()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self._step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        self.optimiser.zero_grad(set_to_none=True)
        with torch.cuda.graph(graph):
            self._step()
        with torch.no_grad():
            for name, value in self.parameters.items():
                value.copy_(before[name])
            for parameter, state in zip(self.parameters.values(), kept, strict=True):
                for name, value in self.optimiser.state[parameter].items():
                    value.copy_(state[name]) if state else value.zero_()
            self.losses.copy_(losses)
        return graph.replay

    def take_losses(self, steps: int) -> Tensor:
        """The mean losses (V,) of the last `steps` steps, which are forgotten."""
        mean = self.losses / steps
        self.losses.zero_()
        return mean

    # ---- testing ---------------------------------------------------------------------------------

    @torch.no_grad()
    def accuracy(self, split: Split | None = None) -> Tensor:
        """The part of a split's images that each network classifies rightly, (V,)."""
        images, labels = split or self.data.test
        right = torch.zeros(len(self.seeds), device=self.device)
        for part, wanted in zip(
            images.split(TEST_IMAGES_AT_ONCE), labels.split(TEST_IMAGES_AT_ONCE), strict=True
        ):
            scores = vmap(self._scores, (0, None))(self.parameters, part)
            right += (scores.argmax(-1) == wanted).sum(-1)
        return right / len(labels)

    def _scores(self, parameters: dict[str, Tensor], images: Tensor) -> Tensor:
        return functional_call(self.network, (parameters, self.buffers), (images,))

    @torch.no_grad()
    def member(self, number: int) -> nn.Module:
        """The network of that number, on the CPU, as an ordinary module."""
        state = {name: value[number].cpu() for name, value in self.parameters.items()}
        self.network.load_state_dict(state, strict=False)  # its buffers stay as they are
        return self.network

    # ---- checkpoints -----------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        return {
            "parameters": {name: value.detach() for name, value in self.parameters.items()},
            "optimiser": self.optimiser.state_dict(),
        }

    @torch.no_grad()
    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from `state`; before the first step, as a captured step keeps its tensors."""
        for name, value in self.parameters.items():
            value.copy_(state["parameters"][name])
        self.optimiser.load_state_dict(state["optimiser"])
