"""Training against a pool: the step, its checkpoint, and a short run from a run file."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from data_pipeline.synthetic import synthesize
from sharded_fc.margins import CosFace
from sharded_fc.pool import PoolHead
from tests.sharded_fc.pool.literal import LiteralPool
from tests.trainer import toy
from tests.trainer.test_engine import Stage, make
from tests.trainer.test_step import M, share
from trainer import build, checkpoint, config, run_folder
from trainer.errors import RunError, RunFileError
from trainer.gallery import Gallery
from trainer.launch import run_local
from trainer.metrics import HISTORY, read_lines
from trainer.pool import two_views
from trainer.step import read_numbers, train_step

SLOTS = 5
RATES = (0.1, 0.05, 0.02, 0.02)


class Run:
    """Engine, gallery and pool of this rank."""

    def __init__(self, stage: Stage = 0, **changes: Any) -> None:
        self.engine = make(stage, toy.Normalised, **changes)
        self.gallery = Gallery(
            toy.network(toy.Normalised),
            self.engine,
            momentum=0.9,
            batch_norm="own_batch",
            precision=changes.get("precision", "fp32"),
        )
        self.pool = PoolHead(
            toy.NUM_CLASSES, toy.EMBEDDING_DIM, slots=SLOTS, margin=CosFace(0.2), scale=8.0
        )

    def train(self, steps: range) -> list[dict[str, float]]:
        topology = self.engine.topology
        mine = share(topology.rank, topology.world_size)
        outcomes = [
            train_step(
                self.engine,
                self.pool,
                toy.batches(step, mine),
                micro_batches=mine,
                total_micro_batches=M,
                learning_rate=RATES[step],
                gallery=self.gallery,
            )
            for step in steps
        ]
        return read_numbers(outcomes)

    def state(self) -> dict[str, Any]:
        found = self.engine.read_state(keep=True)
        assert found is not None
        blocks = list(self.pool.rows())
        columns = {
            first + place: {name: column[place] for name, column in block.items()}
            for first, block in blocks
            for place in range(len(block["row0"]))
        }
        gallery = self.gallery.read_state()
        return {**vars(found), "pool": columns, "scalars": self.pool.state(), "gallery": gallery}


def train(stage: Stage, changes: dict[str, Any]) -> list[dict[str, float]]:
    return Run(stage, **changes).train(range(4))


def train_plainly() -> list[float]:
    """The losses of four steps of plain torch in float64, with the literal pool."""
    nets = [toy.network(toy.Normalised).double().train() for _ in range(2)]
    probe, gallery = nets
    optimizer = torch.optim.SGD(probe.parameters(), lr=0.0, momentum=0.9, weight_decay=1e-2)
    feature = torch.zeros(2, SLOTS, toy.EMBEDDING_DIM, dtype=torch.float64)
    pool = LiteralPool(feature, scale=8.0, margin=("cosface", 0.2), masked=True)
    losses = []
    for step, rate in enumerate(RATES):
        with torch.no_grad():
            for mean, parameter in zip(gallery.parameters(), probe.parameters(), strict=True):
                mean.lerp_(parameter, 0.1)
        batches = toy.batches(step, range(M))
        views: list[tuple[list[Tensor], ...]] = [([], [], []), ([], [], [])]
        for batch in batches:
            image = batch.image.double()
            columns = (probe(image), gallery(image).detach(), batch.label)
            for which, view in enumerate(views):
                for column, values in zip(view, columns, strict=True):
                    column.append(values.chunk(2)[which])
        first, second = (tuple(torch.cat(column) for column in view) for view in views)
        loss = pool.step(first, second)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
    return losses


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_four_steps_equal_plain_torch_at_any_world_size(ranks, stage: Stage):
    """The losses are near 30 and differ by 1e-6 of that, which is float32's rounding, 6e-8, after
    three steps at scale 8; a gallery that stood still changes the third digit.
    """
    wanted = train_plainly()
    for world in (1, 2, 3):
        results = ranks(world).run(train, stage, {})
        for outcomes in results:
            assert outcomes == results[0]  # to the bit, on every rank
            assert [o["loss"] for o in outcomes] == pytest.approx(wanted, rel=1e-5)
            assert [o["skipped"] for o in outcomes] == [0.0] * 4


def test_in_bfloat16_losses_stay_close_to_float32(ranks):
    """Products of bfloat16 round to 2^-9, which the scale 8 makes 2e-2 of a logit."""
    (wide,), (narrow,) = (
        ranks(1).run(train, 0, {"precision": precision}) for precision in ("fp32", "bf16")
    )
    for one, other in zip(wide, narrow, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], abs=0.5)
        assert one["loss"] != other["loss"]


def save(run: Run, folder: Path, step: int) -> None:
    checkpoint.save(
        folder,
        step=step,
        samples_seen=0,
        config={},
        data={},
        engine=run.engine,
        head=run.pool,
        gallery=run.gallery,
        topology=run.engine.topology,
        keep=2,
    )


def load(run: Run, folder: Path) -> None:
    path, refused = checkpoint.newest(folder, topology=run.engine.topology)
    assert path is not None
    assert refused == []
    checkpoint.load(
        path,
        engine=run.engine,
        head=run.pool,
        gallery=run.gallery,
        topology=run.engine.topology,
    )


def uninterrupted(stage: Stage, folder: Path) -> tuple[list, dict]:
    run = Run(stage)
    run.train(range(2))
    save(run, folder, 2)
    return run.train(range(2, 4)), run.state()


def resumed(stage: Stage, folder: Path) -> tuple[list, dict]:
    run = Run(stage)
    load(run, folder)
    return run.train(range(2, 4)), run.state()


@pytest.mark.parametrize("stage", [0, 3])
def test_a_resumed_run_is_equal_to_the_bit(ranks, tmp_path: Path, stage: Stage):
    for world in (1, 2):
        folder = tmp_path / str(world)
        through = ranks(world).run(uninterrupted, stage, folder)
        again = ranks(world).run(resumed, stage, folder)
        for (losses, state), (later, found) in zip(through, again, strict=True):
            assert later == losses
            torch.testing.assert_close(found, state, rtol=0.0, atol=0.0)


def test_a_checkpoint_goes_to_another_number_of_ranks(ranks, tmp_path: Path):
    """The losses that follow differ by the order of sums alone."""
    ranks(2).run(uninterrupted, 0, tmp_path)
    (wanted, _), *_ = ranks(2).run(resumed, 0, tmp_path)
    for later, _ in ranks(3).run(resumed, 0, tmp_path):
        for one, other in zip(later, wanted, strict=True):
            assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)


def test_the_two_views_are_the_halves_of_each_micro_batch():
    label = torch.arange(12)
    embedding = label.float().unsqueeze(1)
    first, second = two_views(embedding, 2 * embedding, label, sizes=[4, 8])
    assert first.label.tolist() == [0, 1, 4, 5, 6, 7]
    assert second.label.tolist() == [2, 3, 8, 9, 10, 11]
    assert torch.equal(second.gallery.squeeze(1), 2.0 * second.label)


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pool") / "faces"
    synthesize(path, identities=9, images=3, size=32, seed=1)
    return path


def tree(faces: Path, pool: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    return {
        "name": "pooled",
        "steps": 4,
        "runs": str(faces.parent / "runs"),
        "data": {"path": str(faces), "image_size": 32, "order": {"name": "pairs"}},
        "backbone": {"name": "facenet_small", "embedding_dim": 16},
        "head": {"scale": 16.0, "pool": {"slots": 6} | (pool or {})},
        "batch": {"micro_batches": 2, "micro_batch_size": 8},
        "every": {"log": 2, "save": 4},
        "cluster": {"workers": 2},
        **changes,
    }


def test_a_run_file_with_a_pool_trains_and_tells_how_full_it_is(faces: Path):
    run = config.from_tree(tree(faces), source="test")
    folder = run_folder.prepare(run)
    assert run_local(run, folder) == "finished"
    records = list(read_lines(folder / HISTORY))
    assert [sorted(record["margin"]) for record in records] == [
        ["filled", "in_pool", "outside_loss"]
    ] * 4
    assert records[-1]["margin"]["filled"] == 1.0
    assert [record["skipped"] for record in records] == [[]] * 4
    last = folder / "checkpoints/step-000000004"
    assert (last / "gallery.safetensors").is_file()
    content = json.loads((last / "manifest.json").read_text())
    assert content["head"]["slots"] == 6
    assert content["head"]["num_inserted"] == 4 * 8  # half of each global batch


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"head": {"pool": {"slots": 6}, "sub_centres": 2}}, "no use for sub_centres"),
        ({"head": {"pool": {"slots": 6}, "weight_decay": 0.0}}, "no use for weight_decay"),
        ({"head": {"pool": {"slots": 1}}}, "head.pool.slots"),
        ({"data": {"path": "x"}}, "use data.order: {name: pairs}"),
        (
            {
                "data": {
                    "path": "x",
                    "order": {"name": "pairs"},
                    "mix": {"others": [{"path": "y"}]},
                }
            },
            "disjoint or shared",
        ),
    ],
)
def test_a_run_file_that_does_not_go_with_a_pool_is_refused(changes: dict, told: str):
    with pytest.raises(RunFileError) as caught:
        config.from_tree(tree(Path("x"), **changes), source="test")
    assert told in str(caught.value)


def refused(run: dict[str, Any]) -> str:
    with pytest.raises(RunError) as caught:
        build.build(config.from_tree(run, source="test"), toy.topology())
    return str(caught.value)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"pool": {"slots": 100}}, "head.pool: 100 slots for 9 identities"),
        ({"head": {"pool": {"slots": 6}, "margin": {"name": "adaface"}}}, "AdaFace needs more"),
    ],
)
def test_a_pool_that_cannot_be_is_refused_by_every_rank(
    ranks, faces: Path, changes: dict[str, Any], told: str
):
    for message in ranks(2).run(refused, tree(faces, **changes)):
        assert told in message
