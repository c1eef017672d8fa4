"""The meta files of IJB-B and IJB-C, in the form in which insightface passes them on.

    ijb?_face_tid_mid.txt          image, template, media
    ijb?_name_5pts_score.txt       image, five points, the detector's score; the same images
    ijb?_template_pair_label.txt   template, template, 1 or 0
    ijb?_1N_*.csv                  template, subject, ...; galleries and probes, where they are

The points are for alignment (`facescale data pack --landmarks` reads the same file).
"""

from pathlib import Path

import numpy as np
import pyarrow
from jaxtyping import Int64

from data_pipeline.errors import DataError
from data_pipeline.verification_sets.template_set import Role, Templates
from data_pipeline.verification_sets.text_lines import read_columns

_INT, _FLOAT, _TEXT = pyarrow.int64(), pyarrow.float64(), pyarrow.string()
_POINTS = {f"point {i}": _FLOAT for i in range(10)}


def read_ijb(folder: Path | str) -> Templates:
    """Read the meta files of one of the two sets from a folder.

    Raises:
        DataError: a file is missing, several sets lie there, or the files disagree.
    """
    folder = Path(folder)
    faces_file = _only(folder, "*_face_tid_mid.txt")
    faces = read_columns(faces_file, {"image": _TEXT, "template": _INT, "media": _INT})
    scores_file = _only(folder, "*_name_5pts_score.txt")
    scores = read_columns(scores_file, {"image": _TEXT, **_POINTS, "score": _FLOAT})
    if not np.array_equal(faces["image"], scores["image"]):
        raise DataError(f"{faces_file} and {scores_file} do not list the same images in one order")
    pairs_file = _only(folder, "*_template_pair_label.txt")
    pairs = read_columns(pairs_file, {"first": _INT, "second": _INT, "same": _INT})
    if not np.isin(pairs["same"], (0, 1)).all():
        raise DataError(f"{pairs_file}: a label is neither 0 nor 1")
    published, template = np.unique(faces["template"], return_inverse=True)
    return Templates(
        names=[str(name) for name in published.tolist()],
        image=faces["image"],
        template=template,
        media=faces["media"],
        weight=scores["score"].astype(np.float32),
        first=_numbers(pairs["first"], published, pairs_file),
        second=_numbers(pairs["second"], published, pairs_file),
        same=pairs["same"] == 1,
        fold=np.zeros(len(pairs["same"]), np.int64),
        roles={
            file.stem.partition("_1N_")[2]: _role(file, published)
            for file in sorted(folder.glob("ijb?_1N_*.csv"))
        },
    )


def _only(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise DataError(f"{folder} holds {len(found)} files like {pattern}, not one")
    return found[0]


def _role(file: Path, published: np.ndarray) -> Role:
    rows = read_columns(file, {"template": _INT, "subject": _INT}, delimiter=",", skip_rows=1)
    each, subjects = np.unique(np.stack((rows["template"], rows["subject"])), axis=1)
    if len(np.unique(each)) < len(each):
        raise DataError(f"{file} gives a template to two subjects; copy it again")
    return Role(template=_numbers(each, published, file), subject=subjects)


def _numbers(
    templates: Int64[np.ndarray, " some"], published: np.ndarray, file: Path
) -> Int64[np.ndarray, " some"]:
    place = np.minimum(np.searchsorted(published, templates), len(published) - 1)
    missing = templates[published[place] != templates]
    if len(missing):
        raise DataError(f"{file} names template {missing[0]}, which has no images")
    return place.astype(np.int64)
