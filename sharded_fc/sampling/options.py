"""How a head samples the classes it compares with, as its user says it."""

from dataclasses import dataclass
from typing import Literal

from sharded_fc.sampling.draw import Draw, Quota

Correction = Literal["none", "logq"]
Untouched = Literal["frozen", "caught_up"]


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """A step compares with its samples' own classes and with a random share `rate` of all.

    `rate` 0 leaves the samples' own classes alone. `correction="none"` is what published recipes
    do (Partial FC, arXiv:2203.15565): the loss is that of a smaller margin. With "logq" every drawn
    class's term is divided by its probability to be drawn, given the batch, so that the
    denominator's mean is the full one's. `quota`, `block` and `shuffled` are `Draw`'s.

    `hard_share` of the classes are not drawn but those nearest to the batch's samples, as far as
    lists of rows find them (`mining.Miner`): they are certain to be visited, as the samples' own.

    `untouched` says what a step does with the rows of all other classes: "frozen" leaves their
    bits; "caught_up" is what a dense optimizer does, decay and momentum, made up for when a row is
    next read.
    """

    rate: float
    correction: Correction = "none"
    quota: Quota = "negatives"
    block: int = 1
    shuffled: bool = False
    hard_share: float = 0.0
    untouched: Untouched = "frozen"

    def __post_init__(self) -> None:
        if not 0 <= self.rate <= 1:
            raise ValueError(f"sampling rate {self.rate}; use a share of the classes in [0, 1]")
        if not 0 <= self.hard_share <= 1:
            raise ValueError(f"hard_share {self.hard_share}; use a share of the sample in [0, 1]")
        if self.hard_share and not self.rate:
            raise ValueError("hard_share is a share of the sample, which rate 0 leaves empty")
        _check("correction", self.correction, ("none", "logq"))
        _check("quota", self.quota, ("negatives", "peer"))
        _check("untouched", self.untouched, ("frozen", "caught_up"))

    def mined(self, num_classes: int) -> int:
        """About how many classes a step mines of so many."""
        return round(self.hard_share * round(self.rate * num_classes))

    def draw(self, num_classes: int, *, seed: int) -> Draw:
        """What is drawn of so many classes; those mined are among the count of quota "peer"."""
        count = round(self.rate * num_classes)
        return Draw(
            num_classes=num_classes,
            count=count if self.quota == "peer" else count - self.mined(num_classes),
            seed=seed,
            block=self.block,
            quota=self.quota,
            shuffled=self.shuffled,
        )


def _check(name: str, value: str, known: tuple[str, str]) -> None:
    if value not in known:
        raise ValueError(f"sampling {name} {value!r}; use {known[0]!r} or {known[1]!r}")
