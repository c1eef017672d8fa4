"""Writes the damaged ones of other people's tars again, elsewhere, without what is wrong in them.

The tars themselves are never touched. `tars.txt` beside the copies names the copy of each tar that
was damaged and the address of each that was not, in their order: `facescale data index` makes a
dataset of it.
"""

import io
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from data_pipeline.addresses import Address
from data_pipeline.checking.images import faults
from data_pipeline.checking.kinds import KINDS
from data_pipeline.checking.report import DatasetReport, TarsReport
from data_pipeline.checking.tars import Source, SourceFails
from data_pipeline.errors import DataError
from data_pipeline.partial import committed_folder
from data_pipeline.remote import Remote
from data_pipeline.sources.tars import IMAGES, LABELS, MAX_MEMBER_BYTES, LeftOut, sample_of, split
from data_pipeline.tar_stream import Member, Readable, TarStream

LIST = "tars.txt"
MOST_SAMPLE_BYTES = 2 * MAX_MEMBER_BYTES  # all members of one key, which are held together


@dataclass(frozen=True, kw_only=True)
class Copied:
    """What was written."""

    tars: int
    samples: int
    """In the copies."""
    keys_left_out: int
    """In the damaged tars, as far as these could be followed."""


def copy_sound(report: TarsReport, dest: Path, *, remote: Remote | None = None) -> Copied:
    """Make the folder `dest` with a sound copy of every damaged tar of a report, and the list.

    Raises:
        DataError: `dest` exists, or a tar cannot be read any more.
    """
    remote = remote or Remote.of_node()
    counts: Counter[str] = Counter()
    with committed_folder(dest) as folder:
        lines = []
        for number, (tar, damaged) in enumerate(zip(report.tars, report.damaged, strict=True)):
            if not damaged:
                lines.append(str(tar))
                continue
            name = f"tar-{number:06d}.tar"
            try:
                with remote.open(tar) as stream:
                    copied = _copy(stream, folder / name)
            except SourceFails as error:
                raise DataError(f"{tar} cannot be copied: {error}") from error
            counts += copied
            if copied["samples"]:
                counts["tars"] += 1
                lines.append(name)
            else:
                (folder / name).unlink()
        (folder / LIST).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return Copied(tars=counts["tars"], samples=counts["samples"], keys_left_out=counts["left_out"])


def tars_report(report: DatasetReport) -> TarsReport:
    """The report on a dataset's tars, wherever they lie."""
    places = map(report.dataset.tar_of, range(len(report.dataset.shards)))
    return TarsReport(
        path=report.path,
        form="tars",
        findings=report.findings,
        files=report.files,
        samples=report.samples,
        tars=[p if isinstance(p, Address) else Address.of_file(p.resolve()) for p in places],
        damaged=[state.damaged for state in report.shards],
    )


def _copy(stream: Readable, path: Path) -> Counter[str]:
    """Write the sound samples of a tar, and count them."""
    counts: Counter[str] = Counter()
    seen: set[str] = set()
    with path.open("wb") as file, tarfile.open(fileobj=file, mode="w") as copy:
        for key, group in groupby(_members(stream), key=lambda member: split(member.name)[0]):
            held = _held(group)
            sound = _is_sound(held)
            if sound is False or (sound and key in seen):
                counts["left_out"] += 1
                continue
            for member in held:
                info = tarfile.TarInfo(member.name)
                info.size, info.mode = member.size, 0o444
                copy.addfile(info, io.BytesIO(member.content or b""))
            if sound:
                counts["samples"] += 1
                seen.add(key)
    return counts


def _members(stream: Readable) -> Iterator[Member]:
    """The members up to a damage: what follows one cannot be told from other bytes."""
    with suppress(DataError):
        for member in TarStream(Source(stream), max_member_bytes=MAX_MEMBER_BYTES):
            yield replace(member, name=_undotted(member.name))


def _undotted(name: str) -> str:
    """The name; where dots before its suffix keep it from being read, they become `_`."""
    stem, suffix = split(name)
    last = suffix.rpartition(".")[2]
    if suffix in IMAGES + LABELS or last not in IMAGES + LABELS:
        return name
    kept = name[len(stem) : len(name) - len(last) - 1]
    return f"{stem}{kept.replace('.', '_')}.{last}"


def _held(group: Iterable[Member]) -> list[Member]:
    """The members of a key; none where they are more than a sample needs."""
    held, total = [], 0
    for member in group:
        total += member.size
        if member.content is None or total > MOST_SAMPLE_BYTES:
            return []
        held.append(member)
    return held


def _is_sound(members: list[Member]) -> bool | None:
    """Whether members make a sample that can be used; `None` where they are not meant as one."""
    try:
        sample = sample_of(members, Counter())
    except LeftOut:
        return False
    if sample is None:
        return None if members else False
    found = faults(sample.image.content or b"")
    return not any(KINDS[fault.kind].severity == "error" for fault in found)
