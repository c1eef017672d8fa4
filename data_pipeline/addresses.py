"""Where tars may lie: the few forms of address that this project opens, and nothing else.

    file:///data/train-0001.tar        an absolute path on this machine
    s3://bucket/train-0001.tar         and gs://, az://: object storage; credentials come from
                                       where its own tools look for them, never from here
    https://host/train-0001.tar        a web server

Addresses are written into `index.json`, errors and logs, so one that carries a secret (a name and
password, a signature behind `?`) is refused, and what is said of a refused one leaves those parts
out. fsspec's chains (`::`) and webdataset's `pipe:`, which run what an index says, are refused too.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import quote, unquote

from data_pipeline.errors import DataError

OBJECT_STORES = ("s3", "gs", "az")
SCHEMES = ("file", *OBJECT_STORES, "https")

_FORM = re.compile(r"([a-z][a-z0-9+.-]*)://([^/]*)(/.*)?", re.IGNORECASE | re.DOTALL)
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_HOST = re.compile(
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?"
)
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f\\?#]")


@dataclass(frozen=True, order=True)
class Address:
    """A place that may be opened; `Address.parse(text)` makes one, `str()` gives the text back."""

    scheme: str
    host: str
    """The bucket, or the web server with its port; empty for files."""
    path: str
    """From `/` on, as written: a web address keeps its %-escapes."""

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Check an address; raises `DataError` where it is not one of the allowed forms."""
        match = _FORM.fullmatch(text)
        if match is None or match[1].lower() not in SCHEMES:
            raise _refusal(text, f"addresses begin with {', '.join(f'{s}://' for s in SCHEMES)}")
        scheme, host, path = match[1].lower(), match[2], match[3] or "/"
        if "::" in path or ("::" in host and scheme != "https"):
            raise _refusal(text, "chained addresses are not opened")
        if "@" in host:
            raise _refusal(text, "it carries a name or password; keep those in the environment")
        if "?" in path:
            raise _refusal(text, "what follows its `?` may be a signature; use an address without")
        if _FORBIDDEN.search(path) or not text.isprintable():
            raise _refusal(text, "it has characters that no address of a tar needs")
        if ".." in PurePosixPath(unquote(path)).parts:
            raise _refusal(text, "it has `..` in it")
        if scheme == "file" and host:
            raise _refusal(text, "a file's address is file:/// and an absolute path")
        if scheme != "file" and not (_HOST if scheme == "https" else _BUCKET).fullmatch(host):
            raise _refusal(text, "it names no server or bucket")
        return cls(scheme, host.lower() if scheme == "https" else host, path)

    @classmethod
    def of_file(cls, path: Path) -> "Address":
        """The address of a file on this machine."""
        return cls.parse("file://" + quote(os.fsencode(path.absolute()), safe="/~+=,;@ "))

    @property
    def is_local(self) -> bool:
        """Whether it is a file on this machine."""
        return self.scheme == "file"

    @property
    def file(self) -> Path:
        """The path of a local address."""
        assert self.is_local, f"{self} is not on this machine"
        return Path(unquote(self.path, errors="surrogateescape"))

    @property
    def name(self) -> str:
        """The last part, in plain characters."""
        return PurePosixPath(unquote(self.path)).name

    def beside(self, name: str) -> "Address":
        """The address of another file in the same folder."""
        return Address.parse(f"{self.scheme}://{self.host}{self.path.rpartition('/')[0]}/{name}")

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host}{self.path}"


def is_address(text: str) -> bool:
    """Whether a text is meant as an address rather than as a path: `pipe:` and chains are, too."""
    return bool(re.match(r"[a-z][a-z0-9+.-]*:", text, re.IGNORECASE)) or "::" in text


def redacted(text: str) -> str:
    """A text that may be an address, without names, passwords and what follows `?` or `#`."""
    text = re.sub(r"(?<=//)[^/]*@", "...@", text)
    text = re.sub(r"([?#]).*", r"\1...", text, flags=re.DOTALL)
    return repr(text[:200])


def _refusal(text: str, reason: str) -> DataError:
    return DataError(f"the address {redacted(text)} is not opened: {reason}")
