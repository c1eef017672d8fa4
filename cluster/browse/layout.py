"""The parts that all pages have: the frame with its navigation and search, cards, turning pages.

Plain HTML: no script, no inline style. Every text is escaped unless it was built here.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from cluster.browse.links import Links
from trainer.report_html import Html, join, tag

Tab = Literal["overview", "identities", "pairs"]


@dataclass(frozen=True, kw_only=True)
class Frame:
    """What surrounds every page of a dataset."""

    links: Links
    dataset: str
    """What the dataset is called: its folder."""
    has_pairs: bool
    shows_names: bool

    def page(self, title: str, *content: Html, tab: Tab | None = None, search: str = "") -> bytes:
        """A whole document; `search` stands in the search field."""
        head = join(
            [
                Html('<meta charset="utf-8">'),
                Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
                Html('<meta name="color-scheme" content="light dark">'),
                tag("title", f"{title} · {self.dataset}"),
                void("link", rel="stylesheet", href=self.links.style),
                void("link", rel="icon", href=self.links.icon, type="image/svg+xml"),
            ]
        )
        body = join(
            [
                tag("a", "Skip to content", href="#content", class_="skip"),
                self._bar(tab, search),
                tag("main", *content, self._foot(), id="content"),
            ]
        )
        return (
            f'<!doctype html>\n<html lang="en"><head>{head}</head><body>{body}</body></html>\n'
        ).encode()

    def _bar(self, tab: Tab | None, search: str) -> Html:
        tabs = [
            ("overview", "Overview", self.links.root),
            ("identities", "Identities", self.links.identities()),
        ]
        tabs += [("pairs", "Pairs", self.links.pairs())] if self.has_pairs else []
        entries = [
            tag("li", tag("a", text, href=to, aria_current="page" if name == tab else None))
            for name, text, to in tabs
        ]
        wanted = "Number or name" if self.shows_names else "Number"
        field = tag(
            "label",
            f"{wanted} of an identity, or number of an image",
            void("input", name_="search", value=search, type="search", autocomplete="off"),
        )
        form = tag(
            "form",
            field,
            tag("button", "Find identity"),
            tag("button", "Open image", name_="as", value="image", class_="plain"),
            action=f"{self.links.root}find",
            role="search",
        )
        brand = tag(
            "a",
            tag("bdi", self.dataset),
            tag("small", "facescale data browse"),
            href=self.links.root,
            class_="brand",
        )
        nav = tag("nav", tag("ul", *entries), aria_label="Pages of the dataset")
        return tag("header", tag("div", brand, nav, form), class_="bar")

    def _foot(self) -> Html:
        option = tag("code", "--names")
        names = (
            ["Names are shown because of ", option, "."]
            if self.shows_names
            else ["Identities are numbers; ", option, " shows their names."]
        )
        return tag("footer", "Faces are personal data. Only this browser sees them here. ", *names)


def void(name: str, **attributes: str | float | int | None) -> Html:
    """An element that has no content."""
    return Html(tag(name, **attributes).removesuffix(f"</{name}>"))


def heading(title: str | Html, lead: str = "", *, path: Sequence[Html] = ()) -> Html:
    """The head of a page; `path` leads to the pages above."""
    way = [part for step in path for part in (Html(" / "), step)][1:]
    return tag(
        "header",
        tag("nav", *way, class_="path", aria_label="Where this is") if path else Html(),
        tag("h1", title),
        tag("p", lead, class_="lead") if lead else Html(),
    )


def picture(source: str, description: str) -> Html:
    """An image that is loaded when it comes into sight."""
    return void("img", src=source, alt=description, loading="lazy", width=112, height=112)


def cards(entries: Sequence[Html], *, width: Literal["", "roomy", "wide"] = "") -> Html:
    """Entries beside each other as far as the page is wide."""
    items = [tag("li", entry) for entry in entries]
    return tag("ul", *items, class_=f"cards {width}".strip())


def neighbours(what: str, before: str | None, after: str | None) -> Html:
    """The way to the things before and after this one, where there are any."""
    ways = ((f"← {what} before", before, "prev"), (f"{what} after →", after, "next"))
    return tag(
        "nav",
        *(
            tag("span", words, class_="off", aria_hidden="true")
            if link is None
            else tag("a", words, href=link, rel=rel)
            for words, link, rel in ways
        ),
        class_="pages",
        aria_label="Neighbours",
    )


def turning(page: int, last: int, link: Callable[[int], str]) -> Html:
    """The way to other pages of a list; nothing where there is one."""
    if last <= 1:
        return Html()

    def to(text: str, target: int, rel: str | None = None) -> Html:
        if target == page or not 1 <= target <= last:
            return tag("span", text, class_="off", aria_hidden="true")
        return tag("a", text, href=link(target), rel=rel)

    return tag(
        "nav",
        to("First", 1),
        to("← Previous", page - 1, "prev"),
        tag("span", f"Page {page:,} of {last:,}", class_="here"),
        to("Next →", page + 1, "next"),
        to("Last", last),
        class_="pages",
        aria_label="More pages of this list",
    )


def number_field(label: str, name: str, value: int | None) -> Html:
    """A field for a whole number."""
    shown = "" if value is None else str(value)
    return tag(
        "label",
        label,
        void("input", name_=name, value=shown, inputmode="numeric", class_="number", maxlength=19),
    )


def choice_field(label: str, name: str, options: Sequence[tuple[str, str]], value: str) -> Html:
    """A field for one of some (value, words)."""
    shown = [
        tag("option", words, value=option, selected="" if option == value else None)
        for option, words in options
    ]
    return tag("label", label, tag("select", *shown, name_=name))


def count(number: int, one: str, many: str) -> str:
    """A number of things in words: 1 image, 2,000 images."""
    return f"{number:,} {one if number == 1 else many}"
