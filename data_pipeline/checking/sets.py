"""Checks what is no dataset yet: tars without an index, and folders of images."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from data_pipeline.addresses import Address
from data_pipeline.checking.across import compare_keys, compare_sizes
from data_pipeline.checking.findings import Findings
from data_pipeline.checking.images import faults
from data_pipeline.checking.report import Report, TarsReport
from data_pipeline.checking.tars import Scanned, reason, scan
from data_pipeline.errors import DataError
from data_pipeline.processes import map_in_order
from data_pipeline.progress import progress_bar
from data_pipeline.remote import Remote
from data_pipeline.sources.folder import FolderSource

IMAGES_A_TASK = 64


def check_tars(
    tars: Sequence[Address],
    path: str,
    *,
    remote: Remote,
    workers: int = 1,
    show_progress: bool = False,
) -> TarsReport:
    """Check tars that no index describes; `path` names them together."""
    report = TarsReport(path=path, form="tars", tars=tars, files=len(tars))
    keys, sizes, numeric, named = [], [], 0, 0
    with progress_bar("checking", unit=" tars", total=len(tars), show=show_progress) as bar:
        for scanned in map_in_order(_ScanTar(remote), tars, workers=workers):
            report.findings.merge(scanned.findings)
            report.damaged.append(scanned.errors > 0)
            report.samples += scanned.samples
            numeric += scanned.numeric_labels
            named += scanned.named_labels
            keys.append(scanned.keys)
            sizes += [] if scanned.file is None else [scanned.file.bytes]
            bar.update()
    if numeric and named:
        detail = f"{numeric} numbers, {named} names"
        report.findings.add("mixed_labels", path, detail=detail)
    compare_keys(report.findings, [tar.name for tar in tars], keys)
    compare_sizes(report.findings, path, sizes)
    return report


def check_folder(path: str, *, workers: int = 1, show_progress: bool = False) -> Report:
    """Check a folder of `<identity>/<image>` as packing would read it."""
    report = Report(path=path, form="folder")
    try:
        source = FolderSource.open(path)
    except DataError as error:
        report.findings.add("folder_refused", path, detail=str(error))
        return report
    for kind, name in (("ignored_files", "ignored_files"), ("empty_folders", "empty_identities")):
        if count := source.counts()[name]:
            report.findings.add(kind, path, count=count)
    total = sum(len(names) for names in source.images.values())
    look = _LookAt(source.without_listing())
    with progress_bar("checking", unit=" images", total=total, show=show_progress) as bar:
        for findings, count in map_in_order(look, _in_parts(source), workers=workers):
            report.findings.merge(findings)
            report.samples += count
            bar.update(count)
    report.files = report.samples
    return report


@dataclass(frozen=True)
class _ScanTar:
    """Scans a tar in a worker process."""

    remote: Remote

    def __call__(self, tar: Address) -> Scanned:
        with self.remote.open(tar) as stream:
            return scan(stream, tar.name)


@dataclass(frozen=True)
class _LookAt:
    """Looks at some images of a folder in a worker process."""

    source: FolderSource

    def __call__(self, names: list[tuple[str, str]]) -> tuple[Findings, int]:
        findings = Findings()
        for identity, image in names:
            where = f"{identity}/{image}"
            try:
                content = self.source.read(identity, image)
            except (OSError, DataError) as error:
                findings.add("unreadable", where, detail=reason(error))
                continue
            for kind, detail in faults(content, any_form=True):
                findings.add(kind, where, detail=detail, content=content)
        return findings, len(names)


def _in_parts(names: Iterable[tuple[str, str]]) -> Iterator[list[tuple[str, str]]]:
    remaining = iter(names)
    while part := list(islice(remaining, IMAGES_A_TASK)):
        yield part
