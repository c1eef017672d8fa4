"""How the pages look: the style of the reports, what only these pages have, and their icon."""

from trainer.report_html import STYLE as REPORTS
from trainer.report_html import tag

ICON = tag(
    "svg",
    tag("rect", width=32, height=32, rx=8, fill="#2f6fde"),
    tag("circle", cx=16, cy=12.5, r=5.5, fill="#ffffff"),
    tag("path", d="M5 28c0-6 5-9 11-9s11 3 11 9z", fill="#ffffff"),
    xmlns="http://www.w3.org/2000/svg",
    viewBox="0 0 32 32",
)

STYLE = (
    REPORTS
    + """
:root { --accent: #2457b8; --chip: #e8eefb; --different: #b4442f; --different-chip: #fbeae6;
  --same: #12704f; --same-chip: #e2f4ec; }
@media (prefers-color-scheme: dark) {
  :root { --accent: #8fb6ff; --chip: #223150; --different: #ff9d8a; --different-chip: #44261f;
    --same: #63d6ad; --same-chip: #17392d; }
}
a { color: var(--accent); text-underline-offset: 2px; }
a:focus-visible, button:focus-visible, input:focus-visible, select:focus-visible {
  outline: 3px solid var(--accent); outline-offset: 2px; border-radius: 6px; }
.skip { position: absolute; left: -999px; }
.skip:focus { left: 12px; top: 8px; background: var(--card); padding: 6px 12px; z-index: 1; }
.bar { margin: 0; background: var(--card); border-bottom: 1px solid var(--line); }
.bar > div { max-width: 1180px; margin: 0 auto; padding: 10px 20px; display: flex;
  flex-wrap: wrap; align-items: center; gap: 8px 20px; }
.brand { font-weight: 680; color: var(--text); text-decoration: none; overflow-wrap: anywhere; }
.brand small { font-weight: 450; color: var(--soft); font-size: 13px; margin-left: 6px; }
.bar ul { display: flex; gap: 4px; list-style: none; margin: 0; padding: 0; }
.bar ul a { display: block; padding: 5px 10px; border-radius: 8px; text-decoration: none; }
.bar ul a:hover { background: var(--chip); }
.bar ul a[aria-current] { background: var(--chip); font-weight: 620; }
form { display: flex; flex-wrap: wrap; gap: 8px; align-items: end; margin: 0; }
.bar form { margin-left: auto; }
label { display: block; font-size: 13px; color: var(--soft); }
input, select, button { font: inherit; color: var(--text); background: var(--page);
  border: 1px solid var(--line); border-radius: 8px; padding: 6px 10px; min-height: 38px;
  max-width: 100%; }
label input, label select { display: block; margin-top: 2px; }
input { border-color: var(--c5); } select { border-color: var(--c5); }
input.number { width: 9.5em; } .bar label input { width: 100%; }
button { background: var(--accent); border-color: var(--accent); color: var(--card);
  font-weight: 600; cursor: pointer; }
button.plain { background: none; color: var(--accent); }
main { padding-top: 24px; }
main > header { margin-bottom: 16px; }
.path { font-size: 14px; color: var(--soft); margin: 0 0 6px; }
.panel { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 14px 16px; margin: 16px 0; }
.cards { list-style: none; margin: 14px 0; padding: 0; display: grid; gap: 12px;
  grid-template-columns: repeat(auto-fill, minmax(132px, 1fr)); }
.cards.roomy { grid-template-columns: repeat(auto-fill, minmax(166px, 1fr)); }
.cards.wide { grid-template-columns: repeat(auto-fill, minmax(min(100%, 264px), 1fr)); }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  overflow: hidden; height: 100%; }
a.card { display: block; color: var(--text); text-decoration: none; }
a.card:hover { border-color: var(--accent); }
main img, .blank { display: block; width: 100%; height: auto; aspect-ratio: 1;
  object-fit: contain; background: var(--grid); }
.card .two { display: grid; grid-template-columns: 1fr 1fr; gap: 2px; }
.card p { margin: 0; padding: 7px 10px 8px; font-size: 13px; line-height: 1.35; }
.card b { display: block; font-weight: 620; font-size: 14px; }
.card span { color: var(--soft); } .card span.change { display: block; }
bdi { overflow-wrap: anywhere; }
.card .same, .card .different { display: inline-block; padding: 1px 8px; border-radius: 99px;
  font-weight: 620; }
.same { color: var(--same); background: var(--same-chip); }
.different { color: var(--different); background: var(--different-chip); }
.card p .same { color: var(--same); } .card p .different { color: var(--different); }
.stored .panel { margin: 0; }
.stored { display: grid; grid-template-columns: minmax(160px, 260px) 1fr; gap: 20px;
  align-items: start; }
.stored > img { border-radius: 10px; border: 1px solid var(--line); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 6px 18px; margin: 0; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere;
  font-variant-numeric: tabular-nums; }
.pages { display: flex; flex-wrap: wrap; gap: 6px 8px; align-items: center; margin: 18px 0; }
.pages a, .pages .off { padding: 6px 12px; border: 1px solid var(--line); border-radius: 8px;
  background: var(--card); text-decoration: none; }
.pages .off { color: var(--soft); opacity: .6; } .pages .here { padding: 6px 8px; }
.bars { width: 100%; } .bars td, .bars th { padding: 5px 10px 5px 0; white-space: nowrap; }
.bars tbody th { font-weight: 450; } .bars td.grow { width: 60%; padding-right: 0; }
.bars svg { height: 14px; margin: 4px 0 0; }
.bad { border-left: 4px solid var(--warn); }
footer code { white-space: nowrap; }
@media (max-width: 760px) {
  .bar form { width: 100%; } .bar form label { flex: 1 1 12em; }
}
@media (max-width: 520px) {
  main { padding: 16px 12px 48px; } .bar > div { padding: 10px 12px; }
  .bar form label { flex: 1 1 100%; }
  .bar form button { flex: 1; }
  .cards { grid-template-columns: repeat(auto-fill, minmax(100px, 1fr)); gap: 8px; }
  .cards.roomy { grid-template-columns: repeat(auto-fill, minmax(140px, 1fr)); }
  .bars thead th { white-space: normal; }
  .stored { grid-template-columns: 1fr; } h1 { font-size: 24px; }
  .tiles { grid-template-columns: 1fr 1fr; } .tile b { font-size: 20px; }
  figure svg text { font-size: 17px; } .bars td.grow { width: 30%; }
}
"""
)
