"""What a machine can do, as numbers that a plan multiplies with work: measured, or from tables.

A `Machine` has one set of `Constants` for each way of putting ranks on it, since ranks that share
memory and cores slow each other down. Kept as a small JSON file.
"""

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from trainer.errors import RunError
from trainer.planning.yardstick import Yardstick

FORMAT = 3


@dataclass(frozen=True, kw_only=True)
class ProductRate:
    """Operations a second of one of the head's products (`sharded_fc.capacity.work.Product`)."""

    operands: str
    kind: str
    dim: int
    batch: int
    operations_per_s: float


@dataclass(frozen=True, kw_only=True)
class HeadCost:
    """What a step takes, for these dtypes and this optimizer.

    Seconds for each number of a row visited (reading it twice, its optimizer, writing it), for each
    logit (two passes), and more for a number that lies scattered in the table, or is brought to the
    present. `product_factor` is what products take in a step over what they take by themselves,
    with all they read in a cache.
    """

    operands: str
    rows: str
    state: str
    optimizer: str
    element_s: float
    logit_s: float
    gathered_element_s: float
    caught_element_s: float
    product_factor: float = 1.0


@dataclass(frozen=True, kw_only=True)
class BackboneCost:
    """Seconds of an image forwards and backwards, of a micro-batch besides, and of a step once."""

    name: str
    image_size: int
    embedding_dim: int
    precision: str
    recompute: bool
    forward_s: float
    backward_s: float
    optimizer_s: float
    forward_call_s: float = 0.0
    backward_call_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Constants:
    """What a rank can do while `ranks` of them, of `threads` threads each, are at work."""

    ranks: int
    threads: int
    memory_bytes: int
    """A rank's share of the memory that it computes in."""
    host_bytes: int
    """A rank's share of the host's memory."""
    process_bytes: int
    """Taken by a process before it has done anything."""
    products: tuple[ProductRate, ...]
    heads: tuple[HeadCost, ...]
    chunk_s: float
    step_s: float
    sample_s: float
    """Of a head's step, for each sample of the global batch."""
    drawn_s: float
    """Of one evaluation of the sampler's permutation."""
    compared_s: float
    """Of mining, for each code compared."""
    rotated_s: float
    """Likewise for each addition in rotating rows."""
    pool_logit_s: float
    host_bytes_per_s: float
    """Rows to or from the host's memory."""
    mapped_bytes_per_s: float
    """Rows to or from a mapped file that the host's memory can hold."""
    disk_bytes_per_s: float
    """Written and synced in one go."""
    overlapped: bool
    """Whether moving and reading images go on beside the computation; on CPUs they share cores."""
    hop_s: float
    """Of a collective, for each other rank."""
    near_bytes_per_s: float
    """Between ranks of a machine."""
    far_bytes_per_s: float
    """Between machines."""
    machine_ranks: int
    """Ranks of a machine."""
    operations_per_s: float
    """Of a backbone that was not measured; multiplications and additions as two."""
    traffic_bytes_per_s: float
    """Memory read and written by a backbone that was not measured."""
    backbones: tuple[BackboneCost, ...] = ()
    loader_images_per_s: float | None = None
    """Unset is enough."""
    loader_core_s: float = 0.0
    """Of a core, for reading an image: what it takes from a computation on the same cores."""
    yardstick: Yardstick | None = None
    """How fast the machine was when all this was measured."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A kind of machine, whence its numbers come, and those numbers."""

    name: str
    source: str
    measured: bool
    """Whether these numbers were measured by this program."""
    on_cpu: bool
    setups: tuple[Constants, ...]
    format: int = FORMAT

    def setup(self, ranks: int, threads: int) -> Constants:
        """The numbers of so many ranks, or of the closest that there are."""

        def distance(each: Constants) -> tuple[int, int]:
            return abs(each.ranks - min(ranks, each.machine_ranks)), abs(each.threads - threads)

        return min(self.setups, key=distance)


_SCHEMA = TypeAdapter(Machine)


def default_path() -> Path:
    """Where a calibration is kept unless told otherwise: the user's cache folder."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "facescale" / "machine.json"


def save(machine: Machine, path: Path) -> None:
    """Write a machine's numbers, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".partial")
    beside.write_bytes(_SCHEMA.dump_json(machine, indent=2) + b"\n")
    beside.replace(path)


def load(path: Path) -> Machine:
    """Read a machine's numbers.

    Raises:
        RunError: there are none, or they are of another version.
    """
    try:
        machine = _SCHEMA.validate_json(path.read_bytes())
    except FileNotFoundError:
        raise RunError(
            f"{path} does not exist: this machine is not calibrated; run `facescale plan"
            " --calibrate` (a minute or two), or name a device with --device"
        ) from None
    except (OSError, ValidationError):
        raise RunError(f"{path} is no calibration; run `facescale plan --calibrate` anew") from None
    if machine.format != FORMAT or not machine.setups:
        raise RunError(f"{path} is of another version; run `facescale plan --calibrate` anew")
    return machine


def earlier(path: Path) -> Machine | None:
    """What a new calibration joins; None where there is nothing, or it is of another version.

    Raises:
        RunError: something else is there, which a calibration would destroy.
    """
    try:
        kept = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        kept = None
    if isinstance(kept, dict) and kept.get("format", FORMAT) != FORMAT:
        return None
    try:
        return load(path)
    except RunError:
        raise RunError(
            f"{path} is no calibration and would be overwritten; name another file with --constants"
        ) from None


def merged(machine: Machine, other: Machine) -> Machine:
    """`machine` with what only `other` measured: backbones of the same setup, other setups."""
    by_setup = {(each.ranks, each.threads): each for each in other.setups}
    setups = []
    for each in machine.setups:
        before = by_setup.pop((each.ranks, each.threads), None)
        known = {_which(cost) for cost in each.backbones}
        kept = [c for c in before.backbones if _which(c) not in known] if before else []
        setups.append(replace(each, backbones=(*each.backbones, *kept)))
    return replace(machine, setups=(*setups, *by_setup.values()))


def _which(cost: BackboneCost) -> tuple[object, ...]:
    return cost.name, cost.image_size, cost.embedding_dim, cost.precision, cost.recompute
