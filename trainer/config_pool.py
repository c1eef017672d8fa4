"""The pool's part of a run file: training against moving-average features, without centres."""

from typing import Annotated, Literal

from pydantic import Field

from trainer.config_fields import ShareBelowOne, config


@config
class PoolConfig:
    """The identities seen last, with features of a moving average of the network (F2C).

    See arXiv:2105.10375. Wants `data.order: {name: pairs}`; of the head's other fields only
    `margin` and `scale` have a meaning then.
    """

    slots: Annotated[int, Field(ge=2)]
    """Identities in it at once; published are 10 %, 1 % and 0.1 % of all."""
    unfilled: Literal["masked", "random"] = "masked"
    """What slots are that nobody has yet: nothing, or (as published) random negatives."""
    gallery_momentum: ShareBelowOne = 0.99
    """What stays of the moving average in a step."""
    gallery_batchnorm: Literal["own_batch", "ema"] = "own_batch"
    """Normalise by the gallery's own batch (as published), or by averaged running statistics."""
