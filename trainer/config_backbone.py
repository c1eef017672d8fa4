"""What a run file may say about the network that turns a face into an embedding."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from trainer.backbones.table import BACKBONES
from trainer.config_fields import Positive, config


def _known_backbone(name: str) -> str:
    if name not in BACKBONES:
        raise ValueError(f"no backbone of this name; there are {', '.join(sorted(BACKBONES))}")
    return name


@config
class DRConvConfig:
    """Filters chosen by the region of the face that a pixel is in (arXiv:2003.12243)."""

    kind: Literal["drconv"]
    regions: Positive = 8
    """Filters that a face's pixels choose from."""
    generator: Literal["templates", "pooled"] = "templates"
    """How an image's filters are made: as the released code does, or as the paper says."""
    guide: Literal["block", "own"] = "block"
    """What chooses: one guide for all replaced convolutions of a block, or each its own."""


@config
class TVConvConfig:
    """Depthwise kernels of their own at each position of the map (arXiv:2203.10489)."""

    kind: Literal["tvconv"]
    affinity_channels: Positive = 4
    """Maps that the kernels are made from."""
    hidden: Positive = 16
    """Channels of the small network that makes them."""
    layers: Annotated[int, Field(ge=0)] = 1
    """Its layers, beside the first and the last."""


@config
class ReplaceConfig:
    """Other layers in place of some convolutions: {what, stages, with}."""

    what: Literal["pointwise", "depthwise"]
    """1x1 convolutions but those of shortcuts and squeeze-and-excitation, or depthwise ones."""
    stages: Annotated[tuple[Annotated[int, Field(ge=0, le=4)], ...], Field(min_length=1)]
    """Stage n ends in a map of image size / 2^n; 0 is the stem."""
    by: Annotated[DRConvConfig | TVConvConfig, Field(discriminator="kind", alias="with")]
    """`with` in a run file: {kind: drconv, ...} or {kind: tvconv, ...}."""

    def __post_init__(self) -> None:
        if self.what == "pointwise" and self.by.kind == "tvconv":
            raise ValueError("tvconv is depthwise; use what: depthwise, or with: {kind: drconv}")


@config
class BackboneConfig:
    """The network that turns a face into an embedding."""

    name: Annotated[str, AfterValidator(_known_backbone)] = "mobilefacenet"
    """A name that `facescale models` prints."""
    embedding_dim: Annotated[int, Field(ge=2, le=4096)] | None = None
    """Numbers in an embedding; unset takes the network's own."""
    replace: tuple[ReplaceConfig, ...] = ()
    """Convolutions that become others, rule after rule."""
    weights: str | None = None
    """First weights: a safetensors file of `facescale import-weights`, or a checkpoint's
    `backbone.safetensors`; relative to the run file. Unset draws them by the seed."""
