"""Chunks of made-up products, and what the torch functions in float64 make of them."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

SCALE = 64.0
FIRST_CLASS = 1000


@dataclass(frozen=True, kw_only=True)
class Case:
    """One chunk: `rows` of length 0.5 to 2 times a batch of unit embeddings, and the rules."""

    rows: int = 37
    batch: int = 21
    dim: int = 24
    loss: Literal["softmax", "sigmoid"] = "softmax"
    hard: bool = False
    ranges: bool = False
    conflicts: bool = False
    keep_maximum: bool = False
    sub_centres: int = 1
    chunks: int = 1
    dtype: torch.dtype = torch.float32
    """Of the operands of the products; a float16 tile is scaled to fit."""


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """The drawn tensors, in float64 unless they are numbers of classes."""

    centre: Tensor
    embedding: Tensor
    label: Tensor
    class_range: Tensor | None
    threshold: Tensor
    offset: Tensor
    target: Tensor

    def to(self, device: torch.device) -> "Chunk":
        """The same chunk on a device."""
        moved = {name: value.to(device) for name, value in vars(self).items() if value is not None}
        return Chunk(**{"class_range": None, **moved})

    @property
    def product(self) -> Tensor:
        """Rows times embeddings."""
        return self.centre @ self.embedding.t()

    @property
    def inverse_norm(self) -> Tensor:
        """One over the rows' lengths."""
        return self.centre.norm(dim=1).reciprocal()


def draw(case: Case, *, seed: int = 0) -> Chunk:
    """Own classes lie on the first and last rows, in between, in no chunk and nowhere (-1)."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    unit = torch.nn.functional.normalize
    length = 0.5 + 1.5 * torch.rand(case.rows, 1, generator=generator, dtype=torch.float64)
    # Operands of fewer bits are drawn as what they can hold, so that products agree.
    centre = (unit(normal(case.rows, case.dim)) * length).to(case.dtype).double()
    embedding = unit(normal(case.batch, case.dim)).to(case.dtype).double()
    last = FIRST_CLASS + case.rows // case.sub_centres - 1
    label = torch.randint(FIRST_CLASS - 20, last + 20, (case.batch,), generator=generator)
    special = torch.tensor([FIRST_CLASS, last, -1, 0, FIRST_CLASS - 1, last + 1])
    label[: len(special)] = special[: case.batch]
    class_range = None
    if case.ranges:
        middle = (FIRST_CLASS + last) // 2
        low = torch.full((case.batch,), FIRST_CLASS + 3)
        high = torch.full((case.batch,), middle)
        low[::3], high[::3] = 0, FIRST_CLASS  # nothing of this chunk
        low[1::3], high[1::3] = 0, 1 << 40
        class_range = torch.stack([low, high], 1).t()  # a view, as the head may pass one
    return Chunk(
        centre=centre,
        embedding=embedding,
        label=label,
        class_range=class_range,
        threshold=0.1 * normal(case.batch),
        offset=normal(case.batch) - SCALE * 0.6,
        target=-torch.rand(case.batch, generator=generator, dtype=torch.float64),
    )


def rules_of(case: Case, chunk: Chunk, dtype: torch.dtype) -> Any:
    """`tile.Rules` with what is given to kernels in `dtype`."""
    from sharded_fc import tile
    from sharded_fc.margins import HardNegatives

    def scalar(value: float) -> Tensor:
        return torch.tensor(value, dtype=torch.float64)

    hard = None
    if case.hard:
        hard = HardNegatives(
            threshold=chunk.threshold.to(dtype),
            constant=scalar(0.05),
            linear=scalar(0.4),
            square=scalar(0.7),
            highest=scalar(1.4),
        )
    return tile.Rules(
        scale=SCALE,
        label=chunk.label,
        hard=tile.in_logits(hard, scale=SCALE),
        class_range=chunk.class_range,
        conflict_logit=0.2 * SCALE if case.conflicts else None,
        sub_centres=case.sub_centres,
        sigmoid_bias=scalar(3.0) if case.loss == "sigmoid" else None,
        negative_weight=0.7,
    )


def measured(case: Case, chunk: Chunk, sum_tile: Any, dtype: torch.dtype) -> Tensor:
    """What `sum_tile` finds in the chunk, cut into `case.chunks` pieces."""
    from sharded_fc import tile

    rules = rules_of(case, chunk, dtype)
    measures = torch.zeros(tile.MEASURES, case.batch, dtype=torch.float64)
    measures[tile.HIGHEST] = -torch.inf
    measures[tile.SHIFT] = -torch.inf if case.keep_maximum else 5.0
    each = -(-case.rows // case.chunks)
    for start in range(0, case.rows, each):
        product = chunk.product[start : start + each].to(dtype)
        sum_tile(
            product,
            chunk.inverse_norm[start : start + each].to(dtype),
            first_class=FIRST_CLASS + start // case.sub_centres,
            rules=rules,
            measures=measures,
            keep_maximum=case.keep_maximum,
            out=torch.empty_like(product),
        )
    return measures


def weights_of(chunk: Chunk, dtype: torch.dtype, *, factor: float) -> Any:
    """`tile.Weights` in `dtype`."""
    from sharded_fc import tile

    return tile.Weights(offset=chunk.offset.to(dtype), target=chunk.target.to(dtype), factor=factor)
