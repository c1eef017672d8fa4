"""What the classes of a run file are made of: the decorator, and numbers with a range."""

from typing import Annotated, TypeVar, dataclass_transform

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

T = TypeVar("T")

Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
ShareBelowOne = Annotated[float, Field(ge=0, lt=1)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(Field,))
def config(cls: type[T]) -> type[T]:
    """A frozen dataclass that refuses unknown fields and values out of range wherever built."""
    strict = dataclass(frozen=True, kw_only=True, slots=True, config=ConfigDict(extra="forbid"))
    return strict(cls)  # pyright: ignore[reportReturnType]
