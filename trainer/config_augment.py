"""What a run file may say about augmentation: a named preset, and changes to it.

Every parameter of a face is keyed by (seed, epoch, sample). What the presets are is said in
`data_pipeline/presets.py`, which is not imported here so that `--help` stays fast.
"""

from typing import Annotated, Literal

from pydantic import Field

from trainer.config_fields import Share, config

Side = Annotated[float, Field(ge=0.01, le=1)]
Sigma = Annotated[float, Field(ge=0.1, le=10)]
Quality = Annotated[int, Field(ge=1, le=100)]


@config
class AugmentConfig:
    """What is done to a training face: a preset, and what is changed of it."""

    preset: Literal["none", "flip", "arcface", "adaface", "cropped", "masked", "strong"] = "flip"
    """Strengths of everything below that is not named."""
    crop: Annotated[float, Field(ge=0, lt=0.5)] | None = None
    """Largest share of the sides that a random window leaves out."""
    blackout: Share | None = None
    """Share of the faces of which only a window stays, at its place on black."""
    occlusion: Share | None = None
    """Share of the faces with a rectangle of one colour somewhere."""
    mask: Share | None = None
    """Share of the faces with the lower half behind a medical mask."""
    low_resolution: Share | None = None
    """Share of the faces made small and large again."""
    low_resolution_sides: tuple[Side, Side] | None = None
    """Least and largest side of the small picture, in shares of the side."""
    blur: Share | None = None
    """Share of the faces blurred."""
    blur_sigmas: tuple[Sigma, Sigma] | None = None
    """Least and largest standard deviation of the blur, in pixels."""
    jpeg: Share | None = None
    """Share of the faces compressed once more."""
    jpeg_qualities: tuple[Quality, Quality] | None = None
    """Least and largest quality of that."""
    recolour: Share | None = None
    """Share of the faces whose colours change by the next four."""
    brightness: Share | None = None
    """Largest relative change of brightness."""
    contrast: Share | None = None
    """Largest relative change of contrast."""
    saturation: Share | None = None
    """Largest relative change of saturation."""
    hue_deg: Annotated[float, Field(ge=0, le=180)] | None = None
    """Largest turn of the colours, either way."""
    grey: Share | None = None
    """Share of the faces that lose their colours."""
    flip: Share | None = None
    """Share of the faces mirrored left to right."""
