"""Building the report's HTML and SVG: every text is escaped unless it was built here.

No template language: a page is nested calls of `tag`. The page carries its style inside and loads
nothing; its content security policy forbids scripts and every request.
"""

import base64
import hashlib
import html
from collections.abc import Iterable


class Html(str):
    """Markup that is already safe; any other text is escaped where it is used."""

    __slots__ = ()


def tag(name: str, *content: str | Html, **attributes: str | float | int | None) -> Html:
    """One element. In attribute names `_` stands for `-`, and a trailing one is dropped."""
    inside = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(_text(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Html(f"<{name}{inside}>{join(content)}</{name}>")


def join(parts: Iterable[str | Html]) -> Html:
    """Texts and elements one after the other, the texts escaped."""
    return Html("".join(p if isinstance(p, Html) else html.escape(p) for p in parts))


def section(title: str, *content: Html) -> Html:
    """A part of the page under its heading."""
    return tag("section", tag("h2", title), *content)


def grid(*charts: Html) -> Html:
    """Charts beside each other as far as the page is wide."""
    return tag("div", *charts, class_="charts")


def tile(value: str, label: str) -> Html:
    """One figure in large type with what it is below."""
    return tag("div", tag("b", value), tag("span", label), class_="tile")


def page(*, title: str, style: str, body: Html) -> str:
    """A whole document that needs nothing but itself."""
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    head = join(
        [
            Html('<meta charset="utf-8">'),
            Html(f'<meta http-equiv="Content-Security-Policy" content="{policy}">'),
            Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
            Html('<meta name="color-scheme" content="light dark">'),
            tag("title", title),
            Html(f"<style>{style}</style>"),
        ]
    )
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>{body}</body></html>\n'


def _text(value: str | float | int) -> str:
    return value if isinstance(value, str) else f"{value:.2f}".rstrip("0").rstrip(".")


STYLE = """
:root {
  --page: #f6f7f9; --card: #ffffff; --text: #1b2330; --soft: #5c6778; --line: #e3e7ed;
  --grid: #e9edf2; --c0: #2f6fde; --c1: #d97a1f; --c2: #1f9d76; --c3: #8b5fd6; --c4: #d24d57;
  --c5: #7d8896; --good: #1f9d76; --warn: #c0392b;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #11151c; --card: #191f29; --text: #e6eaf0; --soft: #98a4b5; --line: #2a3240;
    --grid: #262e3b; --c0: #6ea3ff; --c1: #f2a65a; --c2: #4fc79f; --c3: #b394f5; --c4: #f2808a;
    --c5: #93a0b1; --good: #4fc79f; --warn: #ff8a7a;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 32px 20px 64px; }
header { margin-bottom: 24px; }
h1 { font-size: 28px; line-height: 1.2; margin: 0 0 4px; letter-spacing: -.01em; }
h2 { font-size: 18px; margin: 36px 0 12px; }
.lead { color: var(--soft); margin: 0; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(170px, 1fr)); gap: 12px;
  margin-top: 20px; }
.tile, figure, .table { background: var(--card); border: 1px solid var(--line);
  border-radius: 10px; }
.tile { padding: 14px 16px; }
.tile b { display: block; font-size: 24px; font-weight: 650; line-height: 1.25;
  font-variant-numeric: tabular-nums; }
.tile span { display: block; color: var(--soft); font-size: 13px; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 460px), 1fr));
  gap: 14px; }
figure { margin: 0; padding: 14px 16px 10px; min-width: 0; }
figcaption { display: flex; flex-wrap: wrap; gap: 2px 14px; align-items: baseline; }
figcaption strong { font-weight: 620; }
.key { color: var(--soft); font-size: 13px; white-space: nowrap; }
.key i { display: inline-block; width: 11px; height: 11px; border-radius: 3px; margin-right: 5px;
  vertical-align: -1px; }
.note { color: var(--soft); font-size: 13px; margin: 4px 0 0; }
.none { color: var(--soft); padding: 56px 0; text-align: center; margin: 0; }
svg { display: block; width: 100%; height: auto; margin-top: 6px; }
svg text { fill: var(--soft); font-size: 11.5px; font-variant-numeric: tabular-nums; }
.grid { stroke: var(--grid); } .axis { stroke: var(--soft); stroke-opacity: .55; }
.mark { stroke: var(--warn); stroke-dasharray: 3 3; stroke-opacity: .75; }
.curve { fill: none; stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
.faint { fill: none; stroke-width: 1; stroke-opacity: .38; }
.band { fill-opacity: .15; } .area { fill-opacity: .82; } .dot { stroke: var(--card); }
.s0 { stroke: var(--c0); } .s1 { stroke: var(--c1); } .s2 { stroke: var(--c2); }
.s3 { stroke: var(--c3); } .s4 { stroke: var(--c4); } .s5 { stroke: var(--c5); }
.f0 { fill: var(--c0); background: var(--c0); } .f1 { fill: var(--c1); background: var(--c1); }
.f2 { fill: var(--c2); background: var(--c2); } .f3 { fill: var(--c3); background: var(--c3); }
.f4 { fill: var(--c4); background: var(--c4); } .f5 { fill: var(--c5); background: var(--c5); }
.table { overflow-x: auto; padding: 4px 0; margin-top: 14px; }
h2 + .table, figure .table { margin-top: 0; } figure .table { border: 0; }
figure td:first-child, figure th:first-child { padding-left: 0; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
th, td { text-align: left; padding: 6px 16px; vertical-align: top; overflow-wrap: anywhere; }
th:first-child, td:first-child { overflow-wrap: normal; }
th { color: var(--soft); font-weight: 550; white-space: nowrap; }
tbody tr + tr > * { border-top: 1px solid var(--line); }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
details { margin-top: 14px; } summary { cursor: pointer; font-weight: 620; padding: 6px 0; }
code { font: 13px/1.45 ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
footer { color: var(--soft); font-size: 13px; margin-top: 36px; }
@media print { body { background: none; } figure, .tile, .table { break-inside: avoid; } }
"""
