"""How much each face is flipped, recoloured and cropped, decided by key instead of by drawing.

The parameters of a face depend on (seed, epoch, sample) alone, so its pixels are the same after a
resume, at any world size and at any place in a batch. Nothing here touches pixels: `decode`
applies the parameters.
"""

from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Float32, Int32, Int64

from data_pipeline import keyed


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """One row a face; the window is in shares of the sides, (y, x)."""

    flip: Int32[np.ndarray, " batch"]
    brightness: Float32[np.ndarray, " batch"]
    contrast: Float32[np.ndarray, " batch"]
    saturation: Float32[np.ndarray, " batch"]
    window_start: Float32[np.ndarray, "batch 2"]
    window_stop: Float32[np.ndarray, "batch 2"]

    def row(self, i: int) -> "Parameters":
        """The parameters of one face, as a batch of one."""
        return Parameters(**{f.name: getattr(self, f.name)[i : i + 1] for f in fields(self)})


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Strengths of what is done to a training face; the defaults change nothing."""

    flip: float = 0.0
    """Share of the faces mirrored left to right."""
    brightness: float = 0.0
    """Largest relative change; the factor is uniform in 1 - b .. 1 + b. So are the next two."""
    contrast: float = 0.0
    saturation: float = 0.0
    crop: float = 0.0
    """Largest share of a side that the window leaves out; how much is uniform, and so is where."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("flip", "brightness", "contrast", "saturation"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be from 0 to 1")
        if not 0 <= self.crop < 1:
            raise ValueError(f"crop is {self.crop}; it must be at least 0 and below 1")

    @property
    def recolours(self) -> bool:
        """Whether any face changes its colours."""
        return max(self.brightness, self.contrast, self.saturation) > 0

    @property
    def crops(self) -> bool:
        """Whether any face loses its border."""
        return self.crop > 0

    def parameters(
        self, epoch: Int64[np.ndarray, " batch"], sample: Int64[np.ndarray, " batch"]
    ) -> Parameters:
        """What happens to these samples in these epochs."""
        key = keyed.hash64("augmentation", self.seed, epoch, sample)

        def uniform(purpose: str) -> np.ndarray:
            return keyed.uniform(purpose, key)

        def factor(purpose: str, change: float) -> np.ndarray:
            return (1 + change * (2 * uniform(purpose) - 1)).astype(np.float32)

        side = 1 - self.crop * uniform("crop side")
        start = np.stack([uniform("crop y"), uniform("crop x")], axis=1) * (1 - side)[:, None]
        return Parameters(
            flip=(uniform("flip") < self.flip).astype(np.int32),
            brightness=factor("brightness", self.brightness),
            contrast=factor("contrast", self.contrast),
            saturation=factor("saturation", self.saturation),
            window_start=start.astype(np.float32),
            window_stop=(start + side[:, None]).astype(np.float32),
        )
