"""The class-sharded head: every rank keeps some identities' centres and trains them itself.

Each rank passes its own embeddings with global labels and gets the loss of the global batch; the
backward fills the embedding gradients and updates the centres. The centres, their gradients and
their optimizer never leave their rank. No engine, no data, no checkpoint files in here.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from sharded_fc.arguments import Pair, agree, as_pairs, check_arguments, check_dtypes
from sharded_fc.collectives import Layout, Ranks, gather_batch, scatter_gradient
from sharded_fc.margins import Margin
from sharded_fc.optimizer import SGD
from sharded_fc.partition import bounds, default_chunk
from sharded_fc.softmax import (
    SHORTEST,
    ChunkedSoftmax,
    Softmax,
    Sums,
    combine,
    constant_shift,
)
from sharded_fc.storage import Block, Rows


@dataclass(frozen=True)
class Statistics:
    """Figures of the global batch, detached, 0-dim and the same on every rank.

    `committed` says whether a backward of this pass changes rows: the sums were finite on all
    ranks. Where it is False, `bad_rank` is the first rank with a bad embedding, or else the first
    with a bad row; otherwise -1.
    """

    loss: Float[Tensor, ""]
    target_cosine: Float[Tensor, ""]
    hardest_negative_cosine: Float[Tensor, ""]
    committed: Bool[Tensor, ""]
    bad_rank: Int[Tensor, ""]


@dataclass(frozen=True)
class HeadOutput:
    """`loss.backward()` fills embedding gradients and commits the rows."""

    loss: Float[Tensor, ""]
    statistics: Statistics


class ShardedHead:
    """Softmax with a margin over `num_classes` identities, split evenly over a process group.

    A plain class, not a Module: an engine that saw its rows would average different identities over
    ranks. `group=None` means the default group where one is initialised, else this process alone.

    `gradient_reduction` names what the engine does with gradients over ranks: with "mean" the
    embedding gradient is d(loss) times the world size, with "sum" it is d(loss). `loss_weight`
    multiplies the loss, and with it both gradients; an upstream factor (`(2 * loss).backward()`)
    multiplies the embedding gradient alone.
    """

    def __init__(
        self,
        num_classes: int,
        embedding_dim: int,
        *,
        margin: Margin,
        scale: float,
        group: dist.ProcessGroup | None = None,
        learning_rate: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        compute_dtype: torch.dtype = torch.float32,
        chunk_classes: int | None = None,
        loss_weight: float = 1.0,
        gradient_reduction: Literal["mean", "sum"] = "mean",
        seed: int = 0,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        check_arguments(num_classes, embedding_dim, scale, chunk_classes, gradient_reduction)
        check_dtypes(dtype, compute_dtype)
        self.num_classes = num_classes
        self.embedding_dim = embedding_dim
        self.margin = margin
        self.scale = scale
        self.loss_weight = loss_weight
        self.learning_rate = learning_rate
        self.device = torch.device(device)
        self._dtype = dtype
        self._chunk_classes = chunk_classes
        self._ranks = Ranks.of(group)
        self._gradient_factor = self._ranks.size if gradient_reduction == "mean" else 1
        self._shift = constant_shift(scale=scale, num_classes=num_classes, dtype=dtype)
        optimizer = SGD(momentum=momentum, weight_decay=weight_decay)
        start, stop = bounds(num_classes, self._ranks.size)[self._ranks.rank]
        self._rows = Rows(
            start,
            stop,
            embedding_dim=embedding_dim,
            state_widths=optimizer.state_widths(embedding_dim),
            seed=seed,
            device=self.device,
            dtype=dtype,
            state_dtype=dtype,
        )
        self._softmax = ChunkedSoftmax(
            self._rows, optimizer, scale=scale, shift=self._shift, compute_dtype=compute_dtype
        )
        self._step = torch.zeros((), dtype=torch.int64, device=self.device)
        # Host-side, so that an old pass is refused without waiting for the device: it counts
        # backwards and loads, committed or not.
        self._generation = 0
        # Keeps the loss differentiable on a rank whose own batch is empty or frozen: every rank has
        # to take part in the backward.
        self._anchor = torch.zeros((), device=self.device, requires_grad=True)

    @property
    def learning_rate(self) -> float:
        """The step size of the next backward; set it before a step to follow a schedule."""
        return self._learning_rate

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        if not value >= 0:
            raise ValueError(f"learning_rate {value}; use 0 or more")
        self._learning_rate = float(value)

    @property
    def partition(self) -> range:
        """The classes of this rank."""
        return range(self._rows.start, self._rows.stop)

    def __call__(
        self,
        embedding: Float[Tensor, "batch dim"] | Sequence[Pair],
        label: Int[Tensor, " batch"] | None = None,
    ) -> HeadOutput:
        """The mean loss over all samples of all ranks, to be called on every rank.

        Embeddings need not have unit length; batches may differ between ranks or be empty. Labels
        are global and best passed on the host, where checking them waits for nothing. Nothing
        changes before `loss.backward()`, and nothing at all without it.

        Collectives: one all_gather of a few integers (counts and complaints), one of (embedding,
        label), one of three numbers a sample; backward one reduce_scatter of embedding gradients.
        """
        pairs = as_pairs(embedding, label)
        embeddings = [pair[0] for pair in pairs]
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            forward = self._forward(embeddings, [pair[1] for pair in pairs])
        loss = _Commit.apply(forward, self._anchor, *embeddings)
        return HeadOutput(loss, forward.statistics)

    def rows(self, block: int = 65536) -> Iterator[Block]:
        """Copies of this rank's rows on the host, with the global class each block starts at."""
        return self._rows.blocks(block)

    def state(self) -> dict[str, float | int]:
        """The scalars that belong to the rows, the same on every rank."""
        return {
            "num_classes": self.num_classes,
            "embedding_dim": self.embedding_dim,
            "step": int(self._step),
        }

    def load(self, rows: Iterable[Block], state: dict[str, float | int]) -> None:
        """Take over rows and scalars saved by any number of ranks.

        Pass every block of the checkpoint: what belongs to other ranks is ignored, a gap refused.
        After an error the rows are a mixture and must be loaded again.
        """
        for name, own in (("num_classes", self.num_classes), ("embedding_dim", self.embedding_dim)):
            if state[name] != own:
                raise ValueError(f"the saved head has {name} {state[name]}, this one {own}")
        self._generation += 1
        self._rows.fill(rows)
        self._step.fill_(int(state["step"]))

    def _forward(self, embeddings: list[Tensor], labels: list[Tensor]) -> "_Pass":
        layout = agree(
            self._ranks,
            embeddings,
            labels,
            num_classes=self.num_classes,
            embedding_dim=self.embedding_dim,
            device=self.device,
        )
        own = torch.cat([e.to(self.device, self._dtype) for e in embeddings])
        own_label = torch.cat([label.to(self.device, torch.int64) for label in labels])
        # In float64, so that no length over- or underflows.
        norm = torch.linalg.vector_norm(own, dim=1, keepdim=True, dtype=torch.float64)
        inverse = norm.reciprocal().masked_fill_(norm <= SHORTEST, 0.0)
        unit = own.double().mul_(inverse).to(self._dtype)
        embedding, label = gather_batch(self._ranks, layout, unit, own_label)
        chunk = self._chunk_classes or default_chunk(
            embedding_dim=self.embedding_dim,
            batch=layout.total,
            item_bytes=self._dtype.itemsize,
            on_cpu=self.device.type == "cpu",
        )
        chunk = min(chunk, len(self._rows))
        sums = self._softmax.first_visit(embedding, label, chunk=chunk)
        tables = self._ranks.all_gather(sums.table)
        softmax = combine(
            tables, margin=self.margin, scale=self.scale, shift=self._shift, dtype=self._dtype
        )
        loss = (self.loss_weight * softmax.loss).to(self._dtype)
        statistics = Statistics(
            loss=loss,
            target_cosine=softmax.target_cosine.to(self._dtype),
            hardest_negative_cosine=softmax.hardest_negative_cosine.to(self._dtype),
            committed=softmax.finite,
            bad_rank=_bad_rank(embedding, tables, layout.owner(device=self.device)),
        )
        return _Pass(
            head=self,
            generation=self._generation,
            layout=layout,
            embedding=embedding,
            label=label,
            unit=unit,
            inverse=inverse,
            pieces=[len(e) for e in embeddings],
            dtypes=[e.dtype for e in embeddings],
            chunk=chunk,
            sums=sums,
            softmax=softmax,
            statistics=statistics,
        )

    def _backward(self, forward: "_Pass", upstream: Tensor) -> list[Tensor]:
        """Commit the rows of one pass; return the gradient of each of its embedding tensors."""
        if forward.generation != self._generation:
            raise RuntimeError(
                "this pass of the head was already used, or is older than the head's last step or "
                "load: its rows have moved; call the head again"
            )
        self._generation += 1
        factor = self.scale * self.loss_weight / forward.layout.total
        gradient = self._softmax.second_visit(
            forward.embedding,
            forward.label,
            forward.sums,
            forward.softmax,
            chunk=forward.chunk,
            factor=factor,
            learning_rate=self.learning_rate,
        )
        self._step += forward.softmax.finite
        own = scatter_gradient(self._ranks, forward.layout, gradient)
        # Through the normalisation: the part along the embedding drops out, the rest is divided.
        own.sub_(forward.unit * (own * forward.unit).sum(1, keepdim=True))
        # A skipped step must reach the backbone's own guard: its gradient is not a number.
        passed = torch.where(forward.softmax.finite, upstream.double(), torch.nan)
        own.mul_((forward.inverse * (passed * self._gradient_factor)).to(own.dtype))
        pieces = own.split(forward.pieces)
        return [piece.to(dtype) for piece, dtype in zip(pieces, forward.dtypes, strict=True)]


@dataclass(frozen=True)
class _Pass:
    """One call of the head, kept for its backward."""

    head: ShardedHead
    generation: int
    layout: Layout
    embedding: Tensor
    label: Tensor
    unit: Tensor
    inverse: Tensor
    pieces: list[int]
    dtypes: list[torch.dtype]
    chunk: int
    sums: Sums
    softmax: Softmax
    statistics: Statistics

    def backward(self, upstream: Tensor) -> list[Tensor]:
        """Commit, outside autocast."""
        with torch.autocast(self.head.device.type, enabled=False):
            return self.head._backward(self, upstream)


class _Commit(torch.autograd.Function):
    """Ties a pass to autograd: its backward is the head's step."""

    @staticmethod
    def forward(ctx: Any, forward: _Pass, anchor: Tensor, *embeddings: Tensor) -> Tensor:
        ctx.forward_pass = forward
        return forward.statistics.loss.clone()

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]: ctx is positional there
        ctx: Any, *upstream: Tensor
    ) -> tuple[Tensor | None, ...]:
        return (None, None, *ctx.forward_pass.backward(upstream[0]))


def _bad_rank(embedding: Tensor, tables: Tensor, owner: Tensor) -> Tensor:
    """The first rank with a non-finite embedding, else with non-finite sums, else -1."""
    bad_sample = embedding.isfinite().all(1).logical_not()
    bad_table = tables.isnan().any(2).any(1)
    of_sample = owner[bad_sample.int().argmax()]
    of_table = torch.where(bad_table.any(), bad_table.int().argmax(), -1)
    return torch.where(bad_sample.any(), of_sample, of_table)
