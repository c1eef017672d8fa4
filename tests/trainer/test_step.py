"""A step of engine and head together, against plain torch in float64, on ZeRO 0-3.

Tolerance: the step computes in float32 (DeepSpeed sums over ranks in nothing finer). Its rounding,
2^-24 = 6e-8 a number, is amplified by the scale 8 of the logits and, in three steps, by few more;
measured differences stay below 2e-6, and a wrong factor anywhere changes the fourth digit.
"""

import copy

import pytest
import torch
from torch import Tensor, nn

from sharded_fc.margins import CosFace
from sharded_fc.reference import DenseHead
from tests.trainer import toy
from tests.trainer.test_engine import STAGES, Stage, make
from trainer.engine import Engine
from trainer.layers.batch_norm import BatchNorm1d, BatchNorm2d
from trainer.step import read_numbers, train_step

ATOL = 1e-5
M = 4
RATES = (0.1, 0.05, 0.02)


def share(rank: int, world: int) -> range:
    return range(rank * M // world, (rank + 1) * M // world)


def snapshot(engine: Engine, head) -> dict:
    state = engine.read_state(keep=True)
    assert state is not None
    return copy.deepcopy({**vars(state), "rows": toy.rows(head), "scalars": head.state()})


def run(stage: Stage, kind: type[nn.Module], changes: dict) -> tuple[dict, list[dict[str, float]]]:
    engine, head = make(stage, kind, clip_norm=0.5, **changes), toy.head()
    topology = engine.topology
    mine = share(topology.rank, topology.world_size)
    outcomes = []
    for step, rate in enumerate(RATES):
        head.learning_rate = 2 * rate
        outcome = train_step(
            engine,
            head,
            toy.batches(step, mine),
            micro_batches=mine,
            total_micro_batches=M,
            learning_rate=rate,
        )
        outcomes.append(outcome)
    return snapshot(engine, head), read_numbers(outcomes)


class Reference:
    """Plain torch in float64: a network, its SGD, a dense head, averaged batch statistics."""

    def __init__(self, kind: type[nn.Module]) -> None:
        self.net = toy.network(kind).double()
        self.running: dict[str, Tensor] = dict(self.net.named_buffers())
        for name, layer in list(self.net.named_children()):
            if isinstance(layer, BatchNorm1d | BatchNorm2d):
                plain = nn.BatchNorm1d if isinstance(layer, BatchNorm1d) else nn.BatchNorm2d
                # Momentum 1 leaves the statistics of the last forward in the buffers.
                setattr(self.net, name, plain(layer.num_features, momentum=1.0).double())
        self.optimizer = torch.optim.SGD(
            self.net.parameters(), lr=0.0, momentum=0.9, weight_decay=1e-2
        )
        self.head = DenseHead(
            toy.centres().double(),
            margin=CosFace(0.2),
            scale=8.0,
            learning_rate=0.0,
            weight_decay=1e-2,
        )

    def step(self, pieces: list[tuple[Tensor, Tensor]], rate: float) -> tuple[float, float]:
        """Train on one global batch in these pieces; the loss, and the norm of the gradient."""
        embeddings, statistics = [], []
        for image, _ in pieces:
            embeddings.append(self.net(image.double()))
            statistics.append({name: b.clone() for name, b in self.net.named_buffers()})
        embedding = torch.cat(embeddings)
        self.head.optimizer.param_groups[0]["lr"] = 2 * rate
        loss, gradient = self.head.step(embedding, torch.cat([label for _, label in pieces]))
        self.optimizer.zero_grad()
        embedding.backward(gradient)
        norm = nn.utils.clip_grad_norm_(self.net.parameters(), 0.5)
        self.optimizer.param_groups[0]["lr"] = rate
        self.optimizer.step()
        for name, running in self.running.items():
            if name.endswith("num_batches_tracked"):
                running += 1
            else:
                average = torch.stack([of_piece[name] for of_piece in statistics]).mean(0)
                running.lerp_(average, 0.1)
        return loss.item(), norm.item()

    def compare(self, found: dict) -> None:
        wanted = {name: p.detach().float() for name, p in self.net.named_parameters()}
        torch.testing.assert_close(found["parameters"], wanted, rtol=0.0, atol=ATOL)
        for name, running in self.running.items():
            close = {"rtol": 0.0, "atol": ATOL, "check_dtype": False}
            torch.testing.assert_close(found["buffers"][name], running, **close)
        for index, row in found["rows"].items():
            state = {"centre": self.head.centre[index], "momentum": self.head.momentum[index]}
            for name, value in state.items():
                torch.testing.assert_close(row[name], value.detach().float(), rtol=0.0, atol=ATOL)


def whole(step: int) -> list[tuple[Tensor, Tensor]]:
    """The global batch in one piece."""
    parts = toy.batches(step, range(M))
    return [(torch.cat([b.image for b in parts]), torch.cat([b.label for b in parts]))]


def micro(step: int) -> list[tuple[Tensor, Tensor]]:
    """The global batch in its micro-batches."""
    return [(batch.image, batch.label) for batch in toy.batches(step, range(M))]


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(("kind", "pieces"), [(toy.Plain, whole), (toy.Normalised, micro)])
def test_three_steps_equal_plain_torch_at_any_world_size(ranks, stage, kind, pieces):
    """Without BatchNorm one large batch, with it the same micro-batches; 4 of them on 1-3 ranks."""
    reference = Reference(kind)
    wanted = [reference.step(pieces(step), rate) for step, rate in enumerate(RATES)]
    assert min(norm for _, norm in wanted) > 0.5  # so that clipping is at work
    for world in (1, 2, 3):
        results = ranks(world).run(run, stage, kind, {})
        assert sum(len(found["rows"]) for found, _ in results) == toy.NUM_CLASSES
        for found, outcomes in results:
            reference.compare(found)
            assert outcomes == results[0][1]  # to the bit, on every rank
            for outcome, (loss, norm) in zip(outcomes, wanted, strict=True):
                assert outcome["loss"] == pytest.approx(loss, abs=ATOL)
                assert outcome["gradient_norm"] == pytest.approx(norm, rel=ATOL)
                assert (outcome["committed"], outcome["skipped"]) == (1.0, 0.0)


@pytest.mark.parametrize("stage", STAGES)
def test_replaying_forwards_changes_no_bit_and_records_statistics_once(ranks, stage):
    for precision in ("fp32", "bf16"):
        changes = {"precision": precision}
        kept = ranks(3).run(run, stage, toy.Normalised, changes)
        replayed = ranks(3).run(run, stage, toy.Normalised, {**changes, "recompute": True})
        torch.testing.assert_close(replayed, kept, rtol=0.0, atol=0.0)


def poisoned(stage: Stage, where: str) -> tuple[dict, dict, dict[str, float]]:
    """One good step, then one in which rank 1's images or gradients are not finite."""
    engine, head = make(stage, toy.Normalised), toy.head()
    topology = engine.topology
    mine = share(topology.rank, topology.world_size)
    outcome, before = None, {}
    for step in range(2):
        before = snapshot(engine, head)
        batches = toy.batches(step, mine)
        if step == 1 and topology.rank == 1:
            if where == "images":
                batches[0].image[0] = torch.nan
            else:
                convolution = engine.module.get_submodule("0")
                convolution.register_forward_hook(
                    lambda _m, _i, output: output.register_hook(lambda g: g * torch.inf) and None
                )
        outcome = train_step(
            engine,
            head,
            batches,
            micro_batches=mine,
            total_micro_batches=M,
            learning_rate=0.1,
        )
    assert outcome is not None
    return before, snapshot(engine, head), read_numbers([outcome])[0]


@pytest.mark.parametrize("stage", STAGES)
def test_a_bad_image_on_one_rank_moves_nothing_on_any(ranks, stage):
    for before, after, outcome in ranks(2).run(poisoned, stage, "images"):
        assert (outcome["committed"], outcome["skipped"]) == (0.0, 1.0)
        torch.testing.assert_close(after, before, rtol=0.0, atol=0.0)


@pytest.mark.parametrize("stage", STAGES)
def test_a_bad_gradient_in_one_backbone_stops_all_backbones_and_no_head(ranks, stage):
    for before, after, outcome in ranks(2).run(poisoned, stage, "gradients"):
        assert (outcome["committed"], outcome["skipped"]) == (1.0, 1.0)
        rows_before, rows_after = before.pop("rows"), after.pop("rows")
        assert before.pop("scalars")["step"] + 1 == after.pop("scalars")["step"]
        torch.testing.assert_close(after, before, rtol=0.0, atol=0.0)
        assert all(
            not torch.equal(rows_before[i]["centre"], rows_after[i]["centre"]) for i in rows_before
        )


def phases() -> dict[str, float]:
    engine, head = make(0), toy.head()
    outcome = train_step(
        engine,
        head,
        toy.batches(0, range(M)),
        micro_batches=range(M),
        total_micro_batches=M,
        learning_rate=0.1,
    )
    return outcome.seconds()


def test_a_step_is_timed_by_phase(ranks):
    (seconds,) = ranks(1).run(phases)
    assert list(seconds) == ["forward", "head", "backward", "optimizer"]
    assert all(value > 0 for value in seconds.values())
