"""Seconds and memory to open a large dataset and to resume in the middle of an epoch.

    python -m tests.benchmarks.bench_index [--record] [--json] [--samples 42000000] [--shards 5300]
        [--resume-at 10000000] [--repeats 5]

The dataset is made up: its index names every shard, its tars and records are sparse files of the
right size, and records are all zeros (so that a sample is no bytes, with the right CRC-32). A rank
is a process of its own; what it adds to its memory counts from after its imports. Opening is
`Dataset.open` (sizes of all files compared); resuming is the plan, the sample numbers of a step,
and the records of their shards.
"""

import argparse
import hashlib
import json
import re
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median

from data_pipeline.index import INDEX, MEMBER, Dataset, File, Shard, index_text
from data_pipeline.plan import Plan, share
from data_pipeline.shards import ShardReader
from tests.benchmarks.record import Cell, interleaved, met, record

FACE_BYTES = 8_000  # of a 112 x 112 JPEG, with the headers of its members
MICRO_BATCHES, MICRO_BATCH_SIZE = 8, 128
MOST_S, MOST_MIB = 1.0, 64.0
EMPTY = File(bytes=0, sha256=hashlib.sha256().hexdigest())


def make(folder: Path, *, samples: int, shards: int) -> None:
    """Write the made-up dataset: some 16,000 files that occupy next to nothing."""
    described: list[Shard] = []
    first = 0
    for k in range(shards):
        stop = samples * (k + 1) // shards
        name, count = f"shard-{k:06d}", stop - first
        tar, members = File(bytes=count * FACE_BYTES, sha256=f"{k:064x}"), _zeros(count)
        for suffix, file in (("tar", tar), ("members", members), ("idx", EMPTY)):
            with (folder / f"{name}.{suffix}").open("wb") as stream:
                stream.truncate(file.bytes)
        described.append(
            Shard(name=name, samples=count, first_sample=first, tar=tar, members=members, idx=EMPTY)
        )
        first = stop
    dataset = Dataset(
        path=folder,
        num_samples=samples,
        num_identities=2_000_000,
        image_size=(112, 112),
        shards=tuple(described),
        extras={},
        source={},
        unreadable=(),
    )
    (folder / INDEX).write_text(index_text(dataset))


def measure(folder: Path, *, sample: int, world: int) -> dict[str, float]:
    """What rank 0 of `world` ranks spends, in this process."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _resident_mib("VmRSS")
    start = time.perf_counter()
    dataset = Dataset.open(folder)
    opened = time.perf_counter()
    plan = Plan(
        dataset.shard_sizes,
        micro_batches=MICRO_BATCHES,
        micro_batch_size=MICRO_BATCH_SIZE,
        seed=0,
    )
    reader = ShardReader(dataset, max_open=MICRO_BATCHES * (plan.shuffle_window + 1))
    step = sample // (MICRO_BATCHES * MICRO_BATCH_SIZE)
    for lane in share(MICRO_BATCHES, 0, world):
        for number in plan.micro_batch(step, lane)[0].tolist():
            reader.read(number)
    resumed = time.perf_counter()
    added = _resident_mib("VmHWM") - before
    reader.close()
    return {"open s": opened - start, "resume s": resumed - opened, "added MiB": added}


def main() -> None:
    """Measure ranks in turn and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=42_000_000)
    parser.add_argument("--shards", type=int, default=5_300)
    parser.add_argument("--resume-at", type=int, default=10_000_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--measure", nargs=2, metavar=("FOLDER", "WORLD"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        folder, world = arguments.measure
        figures = measure(Path(folder), sample=arguments.resume_at, world=int(world))
        print(json.dumps(figures))
        return
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), samples=arguments.samples, shards=arguments.shards)
        ranks = {
            f"rank 0 of {world}": partial(_in_a_process, folder, world, arguments.resume_at)
            for world in (1, MICRO_BATCHES)
        }
        measured = interleaved(ranks, arguments.repeats)
    rows: list[dict[str, Cell]] = [
        {"rank": name, **{key: median(run[key] for run in runs) for key in runs[0]}}
        for name, runs in measured.items()
    ]
    print(json.dumps(rows) if arguments.json else "\n".join(map(str, rows)))
    if arguments.record:
        seconds = max(float(row["open s"]) + float(row["resume s"]) for row in rows)
        mib = max(float(row["added MiB"]) for row in rows)
        notes = [
            f"{arguments.samples:,} samples in {arguments.shards:,} shards, resumed at sample "
            f"{arguments.resume_at:,}; {MICRO_BATCHES} micro-batches of {MICRO_BATCH_SIZE}; "
            f"medians of {arguments.repeats} processes each, files in the page cache",
            met("seconds to open and resume, the slower rank", seconds, MOST_S),
            met("MiB added, the larger rank", mib, MOST_MIB),
        ]
        command = " ".join(["python -m tests.benchmarks.bench_index", *sys.argv[1:]])
        print(record("index", rows, command=command, notes=notes))


def _in_a_process(folder: str, world: int, sample: int) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.benchmarks.bench_index"]
    command += ["--measure", folder, str(world), "--resume-at", str(sample)]
    return json.loads(subprocess.check_output(command, text=True))


def _zeros(count: int) -> File:
    size = count * MEMBER.itemsize
    return File(bytes=size, sha256=hashlib.sha256(bytes(size)).hexdigest())


def _resident_mib(field: str) -> float:
    status = Path("/proc/self/status").read_text()
    return int(re.findall(rf"{field}:\s*(\d+) kB", status)[0]) / 1024


if __name__ == "__main__":
    main()
