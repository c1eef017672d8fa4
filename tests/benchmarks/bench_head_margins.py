"""How exact the head is with every margin: the largest relative differences to float64.

    python -m tests.benchmarks.bench_head_margins [--record] [--classes 2000] [--dim 128]

Two steps on cosines like trained ones, on one gloo rank and on two. The dense head in float32
shows what rounding alone comes to.
"""

from typing import Any

import torch
from torch import Tensor

from sharded_fc import margins
from sharded_fc.initial import initial_rows
from sharded_fc.margins import Margin
from sharded_fc.reference import DenseHead
from tests.benchmarks.errors import Outcome
from tests.benchmarks.heads import LEARNING_RATE, MOMENTUM, SCALE, WEIGHT_DECAY, parser, show
from tests.benchmarks.record import Cell
from tests.ranks import RankPools
from tests.sharded_fc.on_ranks import Batch, gathered, join, train

STRAIGHT = "straight_through"
MARGINS: dict[str, Margin] = {
    "NormFace": margins.NormFace(),
    "CosFace": margins.CosFace(0.35),
    "ArcFace": margins.ArcFace(0.5),
    "ArcFace, straight through": margins.ArcFace(0.5, gradient=STRAIGHT),
    "SphereFace": margins.SphereFace(),
    "SphereFace, straight through": margins.SphereFace(gradient=STRAIGHT),
    "Combined": margins.CombinedMargin(factor=0.9, angle=0.4, cosine=0.15),
    "Combined, straight through": margins.CombinedMargin(
        factor=0.9, angle=0.4, cosine=0.15, gradient=STRAIGHT
    ),
    "MV-softmax": margins.MVSoftmax(),
    "CurricularFace": margins.CurricularFace(),
    "MagFace": margins.MagFace(),
    "AdaFace": margins.AdaFace(),
    "ElasticFace-Arc": margins.ElasticArcFace(),
    "ElasticFace-Arc+": margins.ElasticArcFace(deviation=0.0175, plus=True),
    "ElasticFace-Cos": margins.ElasticCosFace(),
    "ElasticFace-Cos+": margins.ElasticCosFace(deviation=0.02, plus=True),
    "UniFace": margins.UniFace(),
    "softmax": margins.PlainSoftmax(),
}
STEPS = 2
SEED = 7


def trained_like(classes: int, dim: int, counts: tuple[int, ...]) -> list[Batch]:
    """Batches whose target cosines are 0.4 to 0.8 with the centres a head of `SEED` begins with.

    Lengths reach from below to above what MagFace clamps to. All values are float32's.
    """
    generator = torch.Generator().manual_seed(0)
    centre = initial_rows(0, classes, embedding_dim=dim, seed=SEED, device=torch.device("cpu"))
    batches = []
    for _ in range(STEPS):
        label = torch.randint(classes, (sum(counts),), generator=generator)
        own = torch.nn.functional.normalize(centre[label])
        aside = torch.randn(own.shape, generator=generator)
        aside -= (aside * own).sum(1, keepdim=True) * own
        cosine = torch.empty(len(label), 1).uniform_(0.4, 0.8, generator=generator)
        length = torch.empty(len(label), 1).uniform_(5.0, 120.0, generator=generator)
        face = cosine * own + (1 - cosine**2).sqrt() * torch.nn.functional.normalize(aside)
        pieces = (length * face).double().split(counts)
        batches.append(list(zip(pieces, label.split(counts), strict=True)))
    return batches


def sharded(pools: RankPools, options: dict[str, Any], batches: list[Batch]) -> Outcome:
    """The head on as many ranks as the batches are cut into."""
    world = len(batches[0])
    results = pools(world).run(train, options, batches)
    # The head hands out world x d loss, for an engine that averages over ranks.
    gradients = [
        torch.cat([result["gradient"][step] for result in results]) / world for step in range(STEPS)
    ]
    return Outcome(
        loss=torch.stack(results[0]["loss"]),
        gradient=torch.cat(gradients),
        centre=gathered(results, "centre"),
    )


def dense(options: dict[str, Any], batches: list[Batch], dtype: torch.dtype) -> Outcome:
    """The dense head on the same numbers."""
    margin: Margin = options["margin"]
    rows = initial_rows(
        0,
        options["num_classes"],
        embedding_dim=options["embedding_dim"],
        seed=SEED,
        device=torch.device("cpu"),
    )
    if not margin.normalised:
        rows = torch.nn.functional.pad(rows, (0, 1))  # the biases
    head = DenseHead(
        rows.to(dtype),
        margin=margin,
        scale=options["scale"],
        learning_rate=LEARNING_RATE,
        momentum=MOMENTUM,
        weight_decay=WEIGHT_DECAY,
        seed=SEED,
    )
    steps: list[tuple[Tensor, Tensor]] = []
    for batch in batches:
        embedding, label = join(batch)
        steps.append(head.step(embedding.to(dtype), label))
    return Outcome(
        loss=torch.stack([loss for loss, _ in steps]),
        gradient=torch.cat([gradient for _, gradient in steps]),
        centre=head.centre,
    )


def measure(pools: RankPools, *, classes: int, dim: int, batch: int) -> list[dict[str, Cell]]:
    """One row a margin; a cell holds the errors of loss, gradient and centres."""
    whole = trained_like(classes, dim, (batch,))
    cut = trained_like(classes, dim, (batch * 5 // 8, batch - batch * 5 // 8))
    rows: list[dict[str, Cell]] = []
    for name, margin in MARGINS.items():
        options = {
            "num_classes": classes,
            "embedding_dim": dim,
            "margin": margin,
            "scale": SCALE if margin.normalised else 1.0,
            "learning_rate": LEARNING_RATE,
            "momentum": MOMENTUM,
            "weight_decay": WEIGHT_DECAY,
            "seed": SEED,
        }
        truth = dense(options, whole, torch.float64)
        row: dict[str, Cell] = {"margin": name}
        row["dense float32"] = _cell(dense(options, whole, torch.float32), truth)
        for dtype in (torch.float32, torch.float64):
            typed = {**options, "dtype": dtype, "compute_dtype": dtype}
            for batches, ranks in ((whole, "1 rank"), (cut, "2 ranks")):
                outcome = sharded(pools, typed, batches)
                row[f"sharded {str(dtype)[6:]}, {ranks}"] = _cell(outcome, truth)
        rows.append(row)
    return rows


def _cell(outcome: Outcome, truth: Outcome) -> str:
    return " / ".join(f"{error:.0e}" for error in outcome.error(truth).values())


def main() -> None:
    """Measure, and record if asked."""
    options = parser(__doc__, classes=2000, dim=128, batch=64).parse_args()
    torch.set_num_threads(options.threads)
    pools = RankPools()
    try:
        rows = measure(pools, classes=options.classes, dim=options.dim, batch=options.batch)
    finally:
        pools.close()
    notes = [
        "a cell: largest relative difference of loss / embedding gradient / centres, over"
        f" {STEPS} steps, to the dense head in float64; of gradients and centres the largest row"
        " of differences, relative to the longest row",
        "target cosines 0.4 to 0.8, lengths 5 to 120; two ranks hold unequal shares of the batch",
    ]
    show("head_margins", rows, notes, options)


if __name__ == "__main__":
    main()
