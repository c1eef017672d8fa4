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
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from sharded_fc import arguments
from sharded_fc.arguments import OptimizerName, Unlabelled, View
from sharded_fc.collectives import Ranks, scatter_gradient
from sharded_fc.combine import Statistics
from sharded_fc.forward import Pass, Problem, run_forward
from sharded_fc.margins import Margin
from sharded_fc.partition import bounds
from sharded_fc.softmax import ChunkedSoftmax, Step
from sharded_fc.storage import Block, Rows, working_dtype
from sharded_fc.tile import Weights

# Room for products kept from the first visit for the second. Most of what keeping saves (one of
# four matrix products) is had with little: 96 MiB hold all of 100,000 classes x 256 samples.
KEPT_BYTES = 96 << 20


@dataclass(frozen=True)
class HeadOutput:
    """`loss.backward()` fills embedding gradients and commits the rows.

    `sample_loss` holds this rank's samples' own losses, unweighted and detached, in the order they
    were passed.
    """

    loss: Float[Tensor, ""]
    sample_loss: Float[Tensor, " own"]
    statistics: Statistics


class ShardedHead:
    """Softmax with a margin over `num_classes` identities, split evenly over a process group.

    A plain class, not a Module: an engine that saw its rows would average different identities over
    ranks. `group=None` means the default group where one is initialised, else this process alone.

    The loss is the mean over samples of `sample_weight` times each one's loss. A label of -1, a
    face of nobody known, is refused, ignored, or repelled from all centres, as `unlabelled` says.
    `sub_centres` rows make a class, of which the nearest counts (arXiv:1911.12419 calls it
    sub-center ArcFace). `class_margin` replaces the margin's number, one for each class.

    `gradient_reduction` names what the engine does with gradients over ranks: with "mean" the
    embedding gradient is d(loss) times the world size, with "sum" it is d(loss). `loss_weight`
    multiplies the loss, and with it both gradients; an upstream factor (`(2 * loss).backward()`)
    multiplies the embedding gradient alone.

    Rows are kept in `dtype`, what the optimizer keeps for them in `state_dtype` (that of the rows,
    or float32), products are computed in `compute_dtype` (float32 on CPUs, float16 elsewhere).
    `learning_rate_ratios` are (first class, last class + 1, ratio); 0 freezes. `clip_row_norm`
    bounds the length of each row's gradient. `conflict_cosine` turns on counting of negatives above
    it. `kept_bytes` bounds the products kept between the two visits.
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
        optimizer: OptimizerName = "sgd",
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        learning_rate_ratios: Sequence[tuple[int, int, float]] = (),
        clip_row_norm: float | None = None,
        clip_norm: float | None = None,
        sub_centres: int = 1,
        class_margin: Float[Tensor, " classes"] | None = None,
        unlabelled: Unlabelled = "refuse",
        conflict_cosine: float | None = None,
        compute_dtype: torch.dtype | None = None,
        chunk_classes: int | None = None,
        kept_bytes: int = KEPT_BYTES,
        loss_weight: float = 1.0,
        gradient_reduction: Literal["mean", "sum"] = "mean",
        seed: int = 0,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        state_dtype: torch.dtype | None = None,
    ) -> None:
        self.device = torch.device(device)
        working = working_dtype(dtype)
        if compute_dtype is None:
            on_cpu = self.device.type == "cpu" or dtype == torch.float64
            compute_dtype = working if on_cpu else torch.float16
        arguments.check_arguments(
            num_classes,
            embedding_dim,
            scale,
            margin=margin,
            sub_centres=sub_centres,
            chunk_classes=chunk_classes,
            gradient_reduction=gradient_reduction,
            unlabelled=unlabelled,
            class_margin=class_margin,
            clip_norm=clip_norm,
            clip_row_norm=clip_row_norm,
        )
        arguments.check_dtypes(dtype, state_dtype, compute_dtype)
        ratios = arguments.check_ratios(learning_rate_ratios, num_classes=num_classes)
        self.num_classes = num_classes
        self.embedding_dim = embedding_dim
        self.margin = margin
        self.scale = scale
        self.sub_centres = sub_centres
        self.loss_weight = loss_weight
        self.learning_rate = learning_rate
        self._momentum = momentum
        self._clip_row_norm = clip_row_norm
        self._ranks = Ranks.of(group)
        self._gradient_factor = self._ranks.size if gradient_reduction == "mean" else 1
        chosen = arguments.make_optimizer(
            optimizer, momentum=momentum, weight_decay=weight_decay, betas=betas, eps=eps
        )
        start, stop = bounds(num_classes, self._ranks.size)[self._ranks.rank]
        width = embedding_dim if margin.normalised else embedding_dim + 1  # and a bias
        self._rows = Rows(
            start * sub_centres,
            stop * sub_centres,
            embedding_dim=width,
            state_widths=chosen.state_widths(width),
            seed=seed,
            device=self.device,
            dtype=dtype,
            state_dtype=state_dtype or (dtype if dtype != torch.float16 else torch.float32),
            initial_columns=embedding_dim,
        )
        self._ratios = tuple(
            (first * sub_centres - self._rows.start, last * sub_centres - self._rows.start, ratio)
            for first, last, ratio in ratios
        )
        softmax = ChunkedSoftmax(
            self._rows,
            chosen,
            sub_centres=sub_centres,
            normalised=margin.normalised,
            compute_dtype=compute_dtype,
            working_dtype=working,
            kept_bytes=kept_bytes,
            seed=seed,
        )
        self._problem = Problem(
            num_classes=num_classes,
            embedding_dim=embedding_dim,
            margin=margin,
            scale=scale,
            unlabelled=unlabelled,
            conflict_cosine=conflict_cosine,
            class_margin=None if class_margin is None else class_margin[start:stop].to(self.device),
            chunk_classes=chunk_classes,
            seed=seed,
            device=self.device,
            ranks=self._ranks,
            softmax=softmax,
        )
        self._step = torch.zeros((), dtype=torch.int64, device=self.device)
        self._scalars = self._initial_scalars()
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
        each = self.sub_centres
        return range(self._rows.start // each, self._rows.stop // each)

    def __call__(
        self,
        embedding: Float[Tensor, "batch dim"] | Sequence[tuple[Tensor | None, ...]],
        label: Int[Tensor, " batch"] | None = None,
        *,
        sample_weight: Float[Tensor, " batch"] | None = None,
        class_range: Int[Tensor, "batch 2"] | None = None,
    ) -> HeadOutput:
        """The mean loss over all samples of all ranks, to be called on every rank.

        Pass one batch, or a list of `arguments.View`s (or tuples like them). Embeddings need not
        have unit length; batches may differ between ranks or be empty. Labels are global and best
        passed on the host, where checking them waits for nothing. A sample with a `class_range`
        [start, stop) competes with those classes alone. Nothing changes before `loss.backward()`,
        and nothing at all without it.

        Collectives: one all_gather of a few integers (counts and complaints), one of embeddings
        and labels, one of target cosines, one of five numbers a sample; backward one
        reduce_scatter of embedding gradients.
        """
        views = arguments.as_views(embedding, label, sample_weight, class_range)
        keep = torch.is_grad_enabled()
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            forward = run_forward(
                self._problem, views, scalars=self._scalars, step=self._step, keep=keep
            )
            loss = (self.loss_weight * forward.outcome.loss).to(self._problem.dtype)
        passed = _Passed(self, self._generation, forward, [view.embedding.dtype for view in views])
        return HeadOutput(
            _Commit.apply(passed, loss, self._anchor, *(view.embedding for view in views)),
            forward.own(forward.outcome.sample_loss).to(self._problem.dtype),
            forward.statistics(loss, scale=self.scale, num_classes=self.num_classes),
        )

    def rows(self, block: int = 65536) -> Iterator[Block]:
        """Copies of this rank's rows on the host, with the global row each block starts at.

        Class c has rows c * sub_centres to (c + 1) * sub_centres.
        """
        return self._rows.blocks(block)

    def state(self) -> dict[str, float | int]:
        """The scalars that belong to the rows, the same on every rank."""
        return {
            "num_classes": self.num_classes,
            "embedding_dim": self.embedding_dim,
            "sub_centres": self.sub_centres,
            "step": int(self._step),
            **{name: float(value) for name, value in self._scalars.items()},
        }

    def load(self, rows: Iterable[Block], state: dict[str, float | int]) -> None:
        """Take over rows and scalars saved by any number of ranks.

        Pass every block of the checkpoint: what belongs to other ranks is ignored, a gap refused.
        After an error the rows are a mixture and must be loaded again.
        """
        for name in ("num_classes", "embedding_dim", "sub_centres"):
            if state[name] != getattr(self, name):
                raise ValueError(
                    f"the saved head has {name} {state[name]}, this one {getattr(self, name)}"
                )
        absent = sorted(set(self._scalars) - set(state))
        if absent:
            raise ValueError(
                f"the saved head has no {', '.join(absent)}, which {type(self.margin).__name__} "
                "needs; load it into a head with the margin it was trained with"
            )
        self._generation += 1
        self._rows.fill(rows)
        self._step.fill_(int(state["step"]))
        for name, value in self._scalars.items():
            value.fill_(state[name])

    def _initial_scalars(self) -> dict[str, Tensor]:
        values = self.margin.initial_state(num_classes=self.num_classes)
        if self.margin.loss == "sigmoid":
            values["bias_momentum"] = 0.0
        return {
            name: torch.tensor(value, dtype=torch.float64, device=self.device)
            for name, value in values.items()
        }

    def _backward(self, passed: "_Passed", upstream: Tensor) -> list[Tensor]:
        """Commit the rows of one pass; return the gradient of each of its embedding tensors."""
        if passed.generation != self._generation:
            raise RuntimeError(
                "this pass of the head was already used, or is older than the head's last step or "
                "load: its rows have moved; call the head again"
            )
        self._generation += 1
        forward, outcome = passed.forward, passed.forward.outcome
        dtype = self._problem.dtype
        per_sample = self.loss_weight / outcome.num_counted
        gradient = self._problem.softmax.second_visit(
            forward.batch,
            forward.visit,
            forward.rules,
            Weights(
                offset=outcome.offset.to(dtype),
                target=outcome.target_gradient.to(dtype),
                factor=(per_sample * self.scale).to(dtype),
            ),
            Step(
                learning_rate=self.learning_rate,
                number=self._step,
                skip=outcome.finite.logical_not(),
                ratios=self._ratios,
                clip_row_norm=self._clip_row_norm,
            ),
            chunk=forward.chunk,
        )
        self._commit_scalars(forward, per_sample)
        own = scatter_gradient(self._ranks, forward.layout, gradient)
        if self.margin.normalised:
            # The part along the embedding drops out, the rest is divided by its length.
            own.sub_(forward.unit * (own * forward.unit).sum(1, keepdim=True))
            own.mul_(forward.inverse.to(dtype))
        if outcome.norm_gradient is not None:
            along = forward.own(outcome.norm_gradient) * per_sample
            own.add_(forward.unit * along.to(dtype).unsqueeze(1))
        # A skipped step must reach the backbone's own guard: its gradient is not a number.
        factor = torch.where(outcome.finite, upstream.double(), torch.nan) * self._gradient_factor
        own = own[:, : self.embedding_dim].mul(factor.to(dtype))
        pieces = own.split(forward.pieces)
        return [piece.to(dtype) for piece, dtype in zip(pieces, passed.dtypes, strict=True)]

    def _commit_scalars(self, forward: Pass, per_sample: Tensor) -> None:
        """The step number and the margin's scalars, where the pass is finite."""
        finite = forward.outcome.finite
        new = dict(forward.adjustment.state)
        if self.margin.loss == "sigmoid":
            gradient = forward.outcome.bias_gradient * per_sample
            new["bias_momentum"] = self._scalars["bias_momentum"] * self._momentum + gradient
            new["bias"] = self._scalars["bias"] - new["bias_momentum"] * self.learning_rate
        for name, value in new.items():
            self._scalars[name] = torch.where(finite, value, self._scalars[name])
        self._step += finite


@dataclass(frozen=True)
class _Passed:
    """One call of the head, kept for its backward."""

    head: ShardedHead
    generation: int
    forward: Pass
    dtypes: list[torch.dtype]

    def backward(self, upstream: Tensor) -> list[Tensor]:
        """Commit, outside autocast."""
        with torch.autocast(self.head.device.type, enabled=False):
            return self.head._backward(self, upstream)


class _Commit(torch.autograd.Function):
    """Ties a pass to autograd: its backward is the head's step."""

    @staticmethod
    def forward(
        ctx: Any, passed: _Passed, loss: Tensor, anchor: Tensor, *embeddings: Tensor
    ) -> Tensor:
        ctx.passed = passed
        return loss.clone()

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]: ctx is positional there
        ctx: Any, *upstream: Tensor
    ) -> tuple[Tensor | None, ...]:
        return (None, None, None, *ctx.passed.backward(upstream[0]))
