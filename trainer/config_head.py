"""The head's part of a run file: margin, optimizer, precision, and what is said of some classes."""

from dataclasses import fields
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from pydantic_core import ArgsKwargs

from trainer.config_fields import NonNegative, Positive, Rate, ShareBelowOne, config
from trainer.config_margin import CosFaceConfig, MarginConfig
from trainer.config_pool import PoolConfig
from trainer.config_sampling import SamplingConfig

ClassRatio = tuple[Annotated[int, Field(ge=0)], Positive, NonNegative]
"""First class, last class + 1, ratio."""


@config
class ClassMarginsConfig:
    """Larger margins for people with fewer images (LDAM, arXiv:1906.07413).

    A class with n images has `highest` (smallest n / n)^(1/4), but at least `lowest`; both in the
    margin's own unit. They replace the margin's number.
    """

    highest: Annotated[float, Field(gt=0, lt=1.5)]
    lowest: Annotated[float, Field(ge=0, lt=1.5)] = 0.0

    def __post_init__(self) -> None:
        if self.lowest > self.highest:
            raise ValueError(f"lowest = {self.lowest} is above highest = {self.highest}")


@config
class HeadConfig:
    """The class-sharded margin softmax."""

    margin: MarginConfig = CosFaceConfig()
    class_margins: ClassMarginsConfig | None = None
    """Unset gives every class the margin's own number."""
    sampling: SamplingConfig | None = None
    """Unset compares with all identities."""
    rows: Literal["device", "host", "mapped"] = "device"
    """Where centres and what the optimizer keeps for them are: on the device; with `sampling` also
    in host memory; or, as the last resort, in a mapped file."""
    rows_folder: str | None = None
    """Folder of the files of `host` and `mapped`, on a disk that all ranks see; unset is `rows` in
    the run folder. Relative to the run file."""
    scale: Rate = 64.0
    """Factor s of the cosines."""
    sub_centres: Positive = 1
    """Centres of a class, of which the nearest counts (sub-center ArcFace, ECCV 2020)."""
    optimizer: Literal["sgd", "nesterov", "adamw", "rowwise"] = "sgd"
    """`rowwise` keeps one number a row instead of a row of momentum."""
    momentum: ShareBelowOne = 0.9
    """Of sgd and nesterov."""
    betas: tuple[ShareBelowOne, ShareBelowOne] = (0.9, 0.999)
    """Of adamw; rowwise uses the second."""
    eps: Rate = 1e-8
    """Of adamw and rowwise."""
    weight_decay: NonNegative = 5e-4
    clip_row_norm: Rate | None = None
    """Largest length of a row's gradient; null clips nothing."""
    learning_rate_ratio: Rate = 1.0
    """The head's learning rate over the backbone's."""
    learning_rate_ratios: tuple[ClassRatio, ...] = ()
    """[first class, last class + 1, ratio], on top of `learning_rate_ratio`; 0 freezes."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "fp32"
    """Operands of the products; `auto` is fp32 on CPUs and fp16 on GPUs. Sums are fp32 or more."""
    storage: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Of the centres; two bytes are rounded stochastically."""
    state_storage: Literal["fp32", "bf16"] | None = None
    """Of what the optimizer keeps; unset is that of the centres, or fp32 beside fp16."""
    conflict_cosine: Annotated[float, Field(gt=-1, lt=1)] | None = None
    """Two labels whose faces and centres lie closer may be one person. Counts such negatives, and
    at evaluations lists such pairs in `conflicts.csv`, comparing every centre with every other."""
    ignore_conflicts: bool = False
    """Leave negatives above `conflict_cosine` out of the loss (PFC*, arXiv:2203.15565)."""

    pool: PoolConfig | None = None
    """Unset trains a centre for everybody."""

    def __post_init__(self) -> None:
        if self.pool is None:
            self._check_rows()
            return
        unused = [
            field.name
            for field in fields(self)
            if field.name not in ("margin", "scale", "pool")
            and getattr(self, field.name) != field.default
        ]
        if unused:
            raise ValueError(
                f"a pool has no trained centres, so it has no use for {', '.join(unused)}; leave"
                " it out, or leave out head.pool"
            )

    def _check_rows(self) -> None:
        if self.rows != "device" and self.sampling is None:
            raise ValueError(
                f"rows: {self.rows} without sampling would move every row in every step; add"
                " head.sampling, or keep rows: device"
            )
        if self.rows != "device" and self.sampling is not None and self.sampling.hard_share:
            raise ValueError(
                f"sampling.hard_share with rows: {self.rows}: which rows it wants is not known a"
                " step ahead, so they cannot be read in time; use hard_share: 0, or rows: device"
            )
        if self.rows == "device" and self.rows_folder is not None:
            raise ValueError("rows_folder is for rows: host or mapped; name one of them")

    @model_validator(mode="before")
    @classmethod
    def _say_why_no_global_norm(cls, given: Any) -> Any:
        fields = given.kwargs if isinstance(given, ArgsKwargs) else given
        if isinstance(fields, dict) and fields.get("clip_norm") is not None:
            raise ValueError(
                "clip_norm under head: a global norm is known only after every row's gradient, and"
                " the head never holds them all; use clip_row_norm, which bounds each row's"
            )
        return given
