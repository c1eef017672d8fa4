"""What a check has found: everything is counted, the first of each kind are kept with a thumbnail.

Memory does not grow with the damage, and what is kept has no control characters in it, so that a
name from a tar can do nothing to a terminal, a page or a log.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from data_pipeline.checking.images import thumbnail
from data_pipeline.checking.kinds import KINDS, Severity

NAMED = 20  # of each kind
MOST_CHARACTERS = 300  # of a name or a detail


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing that is wrong."""

    kind: str
    where: str
    """The file, and where in it."""
    detail: str
    sample: int | None
    """Its number, in a dataset."""
    thumbnail: bytes | None
    """A small JPEG of ours, where something of the image can be shown."""


@dataclass
class Findings:
    """Counts of all findings, and the first `NAMED` of each kind; pickles between processes."""

    counts: Counter[str] = field(default_factory=Counter)
    named: dict[str, list[Finding]] = field(default_factory=dict)

    def add(
        self,
        kind: str,
        where: str,
        *,
        detail: str = "",
        sample: int | None = None,
        content: bytes | None = None,
        count: int = 1,
    ) -> None:
        """Note a finding, or `count` alike; `content` is the image for its thumbnail."""
        self.counts[kind] += count
        named = self.named.setdefault(kind, [])
        if len(named) < NAMED:
            named.append(
                Finding(
                    kind=kind,
                    where=plain(where),
                    detail=plain(detail),
                    sample=sample,
                    thumbnail=None if content is None else thumbnail(content),
                )
            )

    def merge(self, other: "Findings") -> None:
        """Add another's, in order."""
        self.counts += other.counts
        for kind, findings in other.named.items():
            mine = self.named.setdefault(kind, [])
            mine += findings[: NAMED - len(mine)]

    def total(self, severity: Severity) -> int:
        """How many there are of a severity."""
        return sum(n for kind, n in self.counts.items() if KINDS[kind].severity == severity)

    def ordered(self) -> list[str]:
        """The kinds found, errors first, most frequent first."""
        return sorted(
            self.counts, key=lambda kind: (KINDS[kind].severity, -self.counts[kind], kind)
        )

    def plain(self) -> list[dict[str, Any]]:
        """All of it but the thumbnails, for JSON."""
        return [
            {
                "kind": kind,
                "severity": KINDS[kind].severity,
                "count": self.counts[kind],
                "meaning": KINDS[kind].meaning,
                "remedy": KINDS[kind].remedy,
                "named": [
                    {"where": f.where, "detail": f.detail, "sample": f.sample}
                    for f in self.named[kind]
                ],
            }
            for kind in self.ordered()
        ]


def plain(text: str) -> str:
    """The text with nothing in it that a terminal acts on: at most some 300 characters."""
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text[:MOST_CHARACTERS])
    return shown + "..." if len(text) > MOST_CHARACTERS else shown
