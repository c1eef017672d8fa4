"""The optimizer state behind an engine: there from the start, and checked when it is set.

Reading and writing it over stages and world sizes is tested with the checkpoints.
"""

from dataclasses import replace

import pytest
import torch

from tests.trainer import toy
from tests.trainer.test_engine import OPTIMIZERS, STAGES, Stage, loss_of, make
from trainer.engine import Engine
from trainer.engine_state import BackboneState


def state_of(engine: Engine) -> BackboneState:
    state = engine.read_state(keep=True)
    assert state is not None
    return state


def fresh(stage: Stage, optimizer: str) -> tuple[BackboneState, bool]:
    engine = make(stage, **OPTIMIZERS[optimizer])
    others_read_nothing = engine.read_state(keep=False) is None
    return state_of(engine), others_read_nothing


@pytest.mark.parametrize("stage", STAGES)
def test_an_engine_has_its_state_before_the_first_step_and_its_first_weights(ranks, stage):
    net = toy.network(toy.Plain)
    shapes = {name: tuple(p.shape) for name, p in net.named_parameters()}
    first = {name: p.detach() for name, p in net.named_parameters()}
    for optimizer, keys in (("sgd", ["momentum_buffer"]), ("adamw", ["exp_avg", "exp_avg_sq"])):
        wanted = {f"{key}/{name}": shape for key in keys for name, shape in shapes.items()}
        wanted |= {"step": ()} if optimizer == "adamw" else {}
        for state, others_read_nothing in ranks(2).run(fresh, stage, optimizer):
            assert {name: tuple(value.shape) for name, value in state.optimizer.items()} == wanted
            assert not any(value.any() for value in state.optimizer.values())
            torch.testing.assert_close(state.parameters, first, rtol=0.0, atol=0.0)
            assert others_read_nothing


def count_steps(stage: Stage) -> tuple[float, float]:
    engine = make(stage, **OPTIMIZERS["adamw"])
    for _ in range(3):
        engine.backward(loss_of(engine.forward(toy.images(2, seed=1))))
        engine.step(0.1)
    before = state_of(engine)
    engine.write_state(replace(before, optimizer={**before.optimizer, "step": torch.tensor(7.0)}))
    return before.optimizer["step"].item(), state_of(engine).optimizer["step"].item()


def test_adams_step_count_is_read_and_set(ranks):
    for stage in STAGES:
        assert ranks(2).run(count_steps, stage) == [(3.0, 7.0)] * 2


def set_without_effect(stage: Stage) -> str:
    engine = make(stage)
    state = state_of(engine)
    momentum = {name: torch.ones_like(value) for name, value in state.optimizer.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine._access, "_set_state", lambda *_: None)
        with pytest.raises(RuntimeError) as caught:
            engine.write_state(replace(state, optimizer=momentum))
    return str(caught.value)


def test_a_setter_that_does_nothing_is_noticed(ranks):
    for stage in STAGES:
        for message in ranks(2).run(set_without_effect, stage):
            assert "DeepSpeed did not take over momentum_buffer/0.weight" in message
