"""The first page: figures of a dataset, and how its images are shared out among identities."""

import numpy as np

from cluster.browse.identities import identity_cards
from cluster.browse.layout import count, heading
from cluster.browse.links import Selection
from cluster.browse.shown import Shown
from data_pipeline.browse import Bin
from trainer.report_charts import Axis, Line, line_chart, number, percent
from trainer.report_html import Html, section, tag, tile
from trainer.report_tables import size

POINTS = 200  # of the long tail's curve
FIRST = 24  # identities


def overview(shown: Shown) -> bytes:
    """Figures, the long tail, and the identities with the most images."""
    dataset, images = shown.dataset, shown.album.images
    height, width = dataset.image_size or (None, None)
    tiles = [
        (number(dataset.num_identities), "identities"),
        (number(dataset.num_samples), "images"),
        (f"{np.median(images):g}", f"images an identity, the median; {images.max():,} at most"),
        (number(int((images == 1).sum())), "identities with one image"),
        ("mixed" if height is None else f"{height} x {width}", "pixels of height and width"),
        (
            size(float(sum(s.bytes for s in dataset.shards))),
            count(len(dataset.shards), "shard", "shards"),
        ),
    ]
    if shown.pairs is not None:
        tiles.append((number(len(shown.pairs.same)), "pairs to verify"))
    most = Selection(order="most")
    labels = shown.album.labels("most")[:FIRST]
    return shown.frame.page(
        "Overview",
        heading(tag("bdi", shown.frame.dataset), _lead(shown)),
        tag("div", *(tile(value, label) for value, label in tiles), class_="tiles"),
        section(
            "How many images the identities have",
            tag("div", _long_tail(shown), _histogram(shown), class_="charts"),
        ),
        section(
            "Identities with the most images",
            identity_cards(shown, labels),
            tag("p", tag("a", "All identities", href=shown.links.identities(most))),
        ),
        tab="overview",
    )


def _lead(shown: Shown) -> str:
    left_out = shown.dataset.source.get("unreadable_images", 0)
    said = ["A verification set." if shown.pairs is not None else "A training set."]
    if left_out:
        said.append(f"{count(left_out, 'image', 'images')} could not be read when packing.")
    if shown.album.nobodys:
        nobodys = count(shown.album.nobodys, "image has", "images have")
        said.append(f"{nobodys} a label that does not exist; training leaves them out.")
    return " ".join(said)


def _long_tail(shown: Shown) -> Html:
    rank, images = shown.album.long_tail(POINTS)
    height = np.where(images > 0, images, np.nan).astype(np.float64)
    return line_chart(
        "The long tail",
        [Line(name="", x=rank.astype(np.float64), y=height)],
        x=Axis(label="identities, those with the most images first", log=True),
        y=Axis(label="images", log=True),
        note="Both axes are logarithmic.",
    )


def _histogram(shown: Shown) -> Html:
    bins = shown.album.histogram()
    widest = max(found.identities for found in bins)
    rows = [_bar(shown, found, widest) for found in bins]
    head = tag(
        "tr",
        tag("th", "Images", scope="col"),
        tag("th", "Identities", scope="col", class_="n"),
        tag("th", "Share of images", scope="col", class_="n"),
        tag("td", class_="grow"),
    )
    table = tag("table", tag("thead", head), tag("tbody", *rows), class_="bars")
    caption = tag("figcaption", tag("strong", "Identities by their number of images"))
    return tag("figure", caption, table)


def _bar(shown: Shown, found: Bin, widest: int) -> Html:
    low, high = found.at_least, found.at_most
    words = f"{low:,}" if low == high else f"{low:,} to {high:,}"
    chosen = Selection(order="most", at_least=low, at_most=high)
    length = max(found.identities / widest, 0.004)
    bar = tag("rect", width=f"{length:.1%}", height=14, rx=3, class_="f0")
    return tag(
        "tr",
        tag("th", tag("a", words, href=shown.links.identities(chosen)), scope="row"),
        tag("td", f"{found.identities:,}", class_="n"),
        tag("td", percent(found.images / shown.dataset.num_samples), class_="n"),
        tag("td", tag("svg", bar, aria_hidden="true"), class_="grow"),
    )
