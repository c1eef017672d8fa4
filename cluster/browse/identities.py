"""Pages of identities: a list in an order or as the outcome of a search, and the images of one."""

from typing import get_args

import numpy as np
from jaxtyping import Int64

from cluster.browse.layout import (
    cards,
    choice_field,
    count,
    heading,
    neighbours,
    number_field,
    picture,
    turning,
)
from cluster.browse.links import Selection
from cluster.browse.shown import Shown
from data_pipeline.browse import Order
from trainer.report_html import Html, tag

PAGE = 48  # identities or images: a multiple of the usual numbers of columns
MOST_FOUND = 10_000  # identities by name

_ORDERS = {
    "label": "number",
    "most": "most images first",
    "fewest": "fewest images first",
}
assert tuple(_ORDERS) == get_args(Order)


def identity_list(shown: Shown, selection: Selection, page: int) -> bytes:
    """A page of the identities of a selection."""
    labels = _selected(shown, selection)
    last = max(1, -(-len(labels) // PAGE))
    page = min(page, last)
    lead = _lead(shown, selection, len(labels))
    turn = turning(page, last, lambda to: shown.links.identities(selection, to))
    return shown.frame.page(
        "Identities",
        heading("Identities", lead),
        Html() if selection.search else _form(shown, selection),
        identity_cards(shown, labels[(page - 1) * PAGE : page * PAGE]),
        turn,
        tab="identities",
        search=selection.search,
    )


def identity_cards(shown: Shown, labels: Int64[np.ndarray, " some"]) -> Html:
    """Identities with their first image each."""
    if not len(labels):
        return tag("p", "No identity is like that.", class_="panel")
    entries = []
    for label, sample, caption in zip(
        labels.tolist(), shown.album.first_samples(labels), shown.captions(labels), strict=True
    ):
        face = (
            tag("div", class_="blank")
            if sample is None
            else picture(shown.links.thumbnail(sample), f"First image of identity {label}")
        )
        images = count(int(shown.album.images[label]), "image", "images")
        words = tag("p", tag("b", caption), tag("span", images))
        entries.append(tag("a", face, words, href=shown.links.identity(label), class_="card"))
    return cards(entries)


def identity(shown: Shown, label: int, page: int) -> bytes:
    """The images of one identity."""
    samples = shown.album.samples(label)
    last = max(1, -(-len(samples) // PAGE))
    page = min(page, last)
    first = (page - 1) * PAGE
    entries = []
    for number, sample in enumerate(samples[first : first + PAGE].tolist(), start=first + 1):
        description = f"Image {number} of {len(samples)} of identity {label}"
        face = picture(shown.links.thumbnail(sample), description)
        words = tag("p", tag("b", f"Image {sample}"))
        entries.append(tag("a", face, words, href=shown.links.face(sample), class_="card"))
    return shown.frame.page(
        f"Identity {label}",
        heading(
            shown.caption(label),
            count(len(samples), "image", "images"),
            path=[tag("a", "Identities", href=shown.links.identities())],
        ),
        neighbours(
            "Identity",
            shown.links.identity(label - 1) if label else None,
            shown.links.identity(label + 1) if label + 1 < len(shown.album.images) else None,
        ),
        cards(entries) if entries else tag("p", "It has no images.", class_="panel"),
        turning(page, last, lambda to: shown.links.identity(label, to)),
        tab="identities",
    )


def _selected(shown: Shown, selection: Selection) -> Int64[np.ndarray, " chosen"]:
    if not selection.search:
        return shown.album.labels(
            selection.order, at_least=selection.at_least, at_most=selection.at_most
        )
    if shown.names is None:
        return np.empty(0, np.int64)
    found = shown.names.search(selection.search, limit=MOST_FOUND)
    number = selection.search
    if not (number.isascii() and number.isdigit() and int(number) < shown.dataset.num_identities):
        return found
    return np.concatenate(([int(number)], found[found != int(number)]))


def _lead(shown: Shown, selection: Selection, found: int) -> str:
    if not selection.search:
        return f"{found:,} of {shown.dataset.num_identities:,}"
    if shown.names is None:
        last = shown.dataset.num_identities - 1
        return f"Identities are found by number here, from 0 to {last:,}; names are not shown."
    more = " or more" if found >= MOST_FOUND else ""
    return f"{found:,}{more} with “{selection.search}” in the name, or of that number"


def _form(shown: Shown, selection: Selection) -> Html:
    orders = list(_ORDERS.items())
    return tag(
        "form",
        choice_field("Order by", "order", orders, selection.order),
        number_field("At least so many images", "at_least", selection.at_least or None),
        number_field("At most", "at_most", selection.at_most),
        tag("button", "Show"),
        action=shown.links.identities(),
        class_="panel",
    )
