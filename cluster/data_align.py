"""What `facescale data pack --landmarks ...` says about bringing faces upright."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from data_pipeline.errors import DataError

if TYPE_CHECKING:
    from data_pipeline.alignment import Alignment

CROP = "112"  # what nearly all networks of the field are trained on


def alignment_of(
    landmarks: Path | None, align: str | None, without_landmarks: Literal["keep", "drop"]
) -> "Alignment | None":
    """The alignment that options ask for, None where they name no landmarks."""
    if landmarks is None:
        if align is not None:
            raise DataError(f"to align to {align}, give a file of landmarks: `--landmarks FILE`")
        return None
    from data_pipeline.alignment import Alignment

    return Alignment.of_file(
        landmarks, crop=CROP if align is None else align, without_landmarks=without_landmarks
    )
