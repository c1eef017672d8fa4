"""A folder of folders: `<identity>/<image>`, the form most face datasets come in.

Files that do not look like images, hidden ones and deeper folders are passed over and counted. A
symbolic link is followed only if it stays inside the source, so that packing a folder from
somewhere else never reads (and publishes) a file of this machine.
"""

import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from data_pipeline.errors import DataError
from data_pipeline.image_header import MAX_IMAGE_BYTES

SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")
)
SEPARATOR = "/"  # of names of files, which cannot hold it


@dataclass(frozen=True, kw_only=True)
class FolderSource:
    """The images of a folder, listed once; `FolderSource.open(path)` makes one."""

    root: Path
    images: Mapping[str, tuple[str, ...]]
    """Names of image files by name of identity, both sorted."""
    ignored_files: int
    empty_identities: int

    @classmethod
    def open(cls, path: Path | str) -> "FolderSource":
        """List a folder; one that is missing or holds no images is refused."""
        path = Path(path)
        if not path.exists():
            raise DataError(f"the source {path} does not exist")
        if not path.is_dir():
            raise DataError(f"the source {path} is not a folder of <identity>/<image>")
        root = path.resolve()
        images: dict[str, str] = {}
        ignored = empty = 0
        for entry in _listing(root):
            if entry.name.startswith(".") or not _inside(entry, root).is_dir():
                ignored += 1
                continue
            names = [_text(file, path) for file in _listing(Path(entry)) if _is_image(file, root)]
            ignored += len(_listing(Path(entry))) - len(names)
            if names:
                images[_text(entry, path)] = SEPARATOR.join(names)
            else:
                empty += 1
        if not images:
            raise DataError(
                f"the source {path} holds no images: expected <identity>/<image> with one of the "
                f"suffixes {' '.join(sorted(SUFFIXES))}"
            )
        return cls(root=root, images=_Names(images), ignored_files=ignored, empty_identities=empty)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """(identity, image) of every image file."""
        return ((identity, name) for identity, names in self.images.items() for name in names)

    def read(self, identity: str, image: str) -> bytes:
        """The bytes of one image file."""
        with (self.root / identity / image).open("rb") as stream:
            info = os.fstat(stream.fileno())
            if not stat.S_ISREG(info.st_mode):
                raise DataError("not a regular file")
            if info.st_size > MAX_IMAGE_BYTES:
                raise DataError(f"{info.st_size} bytes; the limit is {MAX_IMAGE_BYTES}")
            return stream.read(MAX_IMAGE_BYTES + 1)

    def without_listing(self) -> "FolderSource":
        """The same folder, for reading alone."""
        return replace(self, images={})

    def counts(self) -> Mapping[str, int]:
        """Files and folders that hold no images."""
        return {"ignored_files": self.ignored_files, "empty_identities": self.empty_identities}


class _Names(Mapping[str, tuple[str, ...]]):
    """Names of files by folder: one string each folder, for there may be millions of files."""

    def __init__(self, joined: Mapping[str, str]) -> None:
        self._joined = joined

    def __getitem__(self, folder: str) -> tuple[str, ...]:
        return tuple(self._joined[folder].split(SEPARATOR))

    def __iter__(self) -> Iterator[str]:
        return iter(self._joined)

    def __len__(self) -> int:
        return len(self._joined)


def _listing(folder: Path) -> list["os.DirEntry[str]"]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"cannot list {folder}: {error.strerror}") from error


def _is_image(entry: "os.DirEntry[str]", root: Path) -> bool:
    if entry.name.startswith(".") or Path(entry.name).suffix.lower() not in SUFFIXES:
        return False
    path = _inside(entry, root)
    return path.is_file() or not path.exists()  # a broken link is an unreadable image


def _inside(entry: "os.DirEntry[str]", root: Path) -> Path:
    path = Path(entry)
    if entry.is_symlink() and not path.resolve().is_relative_to(root):
        raise DataError(
            f"{path} is a link to a place outside of {root}; replace it by what it points to, "
            "or remove it"
        )
    return path


def _text(entry: "os.DirEntry[str]", source: Path) -> str:
    try:
        entry.name.encode()
    except UnicodeEncodeError:
        raise DataError(
            f"the name {os.fsencode(entry.name)!r} in {source} is not UTF-8; rename it"
        ) from None
    return entry.name
