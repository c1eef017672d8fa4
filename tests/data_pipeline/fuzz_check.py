"""Mutated tars, indexes and images through the check, the reader and the decoder.

    python -m tests.data_pipeline.fuzz_check --cases 10000 [--first 0] [--seed 0] [--workers 2]
        [--record]

Each case is refused in one line or counted as a fault; nothing crashes, nothing hangs, and memory
does not grow. A case depends on its kind, the seed and its number alone, so that a run can be taken
up anywhere and a finding looked at again: a stretch that ends its process is named, and so is a
case that fails.

Worker processes import this module again, so what is slow to import is imported where it is used.
"""

import argparse
import ctypes
import gc
import io
import json
import re
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from data_pipeline.checking.check import check
from data_pipeline.checking.findings import Findings
from data_pipeline.checking.tars import scan
from data_pipeline.errors import DataError
from data_pipeline.index import Dataset
from data_pipeline.index_file import INDEX, sha256_of
from data_pipeline.pack import pack
from data_pipeline.processes import map_in_order
from data_pipeline.shards import BadSampleError, ShardReader
from data_pipeline.sources.tars import survey
from tests.data_pipeline.fuzz import check_message, guarded, mutated
from tests.data_pipeline.fuzz_images import fuzz_images, grow_buffers
from tests.data_pipeline.pictures import jpeg, people

STRETCH = 250  # cases between two looks at the memory
# Of what a process holds after a stretch, from the first half to the second. A decoder keeps a
# buffer or two of its largest image for each kind of file: 48 MiB each where a mutated header asks
# for all that is allowed.
GROWTH_MIB = {"tars": 64, "indexes": 64, "images": 128}

_TAR_TOKENS = (
    *(kind + b"ustar\x0000" for kind in (b"0", b"1", b"2", b"3", b"5", b"L", b"x", b"g", b"S")),
    bytes(512),
    b"0000644\0",
    b"77777777777\0",
    b"\x80" + b"\xff" * 11,
    b"30 path=a.b.jpg\n",
    b"20 size=99999999\n",
    b".cls",
    b"..",
    b"-1",
)
_INDEX_TOKENS = (
    b'"location": "part.tar", ',
    b"null",
    b"-1",
    b"1e9",
    b"99999999999999999999",
    b"[" * 50,
    b'"../../x"',
    b'"\\ud800"',
    b"}",
    b", ",
)
_RECORD_TOKENS = (b"\xff" * 8, b"\0" * 8, b"\x80", b"\x7f" + b"\xff" * 7)


def fuzz_tars(numbers: range, *, seed: int) -> Counter[str]:
    """Outcomes of tars of several forms: checked, and read as indexing reads them."""
    outcomes: Counter[str] = Counter()
    for number in numbers:
        generator = np.random.default_rng((0, seed, number))
        base = _tars()[int(generator.integers(len(_tars())))]
        content = mutated(base, generator, _TAR_TOKENS)
        with guarded("tar", number):
            scanned = scan(io.BytesIO(content), "t.tar")
            _tell(outcomes, scanned.findings)
            try:
                outcomes["samples indexed"] += len(survey(io.BytesIO(content)).records)
            except DataError as error:
                check_message(str(error))
                outcomes["tar refused"] += 1
                assert "damaged_tar" in scanned.findings.counts, "the check missed it"
    return outcomes


def fuzz_indexes(numbers: range, *, seed: int) -> Counter[str]:
    """Outcomes of datasets with one file changed: checked, and opened and read as in training."""
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as scratch:
        folder = Path(scratch) / "packed"
        pack(people({"ann": 4, "bob": 3}), folder, shard_bytes=9_000)
        sound = {path.name: path.read_bytes() for path in folder.iterdir()}
        for number in numbers:
            generator = np.random.default_rng((1, seed, number))
            name, told = _change(folder, sound, generator)
            with guarded("index", number):
                report = check(str(folder))
                _tell(outcomes, report.findings)
                read = _read(folder)
                outcomes.update(read)
                # What training refuses or counts, a check has found; a stale .idx is for others.
                if set(read) - {"sample read"}:
                    assert report.errors, f"{name} ({told}): {read}"
            for changed in (name, INDEX):
                (folder / changed).write_bytes(sound[changed])
    return outcomes


KINDS: dict[str, Callable[..., Counter[str]]] = {
    "tars": fuzz_tars,
    "indexes": fuzz_indexes,
    "images": fuzz_images,
}


@cache
def _tars() -> list[bytes]:
    """Small tars in the forms there are, with what a reader passes over among the members."""
    contents = []
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w", format=form) as tar:
            if form == tarfile.PAX_FORMAT:
                folder = tarfile.TarInfo("x")
                folder.type = tarfile.DIRTYPE
                tar.addfile(folder)
            stem = "x/" if form == tarfile.USTAR_FORMAT else "x" * 120 + "/"
            for number in range(3):
                for suffix, content in (("cls", b"%d" % number), ("jpg", jpeg(number, 8))):
                    info = tarfile.TarInfo(f"{stem}{number}.{suffix}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
        contents.append(stream.getvalue()[: -tarfile.RECORDSIZE // 2])
    return contents


def _change(
    folder: Path, sound: dict[str, bytes], generator: np.random.Generator
) -> tuple[str, str]:
    """Change a file of the dataset; half of the time the index agrees, as a wrong writer's does."""
    names = sorted(name for name in sound if not name.endswith(".parquet"))
    name = names[int(generator.integers(len(names)))]
    tokens = {".json": _INDEX_TOKENS, ".tar": _TAR_TOKENS}.get(Path(name).suffix, _RECORD_TOKENS)
    (folder / name).write_bytes(mutated(sound[name], generator, tokens))
    if name == INDEX or generator.integers(2):
        return name, "alone"
    index = json.loads(sound[INDEX])
    stem, _, suffix = name.partition(".")
    (shard,) = (shard for shard in index["shards"] if shard["name"] == stem)
    shard[suffix] = {
        "bytes": (folder / name).stat().st_size,
        "sha256": sha256_of(folder / name),
    }
    (folder / INDEX).write_text(json.dumps(index))
    return name, "and the index"


def _read(folder: Path) -> Counter[str]:
    """Open a dataset and read every sample as training does; what became of each."""
    outcomes: Counter[str] = Counter()
    try:
        dataset = Dataset.open(folder)
    except DataError as error:
        check_message(str(error))
        return Counter({"dataset refused": 1})
    reader = ShardReader(dataset, max_open=2)
    for sample in range(dataset.num_samples):
        try:
            reader.read_image(sample)
            outcomes["sample read"] += 1
        except BadSampleError as error:
            outcomes[f"sample bad: {error.reason}"] += 1
        except DataError as error:
            check_message(str(error))
            outcomes["shard refused"] += 1
    reader.close()
    return outcomes


def _tell(outcomes: Counter[str], findings: Findings) -> None:
    """Count what was found, all of which can be shown on one line."""
    outcomes.update(findings.counts.keys() or ["nothing wrong"])
    for named in findings.named.values():
        for finding in named:
            assert finding.where.isprintable()
            assert finding.detail.isprintable()


@dataclass(frozen=True)
class _Stretch:
    """Runs some cases in a worker process, and says what it holds afterwards."""

    kind: str
    seed: int

    def __call__(self, numbers: range) -> tuple[Counter[str], int]:
        if self.kind == "images":
            grow_buffers()
        outcomes = KINDS[self.kind](numbers, seed=self.seed)
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # what the allocator keeps for later is no leak
        status = Path("/proc/self/status").read_text()
        return outcomes, int(re.findall(r"VmRSS:\s*(\d+) kB", status)[0]) >> 10


def run(kind: str, numbers: range, *, seed: int, workers: int) -> tuple[Counter[str], list[int]]:
    """The outcomes of many cases, and the memory held after each stretch, in MiB."""
    from data_pipeline.progress import progress_bar

    stretches = [
        range(first, min(first + STRETCH, numbers.stop))
        for first in range(numbers.start, numbers.stop, STRETCH)
    ]
    outcomes: Counter[str] = Counter()
    held: list[int] = []
    with progress_bar(kind, unit=" stretches", total=len(stretches), show=True) as bar:
        try:
            for counted, memory in map_in_order(_Stretch(kind, seed), stretches, workers=workers):
                outcomes.update(counted)
                held.append(memory)
                bar.update()
        except DataError as error:
            at = stretches[len(held)].start
            raise AssertionError(f"{kind} cases from {at} on ended their process") from error
    return outcomes, held


def main() -> None:
    """Run many cases of each kind and print, or record, the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000, help="of each kind")
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--record", action="store_true", help="write tests/benchmarks/results")
    options = parser.parse_args()
    rows = []
    for kind in options.kinds:
        numbers = range(options.first, options.first + options.cases)
        outcomes, held = run(kind, numbers, seed=options.seed, workers=options.workers)
        half = (len(held) + 1) // 2
        first, last = max(held[:half]), max(held[half:], default=held[0])
        assert last - first <= GROWTH_MIB[kind], f"{kind}: it grew from {first} to {last} MiB"
        told = ", ".join(f"{name} {count:,}" for name, count in outcomes.most_common())
        rows.append(
            {"what": kind, "cases": options.cases, "most MiB held in each half": f"{first}, {last}"}
        )
        rows[-1]["outcomes"] = told
        sys.stdout.write(f"{kind}: {told}; at most {first} and {last} MiB held in each half\n")
    if options.record:
        from tests.benchmarks.record import record

        command = f"python -m tests.data_pipeline.fuzz_check {' '.join(sys.argv[1:])}"
        note = "no crash, no hang, every refusal one line; outcomes may count a case several times"
        record("fuzz_check", rows, command=command, notes=[note])


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
