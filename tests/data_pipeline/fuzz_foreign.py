"""Mutated RecordIO and `.bin` files: each is read, or refused in one line; nothing else happens.

    python -m tests.data_pipeline.fuzz_foreign --cases 10000 [--first 0] [--seed 0] [--record]

A case depends on its seed and number alone, so that a run can be taken up anywhere and a finding
looked at again. What the unpickler meets runs under the limits that imports set.
"""

import argparse
import json
import pickle
import resource
import struct
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data_pipeline.errors import DataError
from data_pipeline.recordio import read_record, unpack_record
from data_pipeline.sources.recordio import RecordIOSource
from data_pipeline.verification_sets import bin_file
from tests.data_pipeline.fuzz import CASE_SECONDS, check_message, guarded, mutated
from tests.data_pipeline.recordio_files import MAGIC, image_record, part, write_set

BATCH = 500  # cases that one limited process reads
GROWTH_MIB = 32  # of the peak, after the first batch
ALLOWANCE_BYTES = 128 << 20
MEMORY_MIB = 32 + (ALLOWANCE_BYTES >> 20)  # Python itself, and the allowance

_RECORDIO_TOKENS = (MAGIC, bytes(4), b"\xff\xff\xff\xff", b"\t", b"\n", b"-", b"9" * 20, b"0\t0\n")
_PICKLE_TOKENS = (
    *(bytes([op]) for op in b"().0125KMJLNRbcdeghijloprstuXCB}]Qq\x81\x82\x85\x86"),
    b"\x80\x05",
    b"cnumpy\nndarray\n",
    b"cnumpy\ndtype\n",
    b"cnumpy.core.multiarray\n_reconstruct\n",
    b"c_codecs\nencode\n",
    b"cbuiltins\nbytearray\n",
    b"cos\nsystem\n",
    b"r\xff\xff\xff\x7f",
    b"\x8e" + struct.pack("<Q", 1 << 40),
)

_WORKER = """
import importlib.util, json, signal, sys
from pathlib import Path
reader, files, folder, allowance, seconds = sys.argv[1:]
limited = False
for file in sorted(Path(files).iterdir()):
    spec = importlib.util.spec_from_file_location("reader", reader)
    module = importlib.util.module_from_spec(spec)  # anew, as each file has a process of its own
    spec.loader.exec_module(module)
    if not limited:
        module.limit(allowance_bytes=int(allowance), cpu_seconds=10_000)
        limited = True
    signal.alarm(int(seconds))
    print(json.dumps(module.answer(file, Path(folder))))
print(*(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def fuzz_recordio(numbers: range, *, seed: int) -> Counter[str]:
    """Outcomes of cases: what became of sets, of the images they list, of records at any place."""
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as scratch:
        folder = Path(scratch)
        images = [image_record(bytes(range(40)), 1.0), image_record(b"face" * 9, 2.0, 0.5)]
        write_set(folder, [image_record(b"", 3, 5), *images, image_record(b"", 1, 2)])
        split = part(1, image_record(b"", 7.0)) + part(3, b"tail")
        rec = (folder / "train.rec").read_bytes() + split
        idx = (folder / "train.idx").read_bytes() + b"9\t%d\n" % (len(rec) - len(split))
        for number in numbers:
            generator = np.random.default_rng((seed, number))
            which = int(generator.integers(3))
            contents = (
                rec if which == 0 else mutated(rec, generator, _RECORDIO_TOKENS),
                idx if which == 1 else mutated(idx, generator, _RECORDIO_TOKENS),
            )
            for name, content in zip(("train.rec", "train.idx"), contents, strict=True):
                (folder / name).write_bytes(content)
            with guarded("RecordIO", number):
                outcomes.update(_read_set(folder))
                outcomes.update(_read_everywhere(folder / "train.rec"))
    return outcomes


def fuzz_bin(numbers: range, *, seed: int) -> Counter[str]:
    """Outcomes of cases: files read or refused by the limited reader."""
    outcomes: Counter[str] = Counter()
    for first in range(numbers.start, numbers.stop, BATCH):
        batch = range(first, min(first + BATCH, numbers.stop))
        with tempfile.TemporaryDirectory(prefix="fuzz-") as scratch:
            files, folder = Path(scratch) / "files", Path(scratch) / "read"
            files.mkdir()
            folder.mkdir()
            for number in batch:
                generator = np.random.default_rng((seed, number))
                base = _PICKLES[generator.integers(len(_PICKLES))]
                content = mutated(base, generator, _PICKLE_TOKENS)
                (files / f"{number:09d}").write_bytes(content)
            outcomes.update(_answers(files, folder, batch))
    return outcomes


def _pickles() -> list[bytes]:
    images = [bytes(range(30)), b"ab", b"", b"face"]
    arrays = [np.frombuffer(image, np.uint8) for image in images]
    pixels = [np.zeros((2, 3, 3), np.uint8)] * 2
    sets = [(images, [True, False]), (arrays, np.array([True, False])), (pixels, [np.True_])]
    return [pickle.dumps(held, protocol=protocol) for held in sets for protocol in (0, 2, 3, 4, 5)]


_PICKLES = _pickles()


def _read_set(folder: Path) -> Counter[str]:
    outcomes: Counter[str] = Counter()
    try:
        source = RecordIOSource.open(folder)
        for name in source:
            try:
                source.read(*name)
                outcomes["image read"] += 1
            except DataError as error:
                check_message(str(error))
                outcomes["image unreadable"] += 1
    except DataError as error:
        check_message(str(error))
        outcomes["set refused"] += 1
    return outcomes


def _read_everywhere(rec: Path) -> Counter[str]:
    outcomes: Counter[str] = Counter()
    with rec.open("rb") as file:
        for offset in range(0, rec.stat().st_size + 8, 4):
            try:
                unpack_record(read_record(file.fileno(), offset, max_bytes=4096))
                outcomes["record read"] += 1
            except DataError as error:
                check_message(str(error))
                outcomes["record refused"] += 1
    return outcomes


def _answers(files: Path, folder: Path, batch: range) -> Counter[str]:
    reader = Path(bin_file.__file__).with_name("bin_reader.py")
    arguments = [reader, files, folder, str(ALLOWANCE_BYTES), str(CASE_SECONDS)]
    child = subprocess.run(
        [sys.executable, "-I", "-c", _WORKER, *arguments], capture_output=True, check=False
    )
    *lines, last = child.stdout.decode().splitlines() or [""]
    if child.returncode or len(lines) != len(batch):
        at = batch.start + len(lines)
        raise AssertionError(f"bin case {at} or before ended the reader: {child.stderr!r}")
    assert int(last) >> 10 < MEMORY_MIB, f"the reader took {last} KiB in cases {batch}"
    outcomes: Counter[str] = Counter()
    for number, line in zip(batch, lines, strict=True):
        answer = json.loads(line)
        with guarded("bin", number):
            if "error" in answer:
                check_message(answer["error"])
        outcomes["file refused" if "error" in answer else "file read"] += 1
    return outcomes


KINDS: dict[str, Callable[..., Counter[str]]] = {"RecordIO": fuzz_recordio, "bin": fuzz_bin}


def main() -> None:
    """Run many cases of each kind and print, or record, the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000, help="of each kind")
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--record", action="store_true", help="write tests/benchmarks/results")
    options = parser.parse_args()
    rows = []
    for kind, fuzz in KINDS.items():
        outcomes: Counter[str] = Counter()
        peaks = []
        stretches = range(options.first, options.first + options.cases, BATCH)
        for first in tqdm(stretches, desc=kind):
            numbers = range(first, min(first + BATCH, stretches.stop))
            outcomes.update(fuzz(numbers, seed=options.seed))
            peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10)
        growth = peaks[-1] - peaks[0]
        assert growth <= GROWTH_MIB, f"{kind}: the peak grew by {growth} MiB after a first stretch"
        told = ", ".join(f"{name} {count:,}" for name, count in outcomes.most_common())
        held = f"{peaks[0]}, {peaks[-1]}"
        rows.append({"what": kind, "cases": options.cases, "peak MiB, first and all": held})
        rows[-1]["outcomes"] = told
        sys.stdout.write(f"{kind}: {told}; at most {held} MiB held in the first {BATCH}, in all\n")
    if options.record:
        from tests.benchmarks.record import record

        command = f"python -m tests.data_pipeline.fuzz_foreign {' '.join(sys.argv[1:])}"
        note = "no crash, no hang, every refusal one line; a set has several images and records"
        record("fuzz_foreign", rows, command=command, notes=[note])


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
