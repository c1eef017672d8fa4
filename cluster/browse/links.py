"""The addresses of the pages and pictures: all numbers and chosen words, never a path or a name."""

from typing import NamedTuple
from urllib.parse import urlencode

from data_pipeline.browse import Order


class Treatment(NamedTuple):
    """What training does to a face: the preset, the epoch and the seed of a run."""

    preset: str
    epoch: int
    seed: int


class Selection(NamedTuple):
    """Identities of a list: those with so many images, or those that a text was searched for."""

    order: Order = "label"
    at_least: int = 0
    at_most: int | None = None
    search: str = ""


EVERYONE = Selection()


class Links:
    """Addresses under a root path that ends in a slash."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.style = f"{root}style.css"
        self.icon = f"{root}icon.svg"

    def identities(self, selection: Selection = EVERYONE, page: int = 1) -> str:
        """A page of identities."""
        shown = selection._asdict() | {"page": page}
        standing = EVERYONE._asdict() | {"page": 1}
        return self._to("identities", {k: v for k, v in shown.items() if v != standing[k]})

    def identity(self, label: int, page: int = 1) -> str:
        """The images of an identity."""
        return self._to(f"identity/{label}", {"page": page} if page > 1 else {})

    def face(self, sample: int, treatment: Treatment | None = None) -> str:
        """An image and what training makes of it."""
        return self._to(f"face/{sample}", treatment._asdict() if treatment else {})

    def pairs(self, page: int = 1, *, kind: str = "all", fold: int | None = None) -> str:
        """A page of a verification set's pairs."""
        chosen = {"kind": kind, "fold": fold, "page": page}
        standing = {"kind": "all", "fold": None, "page": 1}
        return self._to("pairs", {k: v for k, v in chosen.items() if v != standing[k]})

    def thumbnail(self, sample: int) -> str:
        """An image as it is stored, made small."""
        return self._to(f"thumbnail/{sample}", {})

    def view(self, sample: int, treatment: Treatment) -> str:
        """An image as the network sees it."""
        return self._to(f"view/{sample}", treatment._asdict())

    def _to(self, path: str, query: dict[str, object]) -> str:
        return f"{self.root}{path}" + (f"?{urlencode(query)}" if query else "")
