"""Sets whose faces are templates, several images or videos of one person, and pairs of those.

A packed dataset with tables beside it:

    template_images.parquet   sample, template, media, weight; a row an image of a template
    templates.parquet         name: the published one of each template, in order of numbers
    template_pairs.parquet    first, second, same, fold
    template_roles.parquet    role, template, subject: galleries and probes of identification

Images of one media (a video's frames) count as one image. The dataset's labels mean nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow
from jaxtyping import Bool, Float32, Int64

from data_pipeline.alignment import Alignment
from data_pipeline.errors import DataError
from data_pipeline.index import Dataset
from data_pipeline.pack import Packed
from data_pipeline.pack_tables import pack_with_tables, read_table
from data_pipeline.sources.lists import ListSource

IMAGES = "template_images.parquet"
TEMPLATES = "templates.parquet"
PAIRS = "template_pairs.parquet"
ROLES = "template_roles.parquet"

_INT = pyarrow.int64()
_SCHEMAS = {
    IMAGES: pyarrow.schema(
        {"sample": _INT, "template": _INT, "media": _INT, "weight": pyarrow.float32()}
    ),
    TEMPLATES: pyarrow.schema({"name": pyarrow.string()}),
    PAIRS: pyarrow.schema({"first": _INT, "second": _INT, "same": pyarrow.bool_(), "fold": _INT}),
    ROLES: pyarrow.schema({"role": pyarrow.string(), "template": _INT, "subject": _INT}),
}


@dataclass(frozen=True, kw_only=True)
class Role:
    """Templates of a gallery, or the probes, and whom each shows."""

    template: Int64[np.ndarray, " templates"]
    subject: Int64[np.ndarray, " templates"]


@dataclass(frozen=True, kw_only=True)
class Templates:
    """A published protocol, in terms of image files."""

    names: list[str]
    """Of the templates, whose numbers are places in this list."""
    image: np.ndarray
    """Path of each image of a template, relative to the folder of images; one may come again."""
    template: Int64[np.ndarray, " images"]
    media: Int64[np.ndarray, " images"]
    weight: Float32[np.ndarray, " images"]
    """The detector's score, or 1."""
    first: Int64[np.ndarray, " pairs"]
    second: Int64[np.ndarray, " pairs"]
    same: Bool[np.ndarray, " pairs"]
    fold: Int64[np.ndarray, " pairs"]
    """0 where a protocol has no folds."""
    roles: Mapping[str, Role] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TemplateSet:
    """A packed set of templates; `TemplateSet.open(path)` makes one."""

    dataset: Dataset
    names: list[str]
    sample: Int64[np.ndarray, " images"]
    template: Int64[np.ndarray, " images"]
    media: Int64[np.ndarray, " images"]
    weight: Float32[np.ndarray, " images"]
    first: Int64[np.ndarray, " pairs"]
    second: Int64[np.ndarray, " pairs"]
    same: Bool[np.ndarray, " pairs"]
    fold: Int64[np.ndarray, " pairs"]
    roles: Mapping[str, Role]

    @classmethod
    def open(cls, path: Path | str) -> "TemplateSet":
        """Open a dataset with templates; one whose tables do not fit together is refused."""
        dataset = Dataset.open(path)
        tables = {name: read_table(dataset, name, schema) for name, schema in _SCHEMAS.items()}
        names = tables[TEMPLATES]["name"].to_pylist()
        images = {name: tables[IMAGES][name].to_numpy() for name in _SCHEMAS[IMAGES].names}
        pairs = {name: tables[PAIRS][name].to_numpy() for name in _SCHEMAS[PAIRS].names}
        template, subject = (tables[ROLES][name].to_numpy() for name in ("template", "subject"))
        references = (images["template"], pairs["first"], pairs["second"], template)
        if not (
            all(_all_below(len(names), numbers) for numbers in references)
            and _all_below(dataset.num_samples, images["sample"])
        ):
            raise DataError(
                f"{dataset.path}: its tables name templates or samples that do not exist; pack the "
                "set again"
            )
        role = np.array(tables[ROLES]["role"].to_pylist(), np.str_)
        roles = {
            str(name): Role(template=template[role == name], subject=subject[role == name])
            for name in np.unique(role)
        }
        return cls(dataset=dataset, names=names, **images, **pairs, roles=roles)


def pack_templates(
    protocol: Templates,
    images: Path | str,
    dest: Path | str,
    *,
    alignment: Alignment | None = None,
    seed: int = 0,
    workers: int = 1,
    show_progress: bool = False,
) -> TemplateSet:
    """Pack the images of a protocol, each once, from the folder `images` that they lie in.

    An image that is missing or unreadable is an error: such a set is fixed.
    """
    if not Path(images).is_dir():
        raise DataError(f"the folder of images {images} does not exist")
    paths, first_row, number = np.unique(protocol.image, return_index=True, return_inverse=True)
    labels = [protocol.names[i] for i in protocol.template[first_row].tolist()]
    batches = pyarrow.table({"path": paths.tolist(), "label": labels}).to_batches()
    source = ListSource.of(batches, root=Path(images), name="the protocol")

    def tables_of(packed: Packed) -> dict[str, pyarrow.Table]:
        sample_of = {path: sample for sample, (_, path) in enumerate(packed.images)}
        sample = np.array([sample_of[path] for path in paths.tolist()], np.int64)[number]
        roles = protocol.roles.items()
        columns = {
            IMAGES: [sample, protocol.template, protocol.media, protocol.weight],
            TEMPLATES: [protocol.names],
            PAIRS: [protocol.first, protocol.second, protocol.same, protocol.fold],
            ROLES: [
                [name for name, role in roles for _ in role.template],
                [template for _, role in roles for template in role.template.tolist()],
                [subject for _, role in roles for subject in role.subject.tolist()],
            ],
        }
        return {
            name: pyarrow.table(
                [
                    pyarrow.array(values, type)
                    for values, type in zip(arrays, schema.types, strict=True)
                ],
                schema=schema,
            )
            for (name, schema), arrays in zip(_SCHEMAS.items(), columns.values(), strict=True)
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
    return TemplateSet.open(dest)


def _all_below(count: int, numbers: Int64[np.ndarray, " some"]) -> bool:
    return not len(numbers) or bool(numbers.min() >= 0 and numbers.max() < count)
