"""The class-sharded head: every rank keeps some identities' centres and trains them itself.

Each rank passes its own embeddings with global labels and gets the loss of the global batch; the
backward fills the embedding gradients and updates the centres. The centres, their gradients and
their optimizer never leave their rank. No engine, no data, no checkpoint files in here.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor

from sharded_fc import arguments
from sharded_fc.arguments import OptimizerName, Unlabelled
from sharded_fc.collectives import Ranks
from sharded_fc.combine import Statistics
from sharded_fc.commit import Commit, own_gradient
from sharded_fc.export import export_centres
from sharded_fc.forward import Pass, Problem, run_forward
from sharded_fc.margins import Margin
from sharded_fc.nearest import Nearest, nearest
from sharded_fc.partition import bounds
from sharded_fc.softmax import ChunkedSoftmax, Kernels, Step
from sharded_fc.storage import Block, Rows, working_dtype
from sharded_fc.suggestions import Suggestions, merge_suggestions
from sharded_fc.summary import Summary, summarise_rows
from sharded_fc.tile import Weights

# Room for products kept from the first visit for the second, which saves one of four: 96 MiB hold
# all of 100,000 classes x 256 samples, a sixteenth of the rows all of a million x 64.
KEPT_BYTES = 96 << 20
KEPT_SHARE = 16


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
    it. `kept_bytes` bounds the products kept between the two visits; the default is 96 MiB, or a
    sixteenth of the rows and their optimizer's if that is more. On CUDA devices `kernels` can
    be "torch", "elementwise" (one pass over each product; what "auto" takes) or "fused" (no
    products in memory); elsewhere it is torch.
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
        kept_bytes: int | None = None,
        kernels: Kernels = "auto",
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
            kernels=kernels,
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
            kept_bytes=max(KEPT_BYTES, self._rows.bytes // KEPT_SHARE)
            if kept_bytes is None
            else kept_bytes,
            kernels_used=kernels,
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
        generation = self._generation

        def step(upstream: Tensor) -> list[Tensor]:
            with torch.autocast(self.device.type, enabled=False):
                own = self._commit(forward, generation, upstream)
            pieces = own.split([len(view.embedding) for view in views])
            return [
                piece.to(view.embedding.device, view.embedding.dtype)
                for piece, view in zip(pieces, views, strict=True)
            ]

        return HeadOutput(
            Commit.apply(step, loss, self._anchor, *(view.embedding for view in views)),
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
        After an error the rows are a mixture and must be loaded again. `identities.edited` makes
        blocks for other classes of them.
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

    def load_centres(self, rows: Iterable[Block]) -> None:
        """Start from another run's centres, or `foreign.insightface_rows`, and nothing else.

        The optimizer's rows, the margin's scalars and the step number begin anew.
        """
        self._generation += 1
        self._rows.fill(rows, centres_only=True)
        self._step.zero_()
        self._scalars = self._initial_scalars()

    def nearest(self, embedding: Float[Tensor, "own dim"], *, k: int) -> Nearest:
        """The `k` classes of all ranks nearest to each of this rank's embeddings.

        Every rank calls it, with as many embeddings as it has. See `nearest.nearest`.
        """
        return nearest(
            embedding, k=k, rows=self._rows, ranks=self._ranks, sub_centres=self.sub_centres
        )

    def merge_suggestions(
        self, path: Path, *, threshold: float, most: int = 100_000
    ) -> Suggestions:
        """Write the pairs of classes whose centres' cosine exceeds `threshold` as a CSV.

        Every rank calls it, rank 0 writes. See `suggestions.merge_suggestions`.
        """
        return merge_suggestions(
            path,
            threshold=threshold,
            most=most,
            rows=self._rows,
            ranks=self._ranks,
            embedding_dim=self.embedding_dim,
            sub_centres=self.sub_centres,
        )

    def export_centres(
        self,
        path: Path,
        *,
        unit: bool = True,
        dominant: bool = False,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Write all ranks' centres into one safetensors file on a folder that all ranks share.

        With `dominant` only the sub-centre of each class that most samples were nearest to. Every
        rank calls it; none holds more than a block. See `export.export_centres`.
        """
        export_centres(
            path,
            unit=unit,
            dtype=dtype,
            wins=self._rows.wins.cpu() if dominant else None,
            rows=self._rows,
            ranks=self._ranks,
            embedding_dim=self.embedding_dim,
            sub_centres=self.sub_centres,
        )

    def summary(self) -> Summary:
        """Figures of all ranks' rows, for now and then: it reads every row.

        Every rank calls it and gets the same.
        """
        return summarise_rows(self._rows, self._ranks, embedding_dim=self.embedding_dim)

    def _initial_scalars(self) -> dict[str, Tensor]:
        values = self.margin.initial_state(num_classes=self.num_classes)
        if self.margin.loss == "sigmoid":
            values["bias_momentum"] = 0.0
        return {
            name: torch.tensor(value, dtype=torch.float64, device=self.device)
            for name, value in values.items()
        }

    def _commit(self, forward: Pass, generation: int, upstream: Tensor) -> Tensor:
        """Step the rows by one pass; the gradient of this rank's embeddings, of all views."""
        if generation != self._generation:
            raise RuntimeError(
                "this pass of the head was already used, or is older than the head's last step or "
                "load: its rows have moved; call the head again"
            )
        self._generation += 1
        outcome, dtype = forward.outcome, self._problem.dtype
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
        return own_gradient(
            self._problem,
            forward,
            gradient,
            per_sample=per_sample,
            factor=upstream.double() * self._gradient_factor,
        )

    def _commit_scalars(self, forward: Pass, per_sample: Tensor) -> None:
        """The step number, the rows' wins and the margin's scalars, where the pass is finite."""
        finite = forward.outcome.finite
        new = dict(forward.adjustment.state)
        if self.margin.loss == "sigmoid":
            gradient = forward.outcome.bias_gradient * per_sample
            new["bias_momentum"] = self._scalars["bias_momentum"] * self._momentum + gradient
            new["bias"] = self._scalars["bias"] - new["bias_momentum"] * self.learning_rate
        targets = forward.targets
        self._rows.wins.index_add_(0, targets.row, (targets.here & finite).long())
        for name, value in new.items():
            self._scalars[name] = torch.where(finite, value, self._scalars[name])
        self._step += finite
