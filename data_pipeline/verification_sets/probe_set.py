"""Identification among distractors (MegaFace): a packed dataset with two tables beside it.

    probes.parquet        sample, noise: images of a few known persons, their labels
    distractors.parquet   sample, noise: images of strangers, each with a label of its own

`noise` marks what insightface's lists call wrong: such a probe is to count as its person's mean,
such a distractor not at all.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow
from jaxtyping import Bool, Int64

from data_pipeline.alignment import Alignment
from data_pipeline.errors import DataError
from data_pipeline.index import Dataset
from data_pipeline.pack import Packed
from data_pipeline.pack_tables import pack_with_tables, read_table
from data_pipeline.sources.lists import ListSource
from data_pipeline.verification_sets.text_lines import read_lines

PROBES = "probes.parquet"
DISTRACTORS = "distractors.parquet"

_SCHEMA = pyarrow.schema({"sample": pyarrow.int64(), "noise": pyarrow.bool_()})
_PROBE_LISTS = ("facescrub_lst", "facescrub_features_list.json")
_DISTRACTOR_LISTS = ("megaface_lst", "megaface_features_list.json_1000000_1")


@dataclass(frozen=True, kw_only=True)
class ProbeSet:
    """A packed identification set; `ProbeSet.open(path)` makes one."""

    dataset: Dataset
    probe: Int64[np.ndarray, " probes"]
    """Samples."""
    probe_identity: Int64[np.ndarray, " probes"]
    """Labels."""
    probe_noise: Bool[np.ndarray, " probes"]
    distractor: Int64[np.ndarray, " distractors"]
    """Samples."""
    distractor_noise: Bool[np.ndarray, " distractors"]

    @classmethod
    def open(cls, path: Path | str) -> "ProbeSet":
        """Open a dataset with probes; one whose tables do not fit it is refused."""
        dataset = Dataset.open(path)
        probes, distractors = (read_table(dataset, n, _SCHEMA) for n in (PROBES, DISTRACTORS))
        probe, distractor = probes["sample"].to_numpy(), distractors["sample"].to_numpy()
        named = np.sort(np.concatenate((probe, distractor)))
        if not np.array_equal(named, np.arange(dataset.num_samples)):
            raise DataError(f"{dataset.path}: its tables do not name each sample once; pack again")
        return cls(
            dataset=dataset,
            probe=probe,
            probe_identity=dataset.labels()[probe],
            probe_noise=probes["noise"].to_numpy(),
            distractor=distractor,
            distractor_noise=distractors["noise"].to_numpy(),
        )


def pack_megaface(
    folder: Path | str,
    dest: Path | str,
    *,
    alignment: Alignment | None = None,
    seed: int = 0,
    workers: int = 1,
    show_progress: bool = False,
) -> ProbeSet:
    """Pack MegaFace as insightface passes it on, or with the lists of its own kit.

    The folder holds `facescrub_images/<person>/<image>`, `megaface_images/<a>/<b>/<image>`, a list
    of each (`facescrub_lst` or `facescrub_features_list.json`, `megaface_lst` or
    `megaface_features_list.json_1000000_1`) and the lists of noise `facescrub_noises.txt` and
    `megaface_noises.txt`. Every image that a list names must be there.
    """
    folder = Path(folder)
    probes = [entry[-2:] for entry in _entries(folder, _PROBE_LISTS, parts=2)]
    distractors = [entry[-3:] for entry in _entries(folder, _DISTRACTOR_LISTS, parts=3)]
    wrong_probes = set(_noise(folder / "facescrub_noises.txt"))
    wrong_distractors = set(_noise(folder / "megaface_noises.txt"))
    paths = [
        *("/".join(("facescrub_images", *entry)) for entry in probes),
        *("/".join(("megaface_images", *entry)) for entry in distractors),
    ]
    labels = [
        *(person for person, _ in probes),
        *("/".join(entry) for entry in distractors),  # of no probe, whose names have no slash
    ]
    if len(set(paths)) < len(paths):
        raise DataError(f"the lists in {folder} name an image twice; copy them again")
    batches = pyarrow.table({"path": paths, "label": labels}).to_batches()
    source = ListSource.of(batches, root=folder, name=f"the lists in {folder}")

    def tables_of(packed: Packed) -> dict[str, pyarrow.Table]:
        sample_of = {path: sample for sample, (_, path) in enumerate(packed.images)}
        sample = [sample_of[path] for path in paths]
        cut = len(probes)
        return {
            PROBES: _table(sample[:cut], (entry[-1] in wrong_probes for entry in probes)),
            DISTRACTORS: _table(
                sample[cut:], ("/".join(entry) in wrong_distractors for entry in distractors)
            ),
        }

    pack_with_tables(
        source,
        Path(dest),
        tables_of,
        alignment=alignment,
        seed=seed,
        workers=workers,
        show_progress=show_progress,
    )
    return ProbeSet.open(dest)


def _table(sample: list[int], noise: Iterable[bool]) -> pyarrow.Table:
    return pyarrow.table({"sample": sample, "noise": list(noise)}, schema=_SCHEMA)


def _entries(folder: Path, names: tuple[str, str], *, parts: int) -> list[list[str]]:
    """The last parts of each path of a list of images."""
    found = [folder / name for name in names if (folder / name).is_file()]
    if not found:
        raise DataError(f"{folder} holds neither {names[0]} nor {names[1]}")
    file = found[0]
    paths = [t for _, t in read_lines(file)] if file.name == names[0] else _json_paths(file)
    entries = [path.split("/")[-parts:] for path in paths]
    if short := next((path for path in entries if len(path) < parts), None):
        raise DataError(f"{file}: {'/'.join(short)!r} has fewer than {parts} parts")
    return entries


def _json_paths(file: Path) -> list[str]:
    try:
        paths = json.loads(file.read_text(encoding="utf-8"))["path"]
        if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
            raise TypeError("its paths are not a list of text")
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise DataError(f"{file} is no list of MegaFace's: {error}") from None
    return paths


def _noise(file: Path) -> Iterable[str]:
    """Names, the last of each line's fields that tabs separate; `#` begins a comment."""
    return (text.split("\t")[-1] for _, text in read_lines(file) if not text.startswith("#"))
