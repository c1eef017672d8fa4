"""A dataset out of WebDataset tars that exist already: an index is made, no tar is copied.

Every tar is read once, as a stream, wherever it lies; only `index.json`, the records of the
members and `identities.parquet` are written, beside the tars or in another folder. Labels become
dense numbers: whole numbers keep their order (so labels that are dense already stay as they are),
names come in the order of their characters. Which members make a sample is said in
`sources.tars`.
"""

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow
from pyarrow import parquet
from tqdm import tqdm

from data_pipeline.addresses import Address, is_address
from data_pipeline.errors import DataError
from data_pipeline.index import IDENTITIES, INDEX, MEMBER, Dataset, File, Shard, file_of, index_text
from data_pipeline.index_file import FILE_NAME, SHARD_NAME
from data_pipeline.partial import committed_folder
from data_pipeline.processes import map_in_order
from data_pipeline.remote import Remote
from data_pipeline.shard_writer import IDX_VERSION
from data_pipeline.sources.tars import NAMED, Survey, survey

_BESIDE = "facescale-index"  # what is written beside tars lies here until it is complete


def tars_of(source: str, *, remote: Remote | None = None) -> list[Address]:
    """The addresses of tars: of a folder, of a folder in object storage, or listed in a file.

    A list has an address or a path in each line (paths relative to the list); blank lines and
    those that begin with `#` are passed over.
    """
    if is_address(source) and not Address.parse(source).is_local:
        address = Address.parse(source)
        if address.name.endswith(".tar"):
            return [address]
        return (remote or Remote.of_node()).tars_below(address)
    path = Address.parse(source).file if is_address(source) else Path(source)
    if path.is_dir():
        found = [Address.of_file(file.resolve()) for file in sorted(path.glob("*.tar"))]
    elif path.suffix == ".tar":
        found = [Address.of_file(path.resolve())]
    else:
        found = _listed(path)
    if not found:
        raise DataError(f"{path} has no .tar files")
    if len(set(found)) != len(found):
        raise DataError(f"{path} names a tar twice")
    return found


def reindex(
    tars: Sequence[Address],
    dest: Path | str,
    *,
    max_unreadable: float = 0.01,
    workers: int = 1,
    remote: Remote | None = None,
    show_progress: bool = False,
) -> Dataset:
    """Make the dataset `dest` out of tars, in their order, without copying them.

    Args:
        tars: their addresses, from `tars_of`
        dest: the folder of the index; either a new one, or that of all the tars
        max_unreadable: the largest share of samples that may have to be left out
        workers: processes that read tars
        remote: opens addresses; by default as this machine is set up
        show_progress: whether to draw a bar on a terminal

    Raises:
        DataError: a tar is cut, damaged or not there; too many samples cannot be used; something
            is in the way of the files to write.
    """
    dest = Path(dest)
    beside = dest.is_dir() and all(
        tar.is_local and tar.file.parent == dest.resolve() for tar in tars
    )
    job = _Job(tars=tars, names=_names(tars), beside=beside)
    read = _Read(remote or Remote.of_node())
    if not beside:
        with committed_folder(dest) as folder:
            job.write(folder, read, max_unreadable, workers=workers, show_progress=show_progress)
        return Dataset.open(dest)
    new = dest / _BESIDE
    if taken := [name for name in job.file_names() if (dest / name).exists()]:
        raise DataError(
            f"{dest / taken[0]} exists already and is left as it is; remove it, or write the "
            "index to a new folder"
        )
    with committed_folder(new) as folder:
        job.write(folder, read, max_unreadable, workers=workers, show_progress=show_progress)
    for file in sorted(new.iterdir(), key=lambda file: file.name == INDEX):  # it comes last
        file.rename(dest / file.name)
    new.rmdir()
    return Dataset.open(dest)


@dataclass(frozen=True)
class _Read:
    """Surveys one tar in a worker process; a fault comes back as text."""

    remote: Remote

    def __call__(self, tar: Address) -> Survey | str:
        try:
            with self.remote.open(tar) as stream:
                return survey(stream)
        except DataError as error:
            return str(error) if str(tar) in str(error) else f"{tar}: {error}"


@dataclass(frozen=True, kw_only=True)
class _Job:
    tars: Sequence[Address]
    names: Sequence[str]
    beside: bool

    def file_names(self) -> list[str]:
        """All files this may write."""
        records = [f"{name}.{suffix}" for name in self.names for suffix in ("members", "idx")]
        return [*records, IDENTITIES, INDEX]

    def write(
        self, folder: Path, read: _Read, max_unreadable: float, *, workers: int, show_progress: bool
    ) -> None:
        """Write the files of the dataset into `folder`."""
        numbers: dict[str, int] = {}  # of labels, in the order in which they turn up
        counts: Counter[str] = Counter(tars=len(self.tars))
        left_out: list[str] = []
        sizes: set[tuple[int, int] | None] = set()
        shards: list[Shard] = []
        with tqdm(
            desc="indexing",
            total=len(self.tars),
            unit=" tars",
            file=sys.stderr,
            disable=None if show_progress else True,  # None: only on a terminal
        ) as bar:
            surveys = map_in_order(read, self.tars, workers=workers)
            for tar, name, found in zip(self.tars, self.names, surveys, strict=True):
                if isinstance(found, str):
                    raise DataError(f"{found}; copy it again, or leave it out")
                counts += found.counts
                named = [f"{tar.name}: {line}" for line in found.left_out]
                left_out += named[: NAMED - len(left_out)]
                if len(found.records):
                    sizes.add(found.image_size)
                    shards.append(self._write_shard(folder, tar, name, found, numbers))
                bar.update()
        _check_share(counts, left_out, sum(shard.samples for shard in shards), max_unreadable)
        labels = _in_order(numbers)
        images = np.zeros(len(labels), np.int64)
        dense = np.empty(len(labels), np.int64)
        dense[[numbers[label] for label in labels]] = np.arange(len(labels))
        shards = [_with_labels(folder, shard, dense, images) for shard in _numbered(shards)]
        table = {"label": np.arange(len(labels)), "name": labels, "images": images}
        parquet.write_table(pyarrow.table(table), folder / IDENTITIES)
        dataset = Dataset(
            path=folder,
            num_samples=sum(shard.samples for shard in shards),
            num_identities=len(labels),
            image_size=sizes.pop() if len(sizes) == 1 else None,
            shards=tuple(shards),
            extras={IDENTITIES: file_of(folder / IDENTITIES)},
            source={**counts, "single_image_identities": int((images == 1).sum())},
            unreadable=tuple(left_out),
        )
        (folder / INDEX).write_text(index_text(dataset), encoding="utf-8")

    def _write_shard(
        self, folder: Path, tar: Address, name: str, found: Survey, numbers: dict[str, int]
    ) -> Shard:
        """Write a tar's records, their labels still as numbered in `numbers`."""
        number = np.array([numbers.setdefault(label, len(numbers)) for label in found.labels])
        found.records["label"] = number[found.records["label"]]
        members, idx = folder / f"{name}.members", folder / f"{name}.idx"
        members.write_bytes(found.records.tobytes())
        idx.write_text("".join((f"{IDX_VERSION} {len(found.idx)}\n", *found.idx)))
        location: str | None = str(tar)
        if self.beside and FILE_NAME.fullmatch(tar.file.name):
            location = None if tar.file.name == f"{name}.tar" else tar.file.name
        return Shard(
            name=name,
            samples=len(found.records),
            first_sample=0,
            tar=found.tar,
            members=File(bytes=0, sha256=""),
            idx=file_of(idx),
            location=location,
        )


def _with_labels(folder: Path, shard: Shard, dense: np.ndarray, images: np.ndarray) -> Shard:
    """The shard with its final labels on disk; `images` counts them."""
    path = folder / f"{shard.name}.members"
    records = np.fromfile(path, MEMBER)
    records["label"] = dense[records["label"]]
    np.add.at(images, records["label"], 1)
    path.write_bytes(records.tobytes())
    return replace(shard, members=file_of(path))


def _numbered(shards: Sequence[Shard]) -> list[Shard]:
    first = np.cumsum([0, *(shard.samples for shard in shards)]).tolist()
    return [replace(shard, first_sample=start) for shard, start in zip(shards, first, strict=False)]


def _in_order(numbers: dict[str, int]) -> list[str]:
    """Labels by value if all are whole numbers, otherwise by their characters."""
    if all(label.isascii() and label.isdigit() for label in numbers):
        return sorted(numbers, key=int)
    return sorted(numbers)


def _names(tars: Sequence[Address]) -> list[str]:
    """A name for each shard: its tar's, where all of them can be names and differ."""
    stems = [tar.name.removesuffix(".tar") for tar in tars]
    if len(set(stems)) == len(stems) and all(map(SHARD_NAME.fullmatch, stems)):
        return stems
    return [f"shard-{number:06d}" for number in range(len(tars))]


def _listed(path: Path) -> list[Address]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise DataError(f"{path} does not exist: neither a folder of tars nor a list") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as a list of tars ({error})") from error
    found = []
    for number, line in enumerate(map(str.strip, lines), start=1):
        if not line or line.startswith("#"):
            continue
        try:
            found.append(
                Address.parse(line)
                if is_address(line)
                else Address.of_file((path.parent / line).resolve())
            )
        except DataError as error:
            raise DataError(f"{path}, line {number}: {error}") from None
    return found


def _check_share(
    counts: Counter[str], left_out: Sequence[str], used: int, max_unreadable: float
) -> None:
    total = used + counts["left_out"]
    if not used or counts["left_out"] > max_unreadable * total:
        reasons = {k: n for k, n in counts.items() if k not in ("tars", "left_out")}
        raise DataError(
            f"{counts['left_out']} of {total} samples cannot be used, more than the allowed share "
            f"of {max_unreadable:g} ({', '.join(f'{n} {k}' for k, n in sorted(reasons.items()))}): "
            + ("; ".join(left_out) or "there are none with an image and a label")
        )
