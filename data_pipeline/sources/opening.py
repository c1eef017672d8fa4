"""The source that a path is: a folder of folders, a RecordIO set, a list of files, a dataset."""

from pathlib import Path

from data_pipeline.index import INDEX
from data_pipeline.sources import Source
from data_pipeline.sources.folder import FolderSource
from data_pipeline.sources.lists import SUFFIXES, ListSource
from data_pipeline.sources.packed import PackedSource
from data_pipeline.sources.recordio import RecordIOSource


def open_source(path: Path | str) -> Source:
    """Open images to pack; raises `DataError` as the kind of source that the path looks like.

    A `.rec`, or a folder with a `train.rec`, is a RecordIO set. A file with one of a list's
    suffixes is a list, its paths relative to the folder that it lies in. A folder with an
    `index.json` is a dataset that was packed or indexed.
    """
    path = Path(path)
    if path.suffix.lower() == ".rec" or (path / "train.rec").is_file():
        return RecordIOSource.open(path)
    if path.suffix.lower() in SUFFIXES and not path.is_dir():
        return ListSource.open(path)
    if (path / INDEX).is_file():
        return PackedSource.open(path)
    return FolderSource.open(path)
