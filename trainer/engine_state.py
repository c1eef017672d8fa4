"""The backbone's state as whole tensors, whatever ZeRO stage cut it over ranks.

Reads and writes parameters, buffers and optimizer state by parameter name, so that what one world
size and stage wrote another can take over. DeepSpeed's own setters do nothing on ZeRO 0, raise
before an optimizer state exists, and do not know scalar state such as Adam's step count; hence the
cases here. Every rank calls each method in the same order, because reading gathers.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trainer.errors import RunError


@dataclass(frozen=True, kw_only=True)
class BackboneState:
    """Whole tensors on the host."""

    parameters: dict[str, Tensor]
    buffers: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    """`<state>/<parameter>` in the parameter's shape, and 0-dim `<state>` of all of them."""


class StateAccess:
    """Reads and writes the state behind one engine.

    Args:
        module: the backbone.
        zero_stage: DeepSpeed's.
        zero: DeepSpeed's optimizer; not used on ZeRO 0.
        optimizer: the torch optimizer inside it.
        state_keys: names of the states that have their parameter's shape.
        scalar_keys: names of the states that are one number, the same for all parameters.
        gathered: opens one parameter on ZeRO 3, to be read, or to keep the value of the rank given.
    """

    def __init__(
        self,
        *,
        module: nn.Module,
        zero_stage: int,
        zero: Any,
        optimizer: torch.optim.Optimizer,
        state_keys: tuple[str, ...],
        scalar_keys: tuple[str, ...],
        gathered: Callable[[nn.Parameter, int | None], AbstractContextManager[Any]],
    ) -> None:
        self.module = module
        self.zero_stage = zero_stage
        self.zero = zero
        self.optimizer = optimizer
        self.state_keys = state_keys
        self.scalar_keys = scalar_keys
        self.gathered = gathered
        self._trained = {name: p for name, p in module.named_parameters() if p.requires_grad}

    def create(self) -> None:
        """Make the optimizer's state, all zero, before the first step.

        torch makes it in the first step, but a state must exist to be set. The first step from
        zeros is the first step without state, for SGD (the buffer becomes the gradient) and AdamW.
        """
        lr = [group["lr"] for group in self.optimizer.param_groups]
        for group in self.optimizer.param_groups:
            group["lr"] = 0.0
        for index, flat in enumerate(self._flat_parameters()):
            flat.grad = torch.zeros_like(flat)
            if self.zero_stage == 3:
                self.zero._optimizer_step(index)
                flat.grad = None
        if self.zero_stage < 3:
            self.optimizer.step()
            for flat in self._flat_parameters():
                flat.grad = None
        if self.zero_stage in {1, 2}:
            self.zero._lazy_init_hp_params_optimizer_state()
        for state in self.optimizer.state.values():
            for value in state.values():
                if value is not None:
                    value.zero_()
        for group, before in zip(self.optimizer.param_groups, lr, strict=True):
            group["lr"] = before

    def _flat_parameters(self) -> list[Tensor]:
        """What the torch optimizer steps: the parameters, or this rank's flat parts of them."""
        if self.zero_stage == 0:
            return list(self._trained.values())
        if self.zero_stage == 3:
            return list(self.zero.fp32_partitioned_groups_flat)
        return list(self.zero.single_partition_of_fp32_groups)

    def read(self, *, keep: bool) -> BackboneState | None:
        """The whole state; ranks that do not `keep` it only take part in gathering."""
        parameters = {name: value for name, value in self._parameters() if keep}
        optimizer = {name: value for name, value in self._optimizer_state() if keep}
        if not keep:
            return None
        buffers = {name: b.detach().cpu().clone() for name, b in self.module.named_buffers()}
        return BackboneState(parameters=parameters, buffers=buffers, optimizer=optimizer)

    def write(self, state: BackboneState) -> None:
        """Take over a whole state, then read it back and compare."""
        self._check(state)
        with torch.no_grad():
            for name, parameter in self.module.named_parameters():
                self._set_parameter(parameter, state.parameters[name])
            for name, parameter in self._trained.items():
                self._set_state(parameter, None, state.parameters[name])
                for key in self.state_keys:
                    self._set_state(parameter, key, state.optimizer[f"{key}/{name}"])
            for name, buffer in self.module.named_buffers():
                buffer.copy_(state.buffers[name])
            for key in self.scalar_keys:
                for of_parameter in self.optimizer.state.values():
                    of_parameter[key].copy_(state.optimizer[key])
        self._compare(state)

    def whole_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Each parameter on its device, valid until the next; every rank iterates to the end."""
        for name, parameter in self.module.named_parameters():
            if self.zero_stage == 3:
                with self.gathered(parameter, None):
                    yield name, parameter.detach()
            else:
                yield name, parameter.detach()

    def _parameters(self) -> Iterator[tuple[str, Tensor]]:
        for name, value in self.whole_parameters():
            yield name, value.cpu().clone()

    def _optimizer_state(self) -> Iterator[tuple[str, Tensor]]:
        for name, parameter in self._trained.items():
            for key in self.state_keys:
                yield f"{key}/{name}", self._state(parameter, key).detach().cpu().clone()
        for key in self.scalar_keys:
            # The same for all parameters, so that of any will do.
            of_parameter = next(iter(self.optimizer.state.values()))
            yield key, of_parameter[key].detach().cpu().clone()

    def _state(self, parameter: Any, key: str | None) -> Tensor:
        """One state of one parameter; for None, the copy of the parameter that is stepped."""
        if self.zero_stage == 0:
            return parameter if key is None else self.optimizer.state[parameter][key]
        if self.zero_stage == 3:
            return self.zero.get_full_hp_param(parameter, key)
        return parameter.get_full_hp_param(key)

    def _set_state(self, parameter: Any, key: str | None, value: Tensor) -> None:
        value = value.to(parameter.device)
        if self.zero_stage == 0:
            self._state(parameter, key).copy_(value)
        elif self.zero_stage == 3:
            # DeepSpeed's setter of whole values fails where the last rank's part is padded.
            part = parameter.ds_tensor.numel()
            start = part * self.zero._get_param_partition_rank(parameter)
            own = value.new_zeros(part)
            piece = value.flatten()[start : start + part]
            own[: piece.numel()] = piece
            self.zero.set_local_hp_param(own, parameter, key)
        else:
            parameter.set_full_hp_param(value, key)

    def _set_parameter(self, parameter: nn.Parameter, value: Tensor) -> None:
        """The copy that the network computes with."""
        if self.zero_stage == 3:
            with self.gathered(parameter, 0):
                parameter.copy_(value)
        else:
            parameter.copy_(value)

    def _check(self, state: BackboneState) -> None:
        names = [name for name, _ in self.module.named_parameters()]
        expected = {
            "parameters": set(names),
            "buffers": {name for name, _ in self.module.named_buffers()},
            "optimizer": {f"{key}/{name}" for key in self.state_keys for name in self._trained}
            | set(self.scalar_keys),
        }
        for part, wanted in expected.items():
            found = set(getattr(state, part))
            if wanted != found:
                raise RunError(
                    f"the checkpoint's {part} are of another backbone or optimizer:"
                    f" missing {_few(wanted - found)}, not known {_few(found - wanted)};"
                    " continue with the settings of the run that saved it"
                )
        for name, parameter in self.module.named_parameters():
            shape = tuple(getattr(parameter, "ds_shape", parameter.shape))
            if tuple(state.parameters[name].shape) != shape:
                raise RunError(
                    f"{name} has shape {tuple(state.parameters[name].shape)} in the checkpoint and"
                    f" {shape} in this backbone; continue with the settings that saved it"
                )

    def _compare(self, state: BackboneState) -> None:
        """DeepSpeed's setters fail silently in some stages, so what was set is read again."""
        for name, value in self._parameters():
            _expect_equal(name, value, state.parameters[name])
        for name, parameter in self._trained.items():
            _expect_equal(name, self._state(parameter, None).cpu(), state.parameters[name])
        for name, value in self._optimizer_state():
            _expect_equal(name, value, state.optimizer[name])


def _expect_equal(name: str, found: Tensor, wanted: Tensor) -> None:
    if not torch.equal(found, wanted):
        raise RuntimeError(f"DeepSpeed did not take over {name}; is its version a tested one?")


def _few(names: set[str]) -> str:
    return ", ".join(sorted(names)[:3]) + (", ..." if len(names) > 3 else "") if names else "none"
