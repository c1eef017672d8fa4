"""What sampling, correction, the conflict filter and the feature pool do to accuracy, on a toy.

    python -m tests.benchmarks.bench_toy_sampling [--record] [--runs PATH] [--identities 20000]
        [--per-identity 10] [--unseen 4000] [--steps 1500] [--batch 256] [--dim 64] [--threads 1]

A small network learns to recognise made-up people (`toy.py`) through the heads' public interface;
verified is on people it never saw. Every setting is run with three seeds, which draw the people,
the network and the order. The numbers below were fixed before the first run that counts. Each run
adds a line to a file, and what is in it is not run again: started anew, this goes on.

With positives only nothing is drawn, so there is nothing to correct: that setting is run once.
"Equal" means that 95 % intervals overlap; they are Student's, of the mean over seeds. No times.
"""

import copy
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from torch import Tensor, nn

from sharded_fc import ShardedHead
from sharded_fc.margins import CosFace
from sharded_fc.pool import PoolHead, PoolView
from sharded_fc.sampling import Sampling
from tests.benchmarks.heads import parser, show
from tests.benchmarks.record import RESULTS, Cell, commit
from tests.benchmarks.toy import People, draw_people, make_network, true_accepts

SEEDS = (0, 1, 2)
STUDENT = 4.303  # the 97.5 % quantile for three seeds, of two degrees of freedom
MARGIN, SCALE = 0.2, 32.0  # with 0.4 and 64, wrong labels are not learnt from in so few steps
CONFLICT_COSINE = 0.4  # arXiv:2203.15565
GALLERY_MOMENTUM = 0.99  # arXiv:2105.10375
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 0.1, 0.9, 5e-4
WARMUP_STEPS = 100

Takes = Callable[[Tensor], Tensor]  # sample numbers to a loss


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A way to train; `rate` None compares with all classes, 0 with the samples' own alone."""

    name: str
    rate: float | None = None
    correction: str = "none"
    hard_share: float = 0.0
    flipped: float = 0.0
    conflict_filter: bool = False
    pool_share: float = 0.0


SETTINGS = (
    Setting(name="full"),
    Setting(name="0.3", rate=0.3),
    Setting(name="0.3, logq", rate=0.3, correction="logq"),
    Setting(name="0.1", rate=0.1),
    Setting(name="0.1, logq", rate=0.1, correction="logq"),
    Setting(name="0.1, a fifth mined", rate=0.1, hard_share=0.2),
    Setting(name="0.1, a fifth mined, logq", rate=0.1, hard_share=0.2, correction="logq"),
    Setting(name="positives only", rate=0.0),
    Setting(name="pool of a tenth", pool_share=0.1),
    Setting(name="40 % flipped: full", flipped=0.4),
    Setting(name="40 % flipped: full, filter", flipped=0.4, conflict_filter=True),
    Setting(name="40 % flipped: 0.1", rate=0.1, flipped=0.4),
    Setting(name="40 % flipped: 0.1, filter", rate=0.1, flipped=0.4, conflict_filter=True),
)


def main() -> None:
    """Run what is missing; the table, once all is there."""
    sizes = {"identities": 20_000, "per_identity": 10, "unseen": 4_000, "steps": 1_500}
    sizes |= {"batch": 256, "dim": 64}
    flags = parser(__doc__, **sizes)
    flags.set_defaults(threads=1)
    flags.add_argument("--runs", type=Path, default=RESULTS / "toy_sampling_runs.jsonl")
    options = flags.parse_args()
    torch.set_num_threads(options.threads)
    fixed = {name: getattr(options, name) for name in sizes}
    done = done_runs(options.runs, fixed)
    for seed in SEEDS:
        wanted = [setting for setting in SETTINGS if (setting.name, seed) not in done]
        if not wanted:
            continue
        people, unseen = draw_people(
            options.identities, options.per_identity, unseen=options.unseen, seed=seed
        )
        for setting in wanted:
            began = time.perf_counter()
            found = run(setting, people, unseen, fixed, seed=seed)
            line = {"setting": asdict(setting), "seed": seed, **found, "sizes": fixed}
            line |= {"seconds": round(time.perf_counter() - began, 1), "commit": commit()}
            with options.runs.open("a") as file:
                file.write(json.dumps(line) + "\n")
            done[setting.name, seed] = line
            print(f"{setting.name}, seed {seed}: {found}, {line['seconds']} s", flush=True)
    commits = sorted({line["commit"] for line in done.values()})
    notes = [", ".join(f"{name.replace('_', ' ')} {size}" for name, size in fixed.items())]
    notes.append(f"CosFace {MARGIN}, scale {SCALE:g}, seeds {SEEDS}")
    notes.append(f"runs at commit {', '.join(commits)}")
    show("toy_sampling", table(done), notes, options)


def done_runs(path: Path, sizes: dict[str, int]) -> dict[tuple[str, int], dict[str, Any]]:
    """The lines of a file by setting and seed, of those with these sizes and settings."""
    if not path.exists():
        return {}
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    settings = [asdict(setting) for setting in SETTINGS]
    return {
        (line["setting"]["name"], line["seed"]): line
        for line in lines
        if line["sizes"] == sizes and line["setting"] in settings
    }


def table(done: dict[tuple[str, int], dict[str, Any]]) -> list[dict[str, Cell]]:
    """For each setting the mean, its interval, and how it compares with that it varies."""
    means, rows = {}, []
    for setting in SETTINGS:
        accepted = [done[setting.name, seed]["true_accepts"] for seed in SEEDS]
        half = STUDENT * stdev(accepted) / len(SEEDS) ** 0.5
        base = SETTINGS[0].name
        if setting.flipped:
            base = next(other.name for other in SETTINGS if other.flipped)
        means[setting.name] = (mean(accepted), half, accepted)
        middle, width, reference = means[base]
        less = [a - b for a, b in zip(accepted, reference, strict=True)]
        equal = abs(mean(accepted) - middle) <= half + width
        rows.append(
            {
                "setting": setting.name,
                "accepted, %": 100 * mean(accepted),
                "95 %, +-": 100 * half,
                "each seed, %": " ".join(f"{100 * one:.2f}" for one in accepted),
                f"less {SETTINGS[0].name}, %": 100 * mean(less),
                "+-": 100 * STUDENT * stdev(less) / len(SEEDS) ** 0.5,
                "equal": "yes" if equal else "no",
            }
        )
    return rows


def run(
    setting: Setting, people: People, unseen: People, sizes: dict[str, int], *, seed: int
) -> dict[str, float]:
    """Train once; what is accepted of people never seen, before and after, and the last losses."""
    network = make_network(sizes["dim"], seed=seed)
    before = true_accepts(network, unseen)
    if setting.flipped:
        people = people.flipped(setting.flipped, seed=seed)
    head, take = (with_pool if setting.pool_share else with_centres)(
        setting, network, people, sizes, seed=seed
    )
    optimizer = torch.optim.SGD(
        network.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
    )
    losses = []
    batches = people.batches(sizes["batch"], seed=seed)
    network.train()
    for step in range(sizes["steps"]):
        rate = LEARNING_RATE * min(1.0, (step + 1) / WARMUP_STEPS)
        rate *= (1 - step / sizes["steps"]) ** 2  # the recipes' polynomial
        optimizer.param_groups[0]["lr"] = rate
        if isinstance(head, ShardedHead):
            head.learning_rate = rate
        loss = take(next(batches))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return {
        "true_accepts": true_accepts(network, unseen),
        "untrained": before,
        "last_loss": mean(losses[-50:]),
    }


def with_centres(
    setting: Setting, network: nn.Module, people: People, sizes: dict[str, int], *, seed: int
) -> tuple[ShardedHead, Takes]:
    """A head with a centre for everybody, and what it makes of some samples."""
    sampling = None
    if setting.rate is not None:
        sampling = Sampling(
            rate=setting.rate,
            correction="logq" if setting.correction == "logq" else "none",
            hard_share=setting.hard_share,
        )
    head = ShardedHead(
        people.identities,
        sizes["dim"],
        margin=CosFace(MARGIN),
        scale=SCALE,
        learning_rate=LEARNING_RATE,
        momentum=MOMENTUM,
        weight_decay=WEIGHT_DECAY,
        sampling=sampling,
        conflict_cosine=CONFLICT_COSINE if setting.conflict_filter else None,
        ignore_conflicts=setting.conflict_filter,
        seed=seed,
    )

    def take(sample: Tensor) -> Tensor:
        return head(network(people.observation[sample]), people.label[sample]).loss

    return head, take


def with_pool(
    setting: Setting, network: nn.Module, people: People, sizes: dict[str, int], *, seed: int
) -> tuple[PoolHead, Takes]:
    """A pool of some identities' features: half of a batch in pairs of somebody, half as it comes.

    The gallery normalises by its own batch, as published.
    """
    slots = round(setting.pool_share * people.identities)
    head = PoolHead(
        people.identities, sizes["dim"], slots=slots, margin=CosFace(MARGIN), scale=SCALE
    )
    gallery = copy.deepcopy(network).requires_grad_(requires_grad=False).train()
    generator = torch.Generator().manual_seed(seed)

    def take(sample: Tensor) -> Tensor:
        with torch.no_grad():
            for ours, theirs in zip(gallery.parameters(), network.parameters(), strict=True):
                ours.lerp_(theirs, 1 - GALLERY_MOMENTUM)
        quarter = len(sample) // 4
        identity = torch.randint(people.identities, (quarter,), generator=generator)
        order = torch.rand(quarter, people.per_identity, generator=generator).argsort(1)
        pair = identity * people.per_identity + order[:, :2].t()
        alone = sample[: 2 * quarter].unflatten(0, (2, quarter))
        chosen = torch.cat([pair, alone], 1)
        seen = people.observation[chosen.flatten()]
        probe = network(seen).unflatten(0, chosen.shape)
        feature = gallery(seen).unflatten(0, chosen.shape)
        views = [
            PoolView(p, g, label)
            for p, g, label in zip(probe, feature, people.label[chosen], strict=True)
        ]
        return head(views[0], views[1]).loss

    return head, take


if __name__ == "__main__":
    main()
