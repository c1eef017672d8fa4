"""Measures this machine: real heads, a real backbone, real exchanges, on ranks at work together.

Ranks of one machine share its cores and memory, so each setup, so many ranks of so many threads, is
measured with all of them at work at once. Everything is measured in several rounds, spread over
the time it takes, and the shortest counts: the machine may be slower in one half of a minute than
in the other, and where others use it, in one half of an hour.
"""

import os
import re
from collections.abc import Hashable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from trainer.backbones import table
from trainer.config import RunConfig
from trainer.planning.calibrate_cost import USUAL, Dtypes
from trainer.planning.calibrate_head import head_constants, time_parts
from trainer.planning.calibrate_run import (
    BackboneProbe,
    loader_probe,
    measure_disk,
    measure_rows_outside,
)
from trainer.planning.clock import Clock
from trainer.planning.constants import Constants, Machine
from trainer.planning.ranks import on_ranks
from trainer.planning.request import dtypes_of
from trainer.planning.rounds import repeated
from trainer.planning.yardstick import Yardstick, measure_yardstick
from trainer.topology import Topology

UNKNOWN = 1.0  # a rate that is not measured yet; or never asked for, as of exchanges of one rank
LEAST_ROUNDS = 3


def calibrate(
    run: RunConfig, setups: Sequence[tuple[int, int]], *, minutes: float = 1.0
) -> Machine:
    """This machine's numbers for (ranks, threads) each, which share the `minutes` of measuring.

    The dtypes of heads are the usual ones and the run's; the backbone is the run's.
    """
    seconds = 60.0 * minutes / len(setups)
    on_cpu = not torch.cuda.is_available()
    before = load()
    return Machine(
        name=_processor() if on_cpu else torch.cuda.get_device_name(0),
        source=f"measured on this machine by facescale plan --calibrate, at a load of {before:.1f}",
        measured=True,
        on_cpu=on_cpu,
        setups=tuple(
            on_ranks(measure, run, threads, seconds, ranks=ranks, threads=threads)
            for ranks, threads in setups
        ),
    )


def load() -> float:
    """How many processes wanted a core in the last minute; what is measured beside them is slow."""
    return os.getloadavg()[0]


def setups_for(run: RunConfig, *, chosen: bool) -> list[tuple[int, int]]:
    """The run's own ranks and threads where they were `chosen` and there is room for them here.

    Else one rank with all cores, and a rank for each core (or one for each GPU).
    """
    if torch.cuda.is_available():
        return [(torch.cuda.device_count(), run.engine.threads)]
    cores = len(os.sched_getaffinity(0))
    ranks, threads = run.cluster.workers, run.engine.threads
    if chosen and ranks * threads <= cores:
        return [(ranks, threads)]
    return [(1, cores), (cores, 1)] if cores > 1 else [(1, 1)]


def measure(topology: Topology, run: RunConfig, threads: int, seconds: float) -> Constants:
    """Everything about these ranks; every rank calls it and gets the same.

    In as many rounds as begin within `seconds`, and three at least.
    """
    clock = Clock(topology.group, topology.device)
    on_cpu = topology.device.type == "cpu"
    dtypes = list(dict.fromkeys((*USUAL, Dtypes(*dtypes_of(run, on_cpu=on_cpu)))))
    start = _start(topology, threads)
    backbone = BackboneProbe(run, topology)
    with loader_probe(run, clock) as read:

        def once() -> dict[Hashable, float]:
            image_s, image_core_s = read()
            reading = measure_yardstick(clock)
            return {
                **backbone.time(clock),
                **time_parts(clock, dtypes),
                "host byte": measure_rows_outside(clock, "host"),
                "mapped byte": measure_rows_outside(clock, "mapped"),
                "disk byte": measure_disk(clock),
                "image": image_s,
                "image core": image_core_s,
                "operation": 1.0 / reading.operations_per_s,
                "byte": 1.0 / reading.bytes_per_s,
            }

        numbers = repeated(once, clock, least=LEAST_ROUNDS, seconds=seconds)
    cost = backbone.cost(numbers)
    row = table.row(run.backbone.name)
    area = (run.data.image_size / max(row.image_size)) ** 2
    return replace(
        head_constants(numbers, clock, start, dtypes),
        operations_per_s=2.0 * row.multiply_adds * area / cost.forward_s,
        host_bytes_per_s=1.0 / numbers["host byte"],
        mapped_bytes_per_s=1.0 / numbers["mapped byte"],
        disk_bytes_per_s=1.0 / numbers["disk byte"],
        traffic_bytes_per_s=1.0 / numbers["byte"],
        backbones=(cost,),
        loader_images_per_s=1.0 / numbers["image"],
        loader_core_s=numbers["image core"],
        yardstick=Yardstick(
            operations_per_s=1.0 / numbers["operation"], bytes_per_s=1.0 / numbers["byte"]
        ),
    )


def _start(topology: Topology, threads: int) -> Constants:
    """What is known of these ranks without measuring time."""
    ranks, on_cpu = topology.world_size, topology.device.type == "cpu"
    memory = host = _memory_bytes() // ranks
    if not on_cpu:
        memory = torch.cuda.get_device_properties(topology.device).total_memory
    return Constants(
        ranks=ranks,
        threads=threads,
        memory_bytes=memory,
        host_bytes=host,
        process_bytes=_resident_bytes(),
        products=(),
        heads=(),
        chunk_s=0.0,
        step_s=0.0,
        sample_s=0.0,
        drawn_s=0.0,
        compared_s=0.0,
        rotated_s=0.0,
        pool_logit_s=0.0,
        host_bytes_per_s=UNKNOWN,
        mapped_bytes_per_s=UNKNOWN,
        disk_bytes_per_s=UNKNOWN,
        overlapped=not on_cpu,
        hop_s=0.0,
        near_bytes_per_s=UNKNOWN,
        far_bytes_per_s=UNKNOWN,
        machine_ranks=len(os.sched_getaffinity(0)) if on_cpu else torch.cuda.device_count(),
        operations_per_s=UNKNOWN,
        traffic_bytes_per_s=UNKNOWN,
    )


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _resident_bytes() -> int:
    """What this process has in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    models = re.findall(r"model name\s*: (.*)", info.read_text()) if info.exists() else []
    cores = len(os.sched_getaffinity(0))
    return f"{models[0] if models else 'CPU'}, {cores} core{'s' * (cores > 1)}"
