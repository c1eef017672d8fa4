"""Checks a dataset: every file against the index, every record against its tar, every image.

The shards are looked through in worker processes; the tables are compared here. Tars in object
storage arrive by way of the cache, as in training.
"""

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.checking.across import compare_keys, compare_sizes
from data_pipeline.checking.files import compare_file, read_identities
from data_pipeline.checking.findings import Findings
from data_pipeline.checking.report import DatasetReport, ShardState
from data_pipeline.checking.tars import Expected, Scanned, reason, scan, scan_indexed
from data_pipeline.errors import DataError
from data_pipeline.index import IDENTITIES, Dataset
from data_pipeline.processes import map_in_order
from data_pipeline.progress import progress_bar
from data_pipeline.tar_files import TarFiles

OF_A_SHARD = (".tar", ".members", ".idx")


def check_dataset(
    dataset: Dataset, *, workers: int = 1, show_progress: bool = False
) -> DatasetReport:
    """Check a dataset that was packed or indexed; nothing of it but its index was opened yet."""
    path = dataset.path
    report = DatasetReport(path=str(path), form="dataset", dataset=dataset)
    report.files, report.samples = len(dataset.shards), dataset.num_samples
    findings = report.findings
    intact = {
        name for name, file in dataset.extras.items() if compare_file(findings, path / name, file)
    }
    places, keys = [dataset.tar_of(i).name for i in range(len(dataset.shards))], []
    with progress_bar("checking", unit=" tars", total=len(places), show=show_progress) as bar:
        for shard in map_in_order(_CheckShard(dataset), range(len(places)), workers=workers):
            findings.merge(shard.scanned.findings)
            report.shards.append(shard.state)
            keys.append(shard.scanned.keys)
            bar.update()
    compare_keys(findings, places, keys)
    compare_sizes(findings, str(path), [shard.bytes for shard in dataset.shards])
    _compare_identities(report, intact=IDENTITIES in intact)
    if not report.errors:
        _open_tables(report)
    named = dataset.files()
    for file in sorted(path.iterdir()):
        if file.suffix in OF_A_SHARD and file.name not in named:
            findings.add("stray_file", file.name)
    return report


@dataclass(frozen=True, kw_only=True)
class _CheckedShard:
    scanned: Scanned
    state: ShardState


@dataclass
class _CheckShard:
    """Checks one shard, in a worker process; opens what it needs once."""

    dataset: Dataset
    _tars: TarFiles | None = None
    _names: Any = field(default=None, repr=False)

    def __call__(self, index: int) -> _CheckedShard:
        dataset, shard = self.dataset, self.dataset.shards[index]
        findings = Findings()
        records = self._records(index, findings)
        compare_file(findings, dataset.path / f"{shard.name}.idx", shard.idx)
        scanned = self._scanned(index, records)
        intact = scanned.file == shard.tar
        if scanned.file is not None and not intact:
            place = dataset.tar_of(index).name
            if scanned.file.bytes != shard.tar.bytes:
                detail = f"{scanned.file.bytes} bytes, not {shard.tar.bytes}"
                findings.add("size_changed", place, detail=detail)
            else:
                findings.add("content_changed", place)
        findings.merge(scanned.findings)
        scanned.findings = findings
        state = ShardState(
            damaged=scanned.errors > 0,
            records_usable=records is not None,
            tar_intact=intact,
            bad=scanned.bad,
        )
        return _CheckedShard(scanned=scanned, state=state)

    def _records(self, index: int, findings: Findings) -> np.ndarray | None:
        name = f"{self.dataset.shards[index].name}.members"
        if not compare_file(findings, self.dataset.path / name, self.dataset.shards[index].members):
            return None
        try:
            return self.dataset.members(index)
        except DataError as error:
            findings.add("records_damaged", name, detail=str(error))
            return None

    def _scanned(self, index: int, records: np.ndarray | None) -> Scanned:
        dataset = self.dataset
        where = dataset.tar_of(index).name
        try:
            if isinstance(place := dataset.tar_of(index), Path) and not stat.S_ISREG(
                place.stat().st_mode
            ):
                raise DataError("no regular file")
            self._tars = self._tars or TarFiles(dataset)
            descriptor = self._tars.open(index)
        except (OSError, DataError) as error:
            scanned = Scanned(bad=np.arange(0 if records is None else len(records)))
            missing = isinstance(error, FileNotFoundError)
            kind = "missing_file" if missing else "unreadable_file"
            scanned.findings.add(kind, where, detail="" if missing else reason(error))
            return scanned
        try:
            if records is None:
                with os.fdopen(os.dup(descriptor), "rb") as stream:
                    return scan(stream, where)
            expected = Expected(
                records=records,
                first_sample=dataset.shards[index].first_sample,
                num_identities=dataset.num_identities,
                image_size=dataset.image_size,
                label_text=self._spelling(),
            )
            return scan_indexed(descriptor, where, expected)
        finally:
            os.close(descriptor)

    def _spelling(self) -> Any:
        """Packing writes the labels themselves; tars that were indexed have labels of their own."""
        if "tars" not in self.dataset.source:
            return str
        if self._names is None:
            try:
                table = read_identities(self.dataset.path / IDENTITIES)
                self._names = table["name"].combine_chunks()
            except DataError:
                self._names = ()
        if len(self._names) != self.dataset.num_identities:
            return None
        return lambda label: self._names[label].as_py()


def _compare_identities(report: DatasetReport, *, intact: bool) -> None:
    """Compare the records' labels with the table of identities, if that is what it was."""
    findings, dataset = report.findings, report.dataset
    counted = _labels_and_images(report)
    if counted is not None and (empty := dataset.num_identities - len(counted[0])):
        findings.add("empty_identity", str(dataset.path), count=empty)
    if not intact:
        return
    try:
        table = read_identities(dataset.path / IDENTITIES)
    except DataError as error:
        findings.add("identities_disagree", IDENTITIES, detail=str(error))
        return
    told, images = table["label"].to_numpy(), table["images"].to_numpy().copy()
    if len(told) != dataset.num_identities or (told != np.arange(len(told))).any():
        detail = f"{len(told)} rows; labels 0 to {dataset.num_identities - 1} belong there"
        findings.add("identities_disagree", IDENTITIES, detail=detail)
    elif counted is not None:
        images[counted[0]] -= counted[1]
        if len(wrong := np.flatnonzero(images)):
            told = table["images"][int(wrong[0])].as_py()
            detail = f"label {wrong[0]}: {told} images, not {told - images[wrong[0]]}"
            findings.add("identities_disagree", IDENTITIES, detail=detail, count=len(wrong))


def _labels_and_images(report: DatasetReport) -> tuple[np.ndarray, np.ndarray] | None:
    """The labels that the records have, ascending, and how many of each.

    `None` where some records cannot be read. Memory grows with the labels that there are, whatever
    number of identities an index claims.
    """
    dataset = report.dataset
    labels, images = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for index, shard in enumerate(report.shards):
        if not shard.records_usable:
            return None
        label, count = np.unique(dataset.members(index)["label"], return_counts=True)
        exists = (label >= 0) & (label < dataset.num_identities)
        labels.append(label[exists])
        images.append(count[exists])
    label, where = np.unique(np.concatenate(labels), return_inverse=True)
    return label, np.bincount(where, np.concatenate(images), len(label)).astype(np.int64)


def _open_tables(report: DatasetReport) -> None:
    """Open the tables of verification sets, which compare themselves with the samples."""
    from data_pipeline.pairs import PAIRS, PairSet  # these take 0.4 s that no worker needs
    from data_pipeline.verification_sets.probe_set import PROBES, ProbeSet
    from data_pipeline.verification_sets.template_set import IMAGES, TemplateSet

    for name, kind in ((PAIRS, PairSet), (PROBES, ProbeSet), (IMAGES, TemplateSet)):
        if name in report.dataset.extras:
            try:
                kind.open(report.dataset.path)
            except DataError as error:
                report.findings.add("tables_disagree", name, detail=str(error))
