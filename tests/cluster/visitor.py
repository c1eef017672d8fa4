"""A browser as far as pages of a dataset go: it keeps the cookie, and reads what it gets."""

import asyncio
import re
from html.parser import HTMLParser
from urllib.parse import urlsplit

from cluster.browse.door import Door
from cluster.browse.shown import Shown
from cluster.browse.site import Site
from cluster.connections import Request

VOID = {"meta", "link", "img", "input"}


class Page(HTMLParser):
    """Elements, attributes and text of a page; checks that elements nest."""

    def __init__(self, text):
        super().__init__()
        self.elements = []
        self.text = ""
        self.open = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def every(self, tag, attribute):
        return [a[attribute] for name, a in self.elements if name == tag and attribute in a]


class Visitor:
    """A browser with the cookie, as far as requests go."""

    def __init__(self, path, *, with_names=False, image_size=16):
        self.door = Door()
        self.shown = Shown.open(path, root=self.door.root, with_names=with_names)
        self.site = Site(self.shown, self.door, image_size=image_size)
        self.headers = {"host": "127.0.0.1"}
        token = self.door.link(1).partition("?")[2]
        entered = self.ask(f"{self.door.root}?{token}")
        self.headers["cookie"] = dict(entered.headers)["Set-Cookie"].partition(";")[0]

    def ask(self, address):
        parts = urlsplit(address)
        return asyncio.run(self.site.answer(Request("GET", parts.path, parts.query, self.headers)))

    def get(self, path=""):
        return self.ask(f"{self.door.root}{path}")

    def page(self, path=""):
        answer = self.get(path)
        assert answer.status == 200, answer.body
        return Page(answer.body.decode())

    def identities(self, path):
        """The labels on a page of identities, in order."""
        links = self.page(path).every("a", "href")
        found = (re.fullmatch(rf"{self.door.root}identity/(\d+)", link) for link in links)
        return [int(match[1]) for match in found if match]
