"""`facescale data check`: everything a run would trip over, found before it."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tyro.conf import Positional

from cluster.console import errors_in_one_line, show
from cluster.errors import ClusterError, Exit

if TYPE_CHECKING:
    from data_pipeline.checking.report import Report

PLACES = 3  # of each kind of fault, for people; --json has more and --page shows them


@errors_in_one_line
def check(
    sources: Positional[tuple[str, ...]],
    /,
    *,
    page: Path | None = None,
    fix: bool = False,
    to: Path | None = None,
    max_lost: float = 0.01,
    workers: int = 1,
    json: bool = False,
) -> int:
    """Find everything that a run would trip over: every file, record, label and image is looked at.

    Exits with 0 where there are no errors, after a repair too, and with 1 where there are some.

    Args:
        sources: packed or indexed datasets, folders or lists of tars, addresses of tars, or folders
            of <identity>/<image>
        page: write what was found as an HTML file with thumbnails, readable by its owner alone
        fix: write damaged shards of packed datasets again, without the samples that cannot be used
        to: with --fix, a new folder for sound copies of damaged tars that are not this program's
        max_lost: the largest share of samples that a repair may give up
        workers: processes that read and decode
        json: print the result as JSON
    """
    from data_pipeline.checking.check import check as look_through
    from data_pipeline.checking.page import write_page

    if not sources:
        raise ClusterError("nothing to check: name a dataset, tars or a folder of images")
    if to is not None and (not fix or len(sources) > 1):
        raise ClusterError("--to goes with --fix and one source")
    reports = [look_through(path, workers=workers, show_progress=True) for path in sources]
    if page is not None:
        write_page(reports, page)
    repairs: list[dict[str, Any]] = []
    if fix:
        repairs = [_fix(report, to, max_lost) for report in reports if report.errors]
        mended = {repair["path"] for repair in repairs if "restored" in repair}
        reports = [
            look_through(report.path, workers=workers, show_progress=True)
            if report.path in mended
            else report
            for report in reports
        ]
    if json:
        show({"checked": [r.plain() for r in reports], "repairs": repairs}, as_json=True)
    else:
        sys.stdout.write("".join(map(_text, reports)))
        for repair in repairs:
            show(repair, as_json=False)
    sound_elsewhere = {repair["path"] for repair in repairs if "tars" in repair}
    left = any(report.errors for report in reports if report.path not in sound_elsewhere)
    return Exit.FAILED if left else Exit.OK


def _fix(report: "Report", to: Path | None, max_lost: float) -> dict[str, Any]:
    """Repair what a report is about; what was done, or why nothing was."""
    from dataclasses import asdict

    from data_pipeline.checking.repair import repair
    from data_pipeline.checking.report import DatasetReport, TarsReport
    from data_pipeline.checking.sound_copies import copy_sound, tars_report
    from data_pipeline.errors import DataError

    done: dict[str, Any] = {"path": report.path}
    try:
        if isinstance(report, DatasetReport) and to is None:
            return done | asdict(repair(report, max_lost=max_lost))
        if isinstance(report, DatasetReport):
            report = tars_report(report)
        if not isinstance(report, TarsReport):
            raise DataError(
                f"{report.path} is left as it is: packing leaves out what cannot be used"
            )
        if to is None:
            raise DataError(
                f"the tars of {report.path} are not this program's and are left as they are; say "
                "where to write sound copies of the damaged ones: --to FOLDER"
            )
        return done | {"to": str(to)} | asdict(copy_sound(report, to))
    except DataError as error:
        return done | {"refused": str(error)}


def _text(report: "Report") -> str:
    """A report for people: a line a kind of fault, and the first places of each."""
    from data_pipeline.checking.findings import plain
    from data_pipeline.checking.kinds import KINDS

    findings = report.findings
    lines = [
        f"{plain(report.path)}: {report.samples} samples, {report.errors} errors, "
        f"{findings.total('warning')} warnings"
    ]
    for kind in findings.ordered():
        severity, meaning, remedy = KINDS[kind]
        lines.append(f"  {severity:<7}  {findings.counts[kind]:>6}  {meaning}: {remedy}")
        for finding in findings.named[kind][:PLACES]:
            detail = f" ({finding.detail})" if finding.detail else ""
            lines.append(f"{'':19}{finding.where}{detail}")
        if findings.counts[kind] > PLACES < len(findings.named[kind]):
            lines.append(f"{'':19}...")
    return "".join(f"{line}\n" for line in lines)
