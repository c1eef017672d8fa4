"""Heads of millions of classes on one machine: rows on the device, in host memory, in a file.

    python -m tests.benchmarks.bench_head_large [--record] [--classes 10000000] [--dim 256] ...

Two-byte rows and momentum, bfloat16 operands. Every case runs in a process of its own: its first
step, then steps in `--repeats` groups, and a checkpoint, at whose end the process's highest memory
is read (pages of a mapped file that it looked at are in it). Rows on the device are written to a
file as a run writes them; those in a table make a checkpoint of it. The full softmax takes one
step.

Last comes a mapped head of `--limited-dim` columns under a memory limit of `--limit-gib` GiB, page
cache included, in blocks of 16 classes: its step beside the time that its bytes take at the disk's
measured rate plus a step over as many rows in memory (`memory_limit` says how the limit is set, or
why it cannot be).
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

from tests.benchmarks.bench_tables import disk_rates
from tests.benchmarks.heads import parser, show
from tests.benchmarks.large import Case, Found
from tests.benchmarks.record import Cell, met

STEP_S = {10: 0.2, 100: 1.0, 1000: 10.0}
"""The longest step wanted at 10,000,000 x 256, batch 64, by the rate per mille."""
PEAK_GB = 12.5
FIRST_STEP_S = 30.0
OF_LEAST = 2.0
DISK_SHARE = 1.5


def run(case: Case, *before: str) -> Found:
    """The case in a process of its own; `before` comes before its command."""
    folder = tempfile.mkdtemp(prefix="large-", dir=case.folder)
    given = json.dumps(asdict(case) | {"folder": folder})
    command = [*before, sys.executable, "-m", "tests.benchmarks.large", given]
    try:
        done = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE)
    finally:
        shutil.rmtree(folder)
    return Found(**json.loads(done.stdout))


def compare(options: argparse.Namespace) -> tuple[list[dict[str, Cell]], list[str]]:
    """One row a case, and what was wanted."""
    rows, notes = [], []
    cases = [(kept, rate) for rate in options.per_mille for kept in options.rows]
    if options.full:
        cases.append(("device", 1000))
    for kept, rate in cases:
        case = _case(options, kept, rate, dim=options.dim, block=options.block)
        if rate == 1000:
            case = replace(case, steps=1, repeats=1)
        found = run(case)
        rows.append(_row(case, found))
        if (case.classes, case.dim, case.batch) != (10_000_000, 256, 64):
            continue
        if rate in STEP_S:
            notes.append(met(f"{case.name}, seconds a step", found.step_s, STEP_S[rate]))
        if rate < 1000:
            notes.append(met(f"{case.name}, peak GB", found.peak / 1e9, PEAK_GB))
    if options.limit_gib:
        notes += limited(options, rows)
    return rows, notes


def limited(options: argparse.Namespace, rows: list[dict[str, Cell]]) -> list[str]:
    """The mapped head under a memory limit, as a row; notes of it, or why there is none."""
    case = _case(options, "mapped", 10, dim=options.limited_dim, block=16)
    limit = [sys.executable, "-m", "tests.benchmarks.memory_limit", str(options.limit_gib)]
    tried = subprocess.run([*limit, "true"], check=False, text=True, capture_output=True)
    if tried.returncode:
        reason = " ".join(tried.stderr.split())
        return [f"under {options.limit_gib} GiB: not run, for no limit can be set: {reason}"]
    found = run(case, *limit)
    rows.append(_row(case, found) | {"head": f"{case.name}, {options.limit_gib} GiB"})
    in_memory = replace(case, classes=case.taken, per_mille=1000, rows="device")
    products = run(in_memory).step_s
    with tempfile.TemporaryDirectory(dir=case.folder) as folder:
        read, written = disk_rates(Path(folder))
    record = 2 * 2 * case.dim + 24
    least = case.taken * record * (1 / read + 1 / written) + products
    return [
        met(
            f"{case.name} under the limit, of its bytes and products",
            found.step_s / least,
            OF_LEAST,
        ),
        met("its first step, seconds", found.first_s, FIRST_STEP_S),
        met("its disk use, of the table", found.disk / (case.classes * record), DISK_SHARE),
        f"disk, in one go: {read / 1e9:.2f} GB/s read, {written / 1e9:.2f} written",
    ]


def _case(options: argparse.Namespace, rows: str, rate: int, *, dim: int, block: int) -> Case:
    return Case(
        rows=rows,
        per_mille=rate,
        classes=options.classes,
        dim=dim,
        batch=options.batch,
        block=block,
        untouched=options.untouched,
        steps=options.steps,
        repeats=options.repeats,
        threads=options.threads,
        folder=str(options.folder or tempfile.gettempdir()),
    )


def _row(case: Case, found: Found) -> dict[str, Cell]:
    return {
        "head": case.name,
        "width": case.dim,
        "median s": found.step_s,
        "worst s": max(found.group_s),
        "steps/s": 1 / found.step_s,
        "first step s": found.first_s,
        "checkpoint s": found.checkpoint_s,
        "peak GB": found.peak / 1e9,
        "disk GB": found.disk / 1e9,
    }


def main() -> None:
    """Measure, and record if asked."""
    flags = parser(
        __doc__,
        classes=10_000_000,
        dim=256,
        batch=64,
        block=16,
        steps=20,
        repeats=5,
        limit_gib=6,
        limited_dim=512,
    )
    flags.add_argument("--per-mille", type=int, nargs="+", default=[10, 100], help="rates")
    flags.add_argument("--rows", nargs="+", default=["device", "mapped"], help="where rows are")
    flags.add_argument("--untouched", default="frozen", choices=["frozen", "caught_up"])
    flags.add_argument("--full", action="store_true", help="one step over all classes, too")
    flags.add_argument("--folder", type=Path, default=None, help="where tables lie; removed")
    options = flags.parse_args()
    rows, notes = compare(options)
    sizes = f"{options.classes:,} classes, batch {options.batch}, blocks of {options.block}"
    show("head_large", rows, [f"{sizes}, {options.untouched}", *notes], options)


if __name__ == "__main__":
    main()
