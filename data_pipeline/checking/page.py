"""A report as one HTML file that only its owner may read: it shows faces.

Everything is in the file: no script, no address, thumbnails as `data:` URIs of JPEGs that were
encoded here. Names are escaped.
"""

import base64
import os
from collections.abc import Sequence
from contextlib import suppress
from html import escape
from pathlib import Path

from data_pipeline.checking.findings import NAMED, Finding, plain
from data_pipeline.checking.kinds import KINDS
from data_pipeline.checking.report import Report
from data_pipeline.errors import DataError
from data_pipeline.partial import sync

_START = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>facescale data check</title>
"""
_STYLE = """<style>
:root { color-scheme: light dark; --line: #8884; --soft: #666; --error: #c62828;
 --warning: #b26a00 }
@media (prefers-color-scheme: dark) { :root { --soft: #aaa; --error: #ff8a80;
 --warning: #ffb74d } }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.4rem } h2 { font-size: 1.1rem; overflow-wrap: anywhere } h3 { font-size: 1rem }
table { border-collapse: collapse; width: 100% }
td, th { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line);
 vertical-align: top }
td.n { text-align: right; font-variant-numeric: tabular-nums }
.error { color: var(--error) } .warning { color: var(--warning) } .soft { color: var(--soft) }
ul { list-style: none; padding: 0; display: grid; gap: .8rem;
 grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)) }
li { display: flex; gap: .7rem; border: 1px solid var(--line); border-radius: .5rem;
 padding: .6rem; overflow-wrap: anywhere; min-width: 0 }
li > div { min-width: 0 } li img { flex: none; max-width: 96px; height: auto; align-self: start }
</style>
"""


def write_page(reports: Sequence[Report], path: Path | str) -> None:
    """Write the page of some reports; it appears whole, with the owner's permissions alone.

    Raises:
        DataError: there is another kind of file at `path`, or it cannot be written.
    """
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    try:
        if path.is_symlink() or (path.exists() and not _is_page(path)):
            raise DataError(f"{path} exists and is no page of a check; choose another name")
        with suppress(FileNotFoundError):
            partial.unlink()  # a killed writer's
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with os.fdopen(os.open(partial, flags, 0o600), "w", encoding="utf-8") as stream:
            stream.write(page(reports))
        sync(partial)
        partial.rename(path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise DataError(f"cannot write {path}: {error.strerror or error}") from error


def page(reports: Sequence[Report]) -> str:
    """The page as text."""
    parts = [_START, _STYLE, "<h1>What a check found</h1>\n", *map(_section, reports), "</html>\n"]
    return "".join(parts).encode("utf-8", "backslashreplace").decode()


def _section(report: Report) -> str:
    findings = report.findings
    told = (
        f"{report.samples:,} samples, {report.files:,} files, {report.errors:,} errors, "
        f"{findings.total('warning'):,} warnings"
    )
    parts = [f"<section>\n<h2>{escape(plain(report.path))}</h2>\n<p>{told}</p>\n"]
    if not findings.counts:
        return "".join([*parts, "<p>Nothing is wrong.</p>\n</section>\n"])
    parts.append("<table><tr><th>what</th><th>how many</th><th>what to do</th></tr>\n")
    for kind in findings.ordered():
        severity, meaning, remedy = KINDS[kind]
        parts.append(
            f'<tr><td><span class="{severity}">{severity}</span>: {escape(meaning)}</td>'
            f'<td class="n">{findings.counts[kind]:,}</td><td>{escape(remedy)}</td></tr>\n'
        )
    parts.append("</table>\n")
    for kind in findings.ordered():
        named = findings.named[kind]
        parts.append(f'<h3 class="{KINDS[kind].severity}">{escape(KINDS[kind].meaning)}</h3>\n')
        if findings.counts[kind] > NAMED == len(named):
            count = f"{findings.counts[kind]:,}"
            parts.append(f'<p class="soft">the first {len(named)} of {count}</p>\n')
        parts.append(f"<ul>\n{''.join(map(_card, named))}</ul>\n")
    return "".join([*parts, "</section>\n"])


def _card(finding: Finding) -> str:
    picture = ""
    if finding.thumbnail is not None:
        encoded = base64.b64encode(finding.thumbnail).decode()
        alt = "the image, as far as it can be decoded"
        picture = f'<img alt="{alt}" src="data:image/jpeg;base64,{encoded}">'
    number = "" if finding.sample is None else f"sample {finding.sample}, "
    detail = f'<br><span class="soft">{escape(finding.detail)}</span>' if finding.detail else ""
    return f"<li>{picture}<div>{number}{escape(finding.where)}{detail}</div></li>\n"


def _is_page(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return stream.read(len(_START)) == _START.encode()
