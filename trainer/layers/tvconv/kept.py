"""Weights that were made once and are used until anything they were made from changes."""

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

Parameters = Sequence[torch.nn.Parameter]


@dataclass(frozen=True)
class _Made:
    """Weights, and what was true of the parameters when they were made."""

    weight: Tensor
    parameters: Parameters
    state: tuple[tuple[int, int, bool], ...]


class KeptWeights:
    """The latest weights and their place in the graph, which several forwards may share.

    They are made anew where a parameter is another one, lies elsewhere or was written to, where
    gradients are wanted and were not (or the reverse), and after a backward, which frees the graph
    they come from: so once a step, however many micro-batches it has, even where an optimizer
    writes parameters behind autograd's back. A copy of a network starts without any.
    """

    def __init__(self) -> None:
        self._made: _Made | None = None

    def __reduce__(self) -> tuple[type["KeptWeights"], tuple[()]]:
        return KeptWeights, ()

    def drop(self) -> None:
        """Forget them."""
        self._made = None

    def get(self, make: Callable[[], Tensor], parameters: Parameters) -> Tensor:
        """What `make` made, or makes now, from these parameters."""
        wants = torch.is_grad_enabled() and any(p.requires_grad for p in parameters)
        state = tuple(_state_of(p) for p in parameters)
        made = self._made
        if (
            made is not None
            and made.state == state
            and made.weight.requires_grad == wants
            and all(a is b for a, b in zip(made.parameters, parameters, strict=True))
        ):
            return made.weight
        if wants:
            # Hooks of our own, so that a checkpoint around this forward does not count what the
            # graph keeps: its replay will find the weights made. A detached tensor, as one that
            # holds its own graph would never be freed.
            with saved_tensors_hooks(Tensor.detach, lambda kept: kept):
                weight = make()
            this: weakref.ref[KeptWeights] = weakref.ref(self)
            weight.register_hook(lambda _: _drop(this))
        else:
            with torch.inference_mode(mode=False), torch.no_grad():
                weight = make()
        self._made = _Made(weight, parameters, state)
        return weight


def _state_of(parameter: torch.nn.Parameter) -> tuple[int, int, bool]:
    # What was made in inference mode has no version, and cannot be written to elsewhere.
    version = -1 if parameter.is_inference() else parameter._version
    return version, parameter.data_ptr(), parameter.requires_grad


def _drop(kept: "weakref.ref[KeptWeights]") -> None:
    still = kept()
    if still is not None:
        still.drop()
