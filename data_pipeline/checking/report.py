"""What a check hands back: its findings, and what a repair needs to know."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from jaxtyping import Int64

from data_pipeline.addresses import Address
from data_pipeline.checking.findings import Findings
from data_pipeline.index import Dataset


@dataclass(kw_only=True)
class Report:
    """The check of one dataset, set of tars or folder."""

    path: str
    form: Literal["dataset", "tars", "folder"]
    findings: Findings = field(default_factory=Findings)
    files: int = 0
    """Tars, or the images of a folder."""
    samples: int = 0

    @property
    def errors(self) -> int:
        """How many errors were found."""
        return self.findings.total("error")

    def plain(self) -> dict[str, Any]:
        """All of it but the thumbnails, for JSON."""
        return {
            "path": self.path,
            "form": self.form,
            "files": self.files,
            "samples": self.samples,
            "errors": self.errors,
            "warnings": self.findings.total("warning"),
            "findings": self.findings.plain(),
        }


@dataclass(frozen=True, kw_only=True)
class ShardState:
    """One shard of a dataset as it was found."""

    damaged: bool
    """Whether any error concerns it."""
    records_usable: bool
    tar_intact: bool
    """Whether the tar is the one that the index describes."""
    bad: Int64[np.ndarray, " bad"]
    """Places of samples that cannot be used, ascending."""


@dataclass(kw_only=True)
class DatasetReport(Report):
    """The check of a dataset."""

    dataset: Dataset
    shards: list[ShardState] = field(default_factory=list)


@dataclass(kw_only=True)
class TarsReport(Report):
    """The check of tars without an index, or of those that an index points at."""

    tars: Sequence[Address]
    damaged: list[bool] = field(default_factory=list)
    """Which of them have errors."""
