"""What is shown: a dataset opened for its pages, with names only where they were asked for."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from cluster.browse.layout import Frame
from cluster.browse.links import Links
from data_pipeline.browse import Album
from data_pipeline.browse_images import Pictures
from data_pipeline.browse_names import Names
from data_pipeline.index import Dataset
from data_pipeline.pairs import PAIRS, PairSet
from trainer.report_html import Html, join, tag


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A dataset, and the frame of its pages; used by one thread at a time."""

    album: Album
    pictures: Pictures
    names: Names | None
    pairs: PairSet | None
    frame: Frame

    @classmethod
    def open(cls, path: Path, *, root: str, with_names: bool) -> "Shown":
        """Open a dataset or a verification set; its pages lie under the path `root`."""
        dataset = Dataset.open(path)
        has_pairs = PAIRS in dataset.extras
        return cls(
            album=Album(dataset),
            pictures=Pictures(dataset),
            names=Names(dataset) if with_names else None,
            pairs=PairSet.open(path) if has_pairs else None,
            frame=Frame(
                links=Links(root),
                dataset=path.resolve().name or "dataset",
                has_pairs=has_pairs,
                shows_names=with_names,
            ),
        )

    @property
    def dataset(self) -> Dataset:
        """The dataset itself."""
        return self.album.dataset

    @property
    def links(self) -> Links:
        """The addresses of its pages."""
        return self.frame.links

    def captions(self, labels: Int64[np.ndarray, " some"]) -> list[Html]:
        """What identities are called: their numbers, and their names where those are shown."""
        numbers = [f"Identity {label}" for label in labels.tolist()]
        if self.names is None:
            return [join([number]) for number in numbers]
        return [
            join([number, " · ", tag("bdi", name)])
            for number, name in zip(numbers, self.names.of(labels), strict=True)
        ]

    def caption(self, label: int) -> Html:
        """What one identity is called."""
        return self.captions(np.array([label], np.int64))[0]
