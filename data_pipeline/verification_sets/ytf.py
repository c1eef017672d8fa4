"""YouTube Faces: `splits.txt`, pairs of videos in ten folds, and a folder of frames for each video.

The list is comma-separated under a header that names the columns `split number`, `first name`,
`second name` and `is same` (1 or 0); a name is `<person>/<video>`, a folder of frames.
"""

import csv
from pathlib import Path

import numpy as np

from data_pipeline.errors import DataError
from data_pipeline.sources.folder import SUFFIXES
from data_pipeline.verification_sets.template_set import Templates
from data_pipeline.verification_sets.text_lines import read_lines

_COLUMNS = ("split number", "first name", "second name", "is same")


def read_ytf(splits: Path | str, images: Path | str) -> Templates:
    """Read the list, and the names of all frames of its videos in the folder `images`.

    Raises:
        DataError: the list has another form, or a video's folder is missing, empty or a link out.
    """
    splits, root = Path(splits), Path(images).resolve()
    (_, header), *lines = read_lines(splits)
    titles = [title.strip().lower() for title in header.split(",")]
    if missing := [column for column in _COLUMNS if column not in titles]:
        raise DataError(f"{splits} has no column {missing[0]!r} in its first line")
    places = [titles.index(column) for column in _COLUMNS]
    number: dict[str, int] = {}
    pairs = []
    for line, fields in zip(lines, csv.reader(text for _, text in lines), strict=True):
        try:
            fold, first, second, same = (fields[place].strip() for place in places)
            ends = [number.setdefault(name, len(number)) for name in (first, second)]
            pairs.append((*ends, {"1": 1, "0": 0}[same], int(fold)))
        except (IndexError, KeyError, ValueError):
            raise DataError(
                f"{splits}, line {line[0]}: expected a split, two names and 1 or 0, got "
                f"{line[1][:80]!r}"
            ) from None
    if not pairs:
        raise DataError(f"{splits} names no pairs")
    frames = [_frames(root, video) for video in number]
    template = np.repeat(np.arange(len(number)), [len(names) for names in frames])
    first, second, same, fold = np.array(pairs, np.int64).T
    return Templates(
        names=list(number),
        image=np.array([name for names in frames for name in names], object),
        template=template,
        media=template,
        weight=np.ones(len(template), np.float32),
        first=first,
        second=second,
        same=same == 1,
        fold=fold - fold.min(),
    )


def _frames(root: Path, video: str) -> list[str]:
    folder = (root / video).resolve()
    if not folder.is_relative_to(root) or ".." in Path(video).parts or not folder.is_dir():
        raise DataError(f"there is no folder {video!r} of frames in {root}")
    names = sorted(file.name for file in folder.iterdir() if file.suffix.lower() in SUFFIXES)
    if not names:
        raise DataError(f"the folder {video!r} in {root} holds no frames")
    return [f"{video}/{name}" for name in names]
