"""The training data's part of a run file: which datasets and identities, and in which order.

What the orders are is said in `data_pipeline/orders`, which is not imported here so that `--help`
stays fast.
"""

from typing import Annotated, Literal

from pydantic import Field

from trainer.config_augment import AugmentConfig
from trainer.config_fields import Positive, Rate, Share, config

Label = Annotated[int, Field(ge=0)]


@config
class SubsetConfig:
    """The identities of a dataset that take part: those that satisfy all of this."""

    only: str | None = None
    """A text file of their names, one a line; relative to the run file."""
    without: str | None = None
    """A text file of the names to leave out, whether they exist or not; relative as well."""
    min_images: Positive = 1
    """Least number of images."""
    max_images: Positive | None = None
    """Largest number of images; unset is any."""
    labels: tuple[Label, Positive] | None = None
    """First label, last label + 1."""

    def __post_init__(self) -> None:
        if self.max_images is not None and self.max_images < self.min_images:
            raise ValueError(f"max_images = {self.max_images} is below min_images")
        if self.labels is not None and self.labels[0] >= self.labels[1]:
            raise ValueError(f"labels = {list(self.labels)} are none; write [first, last + 1]")


@config
class OtherDatasetConfig:
    """A dataset to train on besides `data.path`."""

    path: str
    """Folder that `facescale data pack` made; relative to the run file."""
    subset: SubsetConfig | None = None
    """Unset takes all identities."""


@config
class MixConfig:
    """Several datasets at once."""

    others: Annotated[tuple[OtherDatasetConfig, ...], Field(min_length=1)]
    labels: Literal["separate", "disjoint", "shared"] = "separate"
    """`separate`: who is in several is not known, so a face competes only with identities of its
    own dataset. `disjoint`: nobody is. `shared`: the same name is the same person."""
    weights: tuple[Rate, ...] | None = None
    """Shares of the samples, `data.path` first; unset reads all as one dataset, by size."""

    def __post_init__(self) -> None:
        if self.weights is not None and len(self.weights) != 1 + len(self.others):
            raise ValueError(
                f"{len(self.weights)} weights for {1 + len(self.others)} datasets; write one for"
                " data.path and one for each of others"
            )


@config
class ShuffledConfig:
    """Every sample once an epoch."""

    name: Literal["shuffled"] = "shuffled"


@config
class IdentitiesConfig:
    """Every identity equally often, some images at a time: balanced batches."""

    name: Literal["identities"] = "identities"
    images_each: Annotated[int, Field(ge=2)] = 4
    """Images of an identity in a micro-batch; its size must be a multiple."""


@config
class PairsConfig:
    """Half pairs of images of one identity, half single images (F2C, arXiv:2105.10375)."""

    name: Literal["pairs"] = "pairs"


@config
class LongTailConfig:
    """More weight for people with few images, by effective numbers (arXiv:1901.05555)."""

    name: Literal["long_tail"] = "long_tail"
    beta: Share = 1.0
    """0 treats images alike, 1 treats people alike."""
    by: Literal["draws", "loss"] = "draws"
    """Draw their images more often, or keep the shuffled order and weigh the loss."""


OrderConfig = Annotated[
    ShuffledConfig | IdentitiesConfig | PairsConfig | LongTailConfig,
    Field(discriminator="name"),
]
"""One of them, by its name."""


def keeps_plan(order: OrderConfig) -> bool:
    """Whether samples come in the shuffled order."""
    return isinstance(order, ShuffledConfig) or (
        isinstance(order, LongTailConfig) and order.by == "loss"
    )


@config
class DataConfig:
    """The training set and how it is read."""

    path: str
    """Folder that `facescale data pack` made; relative to the run file."""
    image_size: Annotated[int, Field(ge=16, le=1024)] = 112
    """Side of the square the network sees, in pixels."""
    shuffle_window: Positive = 4
    """Pieces of shards shuffled together; also the most shards a lane has open."""
    threads: Positive = 1
    """Decoding threads of a rank."""
    bad_sample_budget: Annotated[int, Field(ge=0)] = 100
    """Unreadable samples that are replaced before a run stops and names them."""
    augment: AugmentConfig = AugmentConfig()
    subset: SubsetConfig | None = None
    """Unset takes all identities of `path`."""
    mix: MixConfig | None = None
    """Unset trains on `path` alone."""
    order: OrderConfig = ShuffledConfig()

    def __post_init__(self) -> None:
        if self.mix is not None and self.mix.weights is not None and not keeps_plan(self.order):
            raise ValueError(
                f"mix.weights say how often each dataset is read, and so does order"
                f" {self.order.name}; leave one of them out"
            )

    @property
    def folders(self) -> tuple[str, ...]:
        """Folders of all datasets."""
        others = () if self.mix is None else self.mix.others
        return (self.path, *(other.path for other in others))
