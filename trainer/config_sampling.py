"""The head's sampling in a run file: comparing with a share of the identities."""

from typing import Annotated, Literal

from pydantic import Field

from trainer.config_fields import Positive, config


@config
class SamplingConfig:
    """A step compares with its own identities and a random share of the others (Partial FC).

    See arXiv:2203.15565.
    """

    rate: Annotated[float, Field(ge=0, le=1)]
    """Share of all identities drawn each step; 0 leaves those of the batch alone."""
    correction: Literal["none", "logq"] = "none"
    """`none` is published and acts like a smaller margin; `logq` makes the denominator's mean that
    of all identities."""
    quota: Literal["negatives", "peer"] = "negatives"
    """The batch's own identities come on top of the share, or (as published) are part of it."""
    block: Positive = 1
    """Identities drawn together, so that centres are read in long runs; wants labels in random
    order."""
    shuffled: bool = False
    """Blocks of identities in a shuffled order: for labels that lie in a telling one."""
    hard_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the sample that is not drawn but nearest to the batch's faces."""
    untouched: Literal["frozen", "caught_up"] = "frozen"
    """Rows a step leaves out stay as they are, or move by momentum and decay as a dense
    optimizer's do."""
