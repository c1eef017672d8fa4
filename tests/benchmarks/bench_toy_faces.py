"""What sampling, correction, the conflict filter and the feature pool do on made-up faces.

    python -m tests.benchmarks.bench_toy_faces [--record] [--folder runs/toy-faces]
        [--identities 4000] [--images 8] [--size 32] [--unseen 400] [--pairs 6000] [--steps 1200]
        [--batch 128] [--threads 1]

The settings of `bench_toy_sampling`, one seed, through `trainer` as `facescale train` runs it, on
faces of `facescale data synth` and verified on people never seen. The numbers below were fixed
before the first run that counts. Everything is kept in the folder: what was stopped goes on from
its last checkpoint, what is finished is not run again.

"Equal" means that 95 % intervals, of the drawing of pairs alone, overlap. It takes
some 60 minutes of a core.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_pipeline.index import Dataset
from data_pipeline.keyed import uniform
from data_pipeline.pack import pack
from data_pipeline.pairs import pack_drawn_pairs
from data_pipeline.synthetic import SyntheticSource
from tests.benchmarks.bench_toy_sampling import SETTINGS, Setting
from tests.benchmarks.heads import parser, show
from tests.benchmarks.record import Cell
from trainer import config, run_folder
from trainer.launch import run_local
from trainer.metrics import read_lines

MARGIN, SCALE, LEARNING_RATE, WARMUP_STEPS = 0.2, 32, 0.1, 100  # as the recipes for LFW3D
CONFLICT_COSINE = 0.4  # arXiv:2203.15565
EMBEDDING_DIM = 128
SEED = 0
FIRST_UNSEEN = 1_000_000
FLIPPED = 0.4


@dataclass(frozen=True, kw_only=True)
class Flipped:
    """The pictures of a source, of which a share are said to be somebody else's."""

    source: SyntheticSource
    share: float

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """(whose picture it is said to be, whose and which it is)."""
        for identity, image in self.source:
            key = ("flipped", self.source.seed, int(identity), int(image))
            wrong, somebody = uniform(*key, 0), uniform(*key, 1)
            said = int(somebody * self.source.identities) if wrong < self.share else int(identity)
            yield str(said), f"{identity}-{image}"

    def read(self, identity: str, image: str) -> bytes:
        """The picture, whatever is said of it."""
        whose, which = image.split("-")
        return self.source.read(whose, which)

    def counts(self) -> Mapping[str, int]:
        """Nothing is ever passed over."""
        return {}


def main() -> None:
    """Draw, train and verify what is missing; the table."""
    flags = parser(
        __doc__,
        identities=4_000,
        images=8,
        size=32,
        unseen=400,
        pairs=6_000,
        steps=1_200,
        batch=128,
    )
    flags.set_defaults(threads=1)
    flags.add_argument("--folder", type=Path, default=Path("runs/toy-faces"))
    options = flags.parse_args()
    sizes = {name: getattr(options, name) for name in ("identities", "images", "size", "unseen")}
    draw(options.folder, **sizes, pairs=options.pairs)
    found = {}
    for setting in SETTINGS:
        found[setting.name] = trained(
            setting, options.folder, size=options.size, steps=options.steps, batch=options.batch
        )
        print(setting.name, found[setting.name]["accuracy"], flush=True)
    notes = [", ".join(f"{name} {size}" for name, size in sizes.items())]
    notes += [f"steps {options.steps}, batch {options.batch}, {options.pairs} pairs, seed {SEED}"]
    notes += [f"facenet_small, width {EMBEDDING_DIM}, CosFace {MARGIN}, scale {SCALE}"]
    show("toy_faces", table(found), notes, options)


def draw(folder: Path, *, identities: int, images: int, size: int, unseen: int, pairs: int) -> None:
    """The people to train on, the same with some labels wrong, and pairs of others."""
    people = SyntheticSource(identities=identities, images=images, size=size, seed=SEED)
    others = SyntheticSource(
        identities=unseen, images=images, size=size, seed=SEED, first_identity=FIRST_UNSEEN
    )
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "people").exists():
        pack(people, folder / "people", seed=SEED, show_progress=True)
    if not (folder / "flipped").exists():
        wrong = Flipped(source=people, share=FLIPPED)
        pack(wrong, folder / "flipped", seed=SEED, show_progress=True)
    if not (folder / "unseen").exists():
        pack_drawn_pairs(others, folder / "unseen", num_pairs=pairs, seed=SEED)


def trained(setting: Setting, folder: Path, *, size: int, steps: int, batch: int) -> dict[str, Any]:
    """The evaluation at a run's end; the run goes on from where it is."""
    data = folder / ("flipped" if setting.flipped else "people")
    run = config.from_tree(
        {
            "name": re.sub("[^a-z0-9]+", "-", setting.name.lower()),
            "runs": str(folder / "runs"),
            "steps": steps,
            "seed": SEED,
            "data": {
                "path": str(data),
                "image_size": size,
                "augment": {"flip": 0.5},
                "order": {"name": "pairs" if setting.pool_share else "shuffled"},
            },
            "backbone": {"name": "facenet_small", "embedding_dim": EMBEDDING_DIM},
            "head": head_of(setting, Dataset.open(data).num_identities),
            "optimizer": {"learning_rate": LEARNING_RATE},
            "schedule": {"name": "polynomial", "warmup_steps": min(WARMUP_STEPS, steps // 2)},
            "batch": {"micro_batches": 2, "micro_batch_size": batch // 2},
            "every": {"log": 50, "save": 200},
            "checkpoint": {"keep": 1},
            "verify": [{"name": "unseen", "path": str(folder / "unseen")}],
        },
        source="bench_toy_faces",
    )
    evaluations = run.folder / "metrics" / "evaluations.jsonl"
    if not evaluations.exists():
        run_local(run, run_folder.prepare(run))
    return list(read_lines(evaluations))[-1]


def head_of(setting: Setting, identities: int) -> dict[str, Any]:
    """The head's part of the run file."""
    head: dict[str, Any] = {"margin": {"name": "cosface", "margin": MARGIN}, "scale": SCALE}
    if setting.pool_share:
        return head | {"pool": {"slots": round(setting.pool_share * identities)}}
    if setting.rate is not None:
        head["sampling"] = {
            "rate": setting.rate,
            "correction": setting.correction,
            "hard_share": setting.hard_share,
        }
    if setting.conflict_filter:
        head |= {"conflict_cosine": CONFLICT_COSINE, "ignore_conflicts": True}
    return head


def table(found: Mapping[str, dict[str, Any]]) -> list[dict[str, Cell]]:
    """For each setting its accuracy, and whether it equals that it varies."""
    rows: list[dict[str, Cell]] = []
    base = {bool(setting.flipped): setting.name for setting in reversed(SETTINGS)}
    for setting in SETTINGS:
        one, full = found[setting.name], found[base[bool(setting.flipped)]]
        (low, high), (lowest, highest) = one["interval"], full["interval"]
        rows.append(
            {
                "setting": setting.name,
                "accuracy, %": 100 * one["accuracy"],
                "95 %": f"{100 * low:.2f} to {100 * high:.2f}",
                "TAR at FAR 1e-2, %": 100 * one["tar"]["1e-2"],
                "equals full": "yes" if low <= highest and lowest <= high else "no",
            }
        )
    return rows


if __name__ == "__main__":
    main()
