"""Which head to take, and why: the one closest to a full softmax that costs little more time.

A full softmax is exact; a sampled one estimates it; one with rows on the host or in a file is
sampled too and needs more of the machine. A pool is another method, whose accuracy nobody has shown
at this size, so it is recommended only where nothing else fits.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from trainer.planning.plan import ROOM, Candidate, Kind, Plan, make_plan
from trainer.planning.request import Request
from trainer.planning.units import share, size

WORTH = 1.25
"""What a more exact head's step may take, of the fastest one's."""
EXACTNESS: tuple[Kind, ...] = ("full", "sampled", "host", "mapped")
MOST_RANKS = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """A candidate's name, None where none fits, and the reason in one line."""

    name: str | None
    reason: str


def recommend(plan: Plan) -> Recommendation:
    """The recommendation."""
    by_kind: dict[Kind, Candidate] = {each.kind: each for each in plan.candidates}
    fitting = [by_kind[kind] for kind in EXACTNESS if kind in by_kind and by_kind[kind].fits]
    if fitting:
        return _among(fitting, by_kind)
    if by_kind["pool"].fits:
        return Recommendation(
            name=by_kind["pool"].name,
            reason=f"nothing with centres fits: {_lack(by_kind['sampled'])}; its accuracy at this"
            " size has not been shown by anybody",
        )
    needed = _ranks_needed(plan)
    more = f"; from {needed} ranks on something does" if needed else ""
    return Recommendation(name=None, reason=f"nothing fits: {_lack(by_kind['full'])}{more}")


def _among(fitting: Sequence[Candidate], by_kind: dict[Kind, Candidate]) -> Recommendation:
    fastest = min(each.step_s for each in fitting)
    chosen = next(each for each in fitting if each.step_s <= WORTH * fastest)
    full = by_kind["full"]
    if chosen is full:
        others = [each for each in fitting if each is not full]
        slowest = f"{full.step_s / fastest:.2f} times the fastest's" if others else "what it is"
        return Recommendation(
            name=full.name,
            reason=f"it is exact and fits ({share(full.device_bytes / full.memory_bytes)} of a"
            f" rank's memory), and its step takes {slowest}",
        )
    ratio = f"{full.step_s / chosen.step_s:.1f} times as long"
    if full.fits:
        reason = f"a full softmax fits too, but its step takes {ratio}"
    else:
        reason = f"a full softmax does not fit: {_lack(full)}"
    if chosen.kind in ("host", "mapped"):
        reason += f"; on the device {_lack(by_kind['sampled'])}"
    if chosen.kind == "mapped":
        reason += f"; it takes up to {size(chosen.disk_bytes)} of a disk a rank"
    return Recommendation(name=chosen.name, reason=reason)


def _lack(candidate: Candidate) -> str:
    room = ROOM * candidate.memory_bytes
    return f"{candidate.name} needs {size(candidate.device_bytes)} of {size(room)} usable a rank"


def _ranks_needed(plan: Plan) -> int | None:
    """The first doubling of ranks at which a head fits, each rank with as many images as now."""
    request = plan.request
    ranks = request.ranks
    while (ranks := 2 * ranks) <= min(MOST_RANKS, request.identities // 2):
        if any(each.fits for each in make_plan(_on_ranks(request, ranks), plan.machine).candidates):
            return ranks
    return None


def _on_ranks(request: Request, ranks: int) -> Request:
    run = request.run
    factor = ranks // request.ranks
    batch = replace(run.batch, micro_batches=run.batch.micro_batches * factor)
    cluster = replace(run.cluster, workers=ranks)
    return replace(request, run=replace(run, batch=batch, cluster=cluster))
