"""The engine against plain torch, on ZeRO 0-3.

Float32 tolerance: sums over ranks are taken in another order than in one process, so a gradient of
size 1 differs by a few times 2^-24 = 6e-8, and three steps at learning rate 0.1 keep that below
1e-6. DeepSpeed cannot run the same in float64: it sums over ranks in float32.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from tests.trainer import toy
from trainer import engine as engine_module
from trainer.engine import Engine

Stage = Literal[0, 1, 2, 3]
STAGES: tuple[Stage, ...] = (0, 1, 2, 3)
ATOL = 1e-6
OPTIMIZERS = {
    "sgd": {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 1e-2},
    "adamw": {"optimizer": "adamw", "weight_decay": 1e-2},
}
RATES = (0.1, 0.05, 0.02)


def make(stage: Stage, kind: type[nn.Module] = toy.Plain, **changes) -> Engine:
    engine_module.PERSISTENT_NUMEL = 0  # ZeRO 3 cuts even these small parameters
    arguments = {**OPTIMIZERS["sgd"], **changes}
    return Engine(toy.network(kind), zero_stage=stage, topology=toy.topology(), **arguments)


def parameters(engine: Engine) -> dict[str, Tensor]:
    state = engine.read_state(keep=True)
    assert state is not None
    return state.parameters


def loss_of(embedding: Tensor) -> Tensor:
    return (embedding.square().sum(1) - embedding[:, 0]).mean()


def train(stage: Stage, steps: int, changes: dict) -> tuple[dict[str, Tensor], list[float]]:
    engine = make(stage, **changes)
    topology = engine.topology
    norms = []
    for step in range(steps):
        image = toy.images(6, seed=step).chunk(topology.world_size)[topology.rank]
        engine.backward(loss_of(engine.forward(image)))
        done = engine.step(RATES[step])
        assert done.applied
        norms.append(done.gradient_norm.item())
    return parameters(engine), norms


def train_plainly(world: int, steps: int, optimizer: str, clip_norm: float | None):
    net = toy.network(toy.Plain)
    made = {
        "sgd": lambda p: torch.optim.SGD(p, lr=0.0, momentum=0.9, weight_decay=1e-2),
        "adamw": lambda p: torch.optim.AdamW(p, lr=0.0, weight_decay=1e-2),
    }[optimizer](net.parameters())
    norms = []
    for step in range(steps):
        made.param_groups[0]["lr"] = RATES[step]
        made.zero_grad()
        pieces = toy.images(6, seed=step).chunk(world)
        torch.stack([loss_of(net(piece)) for piece in pieces]).mean().backward()
        norm = nn.utils.clip_grad_norm_(net.parameters(), clip_norm or torch.inf)
        norms.append(norm.item())
        made.step()
    return {name: p.detach() for name, p in net.named_parameters()}, norms


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_three_steps_equal_torch_on_the_mean_gradient(ranks, stage, optimizer):
    for world in (1, 2, 3):
        wanted, wanted_norms = train_plainly(world, 3, optimizer, clip_norm=0.3)
        assert min(wanted_norms) > 0.3  # so that clipping is at work
        changes = {**OPTIMIZERS[optimizer], "clip_norm": 0.3}
        for found, norms in ranks(world).run(train, stage, 3, changes):
            torch.testing.assert_close(found, wanted, rtol=0.0, atol=ATOL)
            torch.testing.assert_close(norms, wanted_norms, rtol=1e-5, atol=0.0)


def skip_between(stage: Stage, bad_rank: int | None) -> tuple[bool, dict, dict, dict]:
    engine = make(stage, clip_norm=1.0)
    topology = engine.topology
    before = parameters(engine)
    skipped = False
    for step in range(3):
        if bad_rank is not None:
            bad = loss_of(engine.forward(toy.images(2, seed=9)))
            engine.backward(bad * (torch.nan if topology.rank == bad_rank else 1.0))
            skipped = not engine.step(0.1).applied
            if step == 0:
                torch.testing.assert_close(parameters(engine), before, rtol=0.0, atol=0.0)
        image = toy.images(6, seed=step).chunk(topology.world_size)[topology.rank]
        engine.backward(loss_of(engine.forward(image)))
        assert engine.step(RATES[step]).applied
    state = engine.read_state(keep=True)
    assert state is not None
    return skipped, before, state.parameters, state.optimizer


@pytest.mark.parametrize("stage", STAGES)
def test_a_nan_gradient_on_one_rank_destroys_nothing_and_leaves_no_trace(ranks, stage):
    plain = ranks(2).run(skip_between, stage, None)
    skipping = ranks(2).run(skip_between, stage, 1)
    for (_, _, *wanted), (skipped, before, *found) in zip(plain, skipping, strict=True):
        assert skipped
        assert any(not torch.equal(before[name], found[0][name]) for name in before)
        torch.testing.assert_close(found, wanted, rtol=0.0, atol=0.0)


def refuse(stage: Stage) -> bool:
    engine = make(stage)
    before = parameters(engine)
    engine.backward(loss_of(engine.forward(toy.images(2, seed=1))))
    done = engine.step(0.1, allowed=torch.zeros((), dtype=torch.bool))
    torch.testing.assert_close(parameters(engine), before, rtol=0.0, atol=0.0)
    return done.applied


def test_a_step_that_is_not_allowed_changes_nothing(ranks):
    for stage in STAGES:
        assert ranks(2).run(refuse, stage) == [False, False]


@pytest.mark.parametrize("stage", STAGES)
def test_replaying_forwards_gives_the_same_bits(ranks, stage):
    kept = ranks(2).run(train, stage, 2, {"kind": toy.Normalised})
    replayed = ranks(2).run(train, stage, 2, {"kind": toy.Normalised, "recompute": True})
    torch.testing.assert_close(replayed, kept, rtol=0.0, atol=0.0)


def skewness(embedding: Tensor) -> Tensor:
    """A loss that a final BatchNorm does not make constant."""
    return embedding.pow(3).mean()


def bf16_gradient(stage: Stage) -> tuple[dict[str, Tensor], set[torch.dtype], torch.dtype]:
    """One SGD step at rate 1 without momentum moves by the gradient."""
    engine = make(stage, kind=toy.Normalised, precision="bf16", momentum=0.0, weight_decay=0.0)
    topology = engine.topology
    seen: set[torch.dtype] = set()
    for module in engine.module.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda _m, _i, output: seen.add(output.dtype))
    before = parameters(engine)
    image = toy.images(16, seed=3).chunk(topology.world_size)[topology.rank]
    embedding = engine.forward(image)
    engine.backward(skewness(embedding))
    assert engine.step(1.0).applied
    after = parameters(engine)
    return {name: before[name] - after[name] for name in before}, seen, embedding.dtype


@pytest.mark.parametrize("stage", STAGES)
def test_bf16_errs_no_more_than_plain_autocast(ranks, stage):
    """Apple's rule: our error against float64 is at most that of the plain bf16 network.

    The tolerance, 2^-8 of the gradient's size, is one bf16 rounding: the mean over ranks adds none
    (it is in float32), but each rank's products are rounded in another order.
    """

    def gradient(net: nn.Module, image: Tensor, *, autocast: bool) -> dict[str, Tensor]:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            embeddings = [net(piece) for piece in image.chunk(2)]
        single = torch.promote_types(embeddings[0].dtype, torch.float32)
        torch.stack([skewness(e.to(single)) for e in embeddings]).mean().backward()
        return {name: p.grad.double() for name, p in net.named_parameters() if p.grad is not None}

    image = toy.images(16, seed=3)
    exact = gradient(toy.network(toy.Normalised).double(), image.double(), autocast=False)
    naive = gradient(toy.network(toy.Normalised), image, autocast=True)
    for found, dtypes, embedding_dtype in ranks(2).run(bf16_gradient, stage):
        assert dtypes == {torch.bfloat16}
        assert embedding_dtype == torch.float32
        for name, value in exact.items():
            error = (found[name].double() - value).abs().max()
            allowed = (naive[name] - value).abs().max() + 2**-8 * value.abs().max()
            assert error <= allowed, name


def evaluated(stage: Stage) -> tuple[Tensor, bool]:
    engine = make(stage, kind=toy.Normalised)
    before = engine.read_state(keep=True)
    embedding = engine.evaluate(toy.images(4, seed=5))
    assert embedding.grad_fn is None
    after = engine.read_state(keep=True)
    torch.testing.assert_close(vars(after), vars(before), rtol=0.0, atol=0.0)
    return embedding, engine.module.training


def test_evaluation_uses_running_statistics_and_leaves_no_trace(ranks):
    wanted = toy.network(toy.Normalised).eval()(toy.images(4, seed=5)).detach()
    for stage in STAGES:
        for embedding, training in ranks(2).run(evaluated, stage):
            torch.testing.assert_close(embedding, wanted, rtol=0.0, atol=ATOL)
            assert training


def test_training_compiles_nothing_and_says_nothing(tmp_path: Path):
    """In a fresh process, with a compiler that fails."""
    program = f"""
import torch, torch.distributed as dist
dist.init_process_group("gloo", init_method="file://{tmp_path}/rendezvous", rank=0, world_size=1)
from tests.trainer import test_engine
for stage in test_engine.STAGES:
    test_engine.train(stage, 2, {{}})
dist.destroy_process_group()
"""
    extensions = tmp_path / "extensions"
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "TORCH_EXTENSIONS_DIR": str(extensions),
        "CXX": "/bin/false",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not extensions.exists() or not any(extensions.iterdir())
