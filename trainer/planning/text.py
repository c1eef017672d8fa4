"""A plan as a table that people read: what each head takes, what fits, and one recommendation."""

from collections.abc import Callable, Sequence
from typing import Any

from trainer.planning.plan import Candidate, Plan
from trainer.planning.recommend import Recommendation
from trainer.planning.units import duration, share, size

Row = tuple[str, Callable[[Candidate], str]]


def plan_text(plan: Plan, recommendation: Recommendation) -> str:
    """Several lines, without an end of line."""
    sections: list[tuple[str, list[Row]]] = [
        ("memory of a rank", _memory(plan)),
        ("a step", _step(plan)),
        ("the run", _run()),
    ]
    table = [["", *(each.name for each in plan.candidates)]]
    titles = []
    for title, rows in sections:
        titles.append(len(table))
        table.append([title, *("" for _ in plan.candidates)])
        table += [[name, *(cell(each) for each in plan.candidates)] for name, cell in rows]
    lines = [*_heading(plan), "", *_aligned(table, titles), ""]
    return "\n".join([*lines, *_ending(recommendation)])


def as_json(plan: Plan, recommendation: Recommendation) -> dict[str, Any]:
    """The same for scripts: bytes and seconds."""
    request, machine = plan.request, plan.machine
    return {
        "identities": request.identities,
        "images": request.images,
        "ranks": request.ranks,
        "machine": {
            "name": machine.name,
            "source": machine.source,
            "measured": machine.measured,
        },
        "candidates": [each.to_json() for each in plan.candidates],
        "recommended": recommendation.name,
        "reason": recommendation.reason,
    }


def _heading(plan: Plan) -> list[str]:
    request, machine = plan.request, plan.machine
    run = request.run
    lines = [
        f"{request.identities:,} identities, {request.images:,} images, {request.ranks:,} x"
        f" {machine.name}",
        f"{run.backbone.name} at {run.data.image_size} px in {run.engine.precision},"
        f" {request.embedding_dim} numbers a face, global batch {run.batch.size:,}",
        machine.source if machine.measured else f"NOT MEASURED: {machine.source}",
    ]
    if machine.measured and not plan.candidates[0].backbone_seconds.measured:
        lines.append("the backbone was not measured: its time is reckoned; calibrate with this run")
    found, wanted = plan.constants, (request.ranks, run.engine.threads)
    if machine.measured and (found.ranks, found.threads) != wanted:
        lines.append(
            f"measured with {found.ranks} rank(s) of {found.threads} thread(s) at work, not"
            f" {wanted[0]} of {wanted[1]}; the rest is reckoned"
        )
    return lines


def _memory(plan: Plan) -> list[Row]:
    rows: list[Row] = [
        ("centres", lambda c: size(c.head_bytes.centres)),
        ("their optimizer", lambda c: size(c.head_bytes.states)),
        ("counts, lengths", lambda c: size(c.head_bytes.counts + c.head_bytes.lengths)),
        ("lists of near classes", lambda c: size(c.head_bytes.lists)),
        ("chunks, kept products", lambda c: size(c.head_bytes.buffers + c.head_bytes.kept)),
        ("embeddings", lambda c: size(c.head_bytes.exchange)),
        ("backbone, optimizer", lambda c: size(c.backbone_bytes.weights)),
        ("activations", lambda c: size(c.backbone_bytes.activations)),
        ("images ahead", lambda c: size(c.backbone_bytes.images)),
        ("the process itself", lambda c: size(c.process_bytes)),
        ("together", lambda c: size(c.device_bytes)),
        (
            f"of {size(plan.constants.memory_bytes)}",
            lambda c: f"{share(c.device_bytes / c.memory_bytes)}{'' if c.fits else ' NO FIT'}",
        ),
    ]
    if not any(each.head_bytes.lists for each in plan.candidates):
        rows = [row for row in rows if row[0] != "lists of near classes"]
    if any(each.host_bytes for each in plan.candidates):
        rows.append(
            (
                f"host, of {size(plan.constants.host_bytes)}",
                lambda c: size(c.host_bytes) if c.host_bytes else "-",
            )
        )
    if any(each.disk_bytes for each in plan.candidates):
        rows.append(("disk, at most", lambda c: size(c.disk_bytes) if c.disk_bytes else "-"))
    return rows


def _step(plan: Plan) -> list[Row]:
    rows: list[Row] = [
        ("backbone forward", lambda c: duration(c.backbone_seconds.forward)),
        ("backbone backward", lambda c: duration(c.backbone_seconds.backward)),
        ("backbone optimizer", lambda c: duration(c.backbone_seconds.optimizer)),
        ("gallery forward", lambda c: duration(c.backbone_seconds.gallery)),
        ("head: products", lambda c: duration(c.head_seconds.products)),
        ("head: logits", lambda c: duration(c.head_seconds.logits)),
        ("head: rows", lambda c: duration(c.head_seconds.rows)),
        ("head: sampling", lambda c: duration(c.head_seconds.sampling)),
        ("head: mining", lambda c: duration(c.head_seconds.mining)),
        ("head: rows from outside", lambda c: duration(c.head_seconds.moving)),
        ("head: overhead", lambda c: duration(c.head_seconds.overhead)),
        ("head: exchange", lambda c: duration(c.head_seconds.exchange)),
        ("gradients' exchange", lambda c: duration(c.gradient_exchange_s)),
        ("waiting for images", lambda c: duration(c.waiting_s)),
    ]
    shown = [row for row in rows if any(row[1](each) != "0 s" for each in plan.candidates)]
    return [
        *shown,
        ("together", lambda c: duration(c.step_s)),
        ("images/s", lambda c: f"{c.images_a_step / c.step_s:,.0f}"),
    ]


def _run() -> list[Row]:
    return [
        ("steps an epoch", lambda c: f"{c.steps_an_epoch:,.0f}"),
        ("an epoch", lambda c: duration(c.step_s * c.steps_an_epoch)),
        ("epochs", lambda c: f"{c.epochs:.3g}"),
        ("days", lambda c: f"{c.days:,.2f}"),
        ("device-hours", lambda c: f"{c.device_hours:,.1f}"),
    ]


def _aligned(table: Sequence[Sequence[str]], titles: Sequence[int]) -> list[str]:
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    lines = []
    for number, (name, *cells) in enumerate(table):
        indent = "" if number in titles or not name else "  "
        first = f"{indent}{name}".ljust(widths[0] + 4)
        rest = (cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))
        lines.append((first + "  ".join(rest)).rstrip())
    return lines


def _ending(recommendation: Recommendation) -> list[str]:
    if recommendation.name is None:
        return [f"No recommendation: {recommendation.reason}."]
    return [f"Recommended: {recommendation.name}; {recommendation.reason}."]
