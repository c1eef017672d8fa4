"""The pairs of a verification set, side by side."""

from typing import Literal

import numpy as np

from cluster.browse.layout import cards, choice_field, count, heading, picture, turning
from cluster.browse.shown import Shown
from data_pipeline.pairs import PairSet
from trainer.report_html import Html, tag

PAGE = 24  # pairs

Kind = Literal["all", "same", "different"]
KINDS: dict[Kind, str] = {"all": "all pairs", "same": "one person", "different": "two persons"}


def pair_list(shown: Shown, pairs: PairSet, kind: Kind, fold: int | None, page: int) -> bytes:
    """A page of the pairs of a kind, of one fold or of all."""
    chosen = _chosen(pairs, kind, fold)
    last = max(1, -(-len(chosen) // PAGE))
    page = min(page, last)
    part = chosen[(page - 1) * PAGE : page * PAGE]
    return shown.frame.page(
        "Pairs",
        heading("Pairs", count(len(chosen), "pair", "pairs")),
        _form(shown, pairs, kind, fold),
        cards([_pair(shown, pairs, number) for number in part.tolist()], width="wide")
        if len(part)
        else tag("p", "No pair is like that.", class_="panel"),
        turning(page, last, lambda to: shown.links.pairs(to, kind=kind, fold=fold)),
        tab="pairs",
    )


def _chosen(pairs: PairSet, kind: Kind, fold: int | None) -> np.ndarray:
    chosen = np.ones(len(pairs.same), np.bool_)
    if kind != "all":
        chosen &= pairs.same == (kind == "same")
    if fold is not None:
        chosen &= pairs.fold == fold
    return np.flatnonzero(chosen)


def _form(shown: Shown, pairs: PairSet, kind: Kind, fold: int | None) -> Html:
    folds = [("", "all folds")] + [(str(k), f"fold {k}") for k in np.unique(pairs.fold).tolist()]
    return tag(
        "form",
        choice_field("Pairs of", "kind", list(KINDS.items()), kind),
        choice_field("Of", "fold", folds, "" if fold is None else str(fold)),
        tag("button", "Show"),
        action=shown.links.pairs(),
        class_="panel",
    )


def _pair(shown: Shown, pairs: PairSet, number: int) -> Html:
    kind: Kind = "same" if pairs.same[number] else "different"
    both = [int(pairs.first[number]), int(pairs.second[number])]
    faces = [
        tag(
            "a",
            picture(shown.links.thumbnail(sample), f"Image {sample} of pair {number}"),
            href=shown.links.face(sample),
        )
        for sample in both
    ]
    words = tag(
        "p",
        tag("b", f"Pair {number}"),
        tag("span", KINDS[kind], class_=kind),
        tag("span", f" fold {pairs.fold[number]}"),
    )
    return tag("div", tag("div", *faces, class_="two"), words, class_="card")
