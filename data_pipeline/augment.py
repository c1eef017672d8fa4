"""What is done to each training face, decided by key instead of by drawing.

The parameters of a face depend on (seed, epoch, sample) alone, so its pixels are the same after a
resume, at any world size and at any place in a batch. Nothing here touches pixels: `decode`
applies the parameters, in the order of the fields of `Augmentation`. Named sets of strengths are
in `presets`.
"""

from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int32, Int64

from data_pipeline import keyed
from data_pipeline.covers import Cover, blackout, mask, nothing, occlusion

FILTERS = 4  # ways to resize: see `Parameters.shrinking_filter`

# Every draw of a face; adding one changes no other.
_PURPOSES: tuple[str, ...] = (
    "flip",
    "brightness",
    "contrast",
    "saturation",
    "crop side",
    "crop y",
    "crop x",
)
_PURPOSES += ("hue", "recolour", "grey", "low resolution", "low resolution side")
_PURPOSES += ("low resolution shrinking", "low resolution growing", "blur", "blur sigma")
_PURPOSES += ("jpeg", "jpeg quality", "cover", "cover area", "cover aspect", "cover y", "cover x")
_PURPOSES += ("cover red", "cover green", "cover blue")
_PURPOSE_KEYS = np.array([keyed.purpose(name) for name in _PURPOSES], np.uint64)[:, None]


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """One row a face. Places and sizes are shares of the picture's sides, (y, x)."""

    window_start: Float32[np.ndarray, "batch 2"]
    window_stop: Float32[np.ndarray, "batch 2"]
    """The part of the picture that fills the whole."""
    covered: Bool[np.ndarray, " batch"]
    cover_start: Float32[np.ndarray, "batch rectangles 2"]
    cover_stop: Float32[np.ndarray, "batch rectangles 2"]
    cover_colour: Float32[np.ndarray, "batch 3"]
    """RGB, 0 to 255."""
    shrunk: Bool[np.ndarray, " batch"]
    shrunk_side: Float32[np.ndarray, " batch"]
    shrinking_filter: Int32[np.ndarray, " batch"]
    """0 nearest, 1 linear, 2 cubic, 3 Lanczos; so is the next."""
    growing_filter: Int32[np.ndarray, " batch"]
    blurred: Bool[np.ndarray, " batch"]
    blur_sigma: Float32[np.ndarray, " batch"]
    """In pixels."""
    compressed: Bool[np.ndarray, " batch"]
    jpeg_quality: Int32[np.ndarray, " batch"]
    recoloured: Bool[np.ndarray, " batch"]
    brightness: Float32[np.ndarray, " batch"]
    contrast: Float32[np.ndarray, " batch"]
    saturation: Float32[np.ndarray, " batch"]
    hue_deg: Float32[np.ndarray, " batch"]
    flip: Int32[np.ndarray, " batch"]

    def row(self, i: int) -> "Parameters":
        """The parameters of one face, as a batch of one."""
        return Parameters(**{f.name: getattr(self, f.name)[i : i + 1] for f in fields(self)})


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Shares of the faces that are changed, and how much; the defaults change nothing.

    A face is covered in one way at most, so `blackout`, `occlusion` and `mask` sum to at most 1.
    """

    crop: float = 0.0
    """Largest share of a side that the window leaves out; how much is uniform, and so is where."""
    blackout: float = 0.0
    """Share of the faces of which only a window stays, at its place on black."""
    occlusion: float = 0.0
    """Share of the faces with a rectangle of one colour somewhere."""
    mask: float = 0.0
    """Share of the faces with the lower half behind a medical mask."""
    low_resolution: float = 0.0
    """Share of the faces made small and large again, with filters drawn by face."""
    low_resolution_sides: tuple[float, float] = (0.2, 1.0)
    """Least and largest side of the small picture, in shares of the side."""
    blur: float = 0.0
    """Share of the faces blurred."""
    blur_sigmas: tuple[float, float] = (0.5, 1.5)
    """Least and largest standard deviation, in pixels."""
    jpeg: float = 0.0
    """Share of the faces compressed once more."""
    jpeg_qualities: tuple[int, int] = (30, 95)
    """Least and largest quality."""
    recolour: float = 1.0
    """Share of the faces whose colours change by the next four."""
    brightness: float = 0.0
    """Largest relative change; the factor is uniform in 1 - b .. 1 + b. So are the next two."""
    contrast: float = 0.0
    saturation: float = 0.0
    hue_deg: float = 0.0
    """Largest turn of the colours, either way."""
    grey: float = 0.0
    """Share of the faces that lose their colours."""
    flip: float = 0.0
    """Share of the faces mirrored left to right."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in (
            *("flip", "brightness", "contrast", "saturation", "recolour", "grey"),
            *("blackout", "occlusion", "mask", "low_resolution", "blur", "jpeg"),
        ):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be from 0 to 1")
        if not 0 <= self.crop < 1:
            raise ValueError(f"crop is {self.crop}; it must be at least 0 and below 1")
        if not 0 <= self.hue_deg <= 180:
            raise ValueError(f"hue_deg is {self.hue_deg}; it must be from 0 to 180")
        if self._covered > 1 + 1e-9:  # three tenths and seven tenths may sum to a little more
            raise ValueError(
                f"blackout, occlusion and mask sum to {self._covered:g}; a face has one of them "
                "at most, so the sum must be at most 1"
            )
        for name, least, most in (
            ("low_resolution_sides", 0.01, 1),
            ("blur_sigmas", 0.1, 10),
            ("jpeg_qualities", 1, 100),
        ):
            low, high = getattr(self, name)
            if not least <= low <= high <= most:
                raise ValueError(
                    f"{name} is {low} to {high}; it must rise, from {least} to {most} at most"
                )

    @property
    def crops(self) -> bool:
        """Whether any face loses its border."""
        return self.crop > 0

    @property
    def covers(self) -> bool:
        """Whether any face is covered in part."""
        return self._covered > 0

    @property
    def recolours(self) -> bool:
        """Whether any face changes its colours."""
        return self._recolour > 0 or self.grey > 0

    @property
    def _covered(self) -> float:
        return self.blackout + self.occlusion + self.mask

    @property
    def _recolour(self) -> float:
        change = max(self.brightness, self.contrast, self.saturation, self.hue_deg)
        return self.recolour if change > 0 else 0.0

    def parameters(
        self, epoch: Int64[np.ndarray, " batch"], sample: Int64[np.ndarray, " batch"]
    ) -> Parameters:
        """What happens to these samples in these epochs."""
        key = keyed.hash64("augmentation", self.seed, epoch, sample)
        draw: dict[str, np.ndarray] = dict(
            zip(_PURPOSES, keyed.uniform(_PURPOSE_KEYS, key), strict=True)
        )

        recolour, grey = draw["recolour"] < self._recolour, draw["grey"] < self.grey

        def between(purpose: str, low: float, high: float) -> Float64[np.ndarray, " batch"]:
            return low + (high - low) * draw[purpose]

        def change(purpose: str, most: float) -> Float64[np.ndarray, " batch"]:
            return np.where(recolour, most * (2 * draw[purpose] - 1), 0)

        side = 1 - self.crop * draw["crop side"]
        start = np.stack([draw["crop y"], draw["crop x"]], axis=1) * (1 - side)[:, None]
        covered, cover = self._cover(draw)
        low, high = self.jpeg_qualities
        small = between("low resolution side", *self.low_resolution_sides)
        saturation = np.where(grey, 0, 1 + change("saturation", self.saturation))
        return Parameters(
            window_start=start.astype(np.float32),
            window_stop=(start + side[:, None]).astype(np.float32),
            covered=covered,
            cover_start=cover.start,
            cover_stop=cover.stop,
            cover_colour=cover.colour,
            shrunk=draw["low resolution"] < self.low_resolution,
            shrunk_side=small.astype(np.float32),
            shrinking_filter=(draw["low resolution shrinking"] * FILTERS).astype(np.int32),
            growing_filter=(draw["low resolution growing"] * FILTERS).astype(np.int32),
            blurred=draw["blur"] < self.blur,
            blur_sigma=between("blur sigma", *self.blur_sigmas).astype(np.float32),
            compressed=draw["jpeg"] < self.jpeg,
            jpeg_quality=(low + np.floor((high + 1 - low) * draw["jpeg quality"])).astype(np.int32),
            recoloured=recolour | grey,
            brightness=(1 + change("brightness", self.brightness)).astype(np.float32),
            contrast=(1 + change("contrast", self.contrast)).astype(np.float32),
            saturation=saturation.astype(np.float32),
            hue_deg=change("hue", self.hue_deg).astype(np.float32),
            flip=(draw["flip"] < self.flip).astype(np.int32),
        )

    def _cover(
        self, draw: dict[str, Float64[np.ndarray, " batch"]]
    ) -> tuple[Bool[np.ndarray, " batch"], Cover]:
        """Which faces are covered, and with what."""
        chosen, edge = draw["cover"], 0.0
        cover = nothing(len(chosen))
        for share, make in (
            (self.mask, mask),
            (self.blackout, blackout),
            (self.occlusion, occlusion),
        ):
            if share > 0:
                cover = cover.replaced((edge <= chosen) & (chosen < edge + share), make(draw))
            edge += share
        return chosen < edge, cover
