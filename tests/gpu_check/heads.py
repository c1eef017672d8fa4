"""What heads take on a card: steps, memory, the most identities, tiles."""

from dataclasses import asdict

from sharded_fc.kernels.configurations import HALF_TILES, Tile
from tests.benchmarks.record import Cell
from tests.gpu_check.plan import NO_TIME, TWO_BYTES, VARIANTS, Plan, measure
from tests.gpu_check.results import Results

# Of each element: the first visit reads the row, the second reads and writes row and momentum.
TOUCHES = 5


def claims(plan: Plan, results: Results) -> None:
    """Steps of the head beside dense ones, and beside what the card can do at these shapes."""
    note = (
        f"A full-softmax step (CosFace, {plan.dim} columns, SGD), median. Best is what "
        "8 B C D operations take at the library's measured rate for these products, and the rows "
        f"and their momentum, touched {TOUCHES} times, at the measured rate of a copy."
    )
    results.section("Steps", note)
    for classes in plan.classes:
        for batch in plan.batches:
            size = {"classes": classes, "batch": batch, "dim": plan.dim}
            rates = measure(plan, "rates", **size)
            results.row({**size, "step": "rates", **rates})
            for name in plan.variants:
                row = measure(plan, "head", **size, **VARIANTS[name])
                if "ms" in row and "copy GB/s" in rates:
                    item_bytes = 2 if "dtype" in VARIANTS[name] else 4
                    row["of best"] = best_ms(rates, item_bytes, **size) / float(row["ms"])
                results.row({**size, "step": name, **row})
            for name in plan.dense:
                row = measure(plan, "dense", **size, compiled=name != "dense")
                results.row({**size, "step": name, **row})
                if "error" in row:
                    break  # what does not fit is not worth compiling


def best_ms(
    rates: dict[str, Cell], item_bytes: int, *, classes: int, batch: int, dim: int
) -> float:
    """Milliseconds of a step that does nothing but its four products and moves its rows."""
    operations = 8.0 * batch * classes * dim
    moved = float(TOUCHES * item_bytes) * classes * dim
    return operations / float(rates["TFLOP/s"]) / 1e9 + moved / float(rates["copy GB/s"]) / 1e6


def largest(plan: Plan, results: Results) -> None:
    """How many identities one card holds, by bisection: a few steps of the head at each size."""
    batch = max(batch for batch in plan.batches if batch <= 1024)
    results.section("Identities on one card", f"The most for which a step of batch {batch} ran.")
    for name in plan.largest_of:
        fits, fails = 0, plan.most_classes
        for _ in range(plan.steps_of_bisection):
            middle = (fits + fails) // 2
            size = {"classes": middle, "batch": batch, "dim": plan.dim}
            row = measure(plan, "head", **size, **VARIANTS[name])
            if row.get("error") == NO_TIME:
                break
            fits, fails = (fits, middle) if "error" in row else (middle, fails)
            results.row({"head": name, **size, **row})
        results.row({"head": name, "fits": fits, "fails": fails})


def millions(plan: Plan, results: Results) -> None:
    """Tens of millions of identities: full and sampled, rows on the card and in host memory."""
    batch = max(batch for batch in plan.batches if batch <= 1024)
    note = (
        f"Steps of batch {batch}, two-byte rows and momentum. Waiting is the part of a step with "
        "rows in host memory that it takes longer than one with rows on the card."
    )
    results.section("Millions of identities", note)
    for classes in plan.many_classes:
        size = {"classes": classes, "batch": batch, "dim": plan.dim}
        for rate in plan.rates:
            on_card = measure(plan, "head", **size, rate=rate, **VARIANTS[TWO_BYTES])
            results.row({**size, "rate": rate or 1, "rows": "card", **_steps(on_card)})
            if rate is None:
                continue  # only a step's rows move, and here they would be all
            on_host = measure(plan, "head", **size, rate=rate, in_host=True, **VARIANTS[TWO_BYTES])
            row = _steps(on_host)
            if "ms" in on_card and "ms" in on_host:
                row["waiting"] = max(0.0, 1 - float(on_card["ms"]) / float(on_host["ms"]))
            results.row({**size, "rate": rate, "rows": "host", **row})


def _steps(row: dict[str, Cell]) -> dict[str, Cell]:
    return {"steps/s": 1e3 / float(row["ms"]), **row} if "ms" in row else row


def tiles(plan: Plan, results: Results) -> None:
    """TFLOP/s of the fused passes tile by tile, those of the table first."""
    results.section("Tiles", "TFLOP/s of the two fused passes, and of the library's product.")
    listed = HALF_TILES[plan.architecture]
    others = [
        Tile(rows=rows, samples=samples, depth=depth, warps=warps, stages=stages, parts=parts)
        for rows, samples, parts in ((128, 256, 4), (128, 128, 2), (128, 128, 1), (64, 256, 2))
        for warps in (8, 4)
        for depth, stages in ((64, 3), (64, 4), (32, 5), (128, 2))
    ]
    for batch in plan.batches:
        for tile in dict.fromkeys([*listed, *others]):
            shape = asdict(tile)
            row = measure(plan, "tile", batch=batch, dim=plan.dim, shape=shape)
            results.row({"batch": batch, **{key: str(x) for key, x in shape.items()}, **row})
