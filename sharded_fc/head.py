"""The class-sharded head: every rank keeps some identities' centres and trains them itself.

Each rank passes its own embeddings with global labels and gets the loss of the global batch; the
backward fills the embedding gradients and updates the centres. The centres, their gradients and
their optimizer never leave their rank. No engine, no data, no checkpoint files in here.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Literal

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor

from sharded_fc import arguments
from sharded_fc.arguments import OptimizerName, Unlabelled
from sharded_fc.chunk_work import Kernels
from sharded_fc.combine import Statistics
from sharded_fc.commit import Commit, own_gradient
from sharded_fc.construction import make_problem
from sharded_fc.forward import Pass, run_forward
from sharded_fc.head_rows import HeadRows
from sharded_fc.margins import Margin
from sharded_fc.outside import Outside
from sharded_fc.row_step import Step
from sharded_fc.sampling import Sampling
from sharded_fc.window import Window


@dataclass(frozen=True)
class HeadOutput:
    """`loss.backward()` fills embedding gradients and commits the rows.

    `sample_loss` holds this rank's samples' own losses, unweighted and detached, in the order they
    were passed. `summarise` is for `statistics`.
    """

    loss: Float[Tensor, ""]
    sample_loss: Float[Tensor, " own"]
    summarise: Callable[[], Statistics]

    @cached_property
    def statistics(self) -> Statistics:
        """Figures of this call, computed when first asked for."""
        with torch.no_grad():
            return self.summarise()


class ShardedHead(HeadRows):
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
    it; `ignore_conflicts` leaves them out of the loss. `sampling` compares with a share of the
    classes (`sampling.Sampling`); then `outside` can keep the rows in host memory or in files
    (`outside.Outside`). `kept_bytes` bounds the products kept between the two visits, or the
    gradients that a sigmoid loss keeps for its backward; the default is 96 MiB, or a sixteenth of
    the rows and their optimizer's if that is more. On CUDA devices `kernels` can be "torch",
    "elementwise" (one pass over each product; what "auto" takes) or "fused" (no products in memory;
    "elementwise" where the loss is a sigmoid's); elsewhere it is torch.
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
        sampling: Sampling | None = None,
        outside: Outside | None = None,
        conflict_cosine: float | None = None,
        ignore_conflicts: bool = False,
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
        problem = make_problem(
            num_classes,
            embedding_dim,
            margin=margin,
            scale=scale,
            group=group,
            optimizer=optimizer,
            momentum=momentum,
            weight_decay=weight_decay,
            betas=betas,
            eps=eps,
            learning_rate_ratios=learning_rate_ratios,
            clip_row_norm=clip_row_norm,
            clip_norm=clip_norm,
            sub_centres=sub_centres,
            class_margin=class_margin,
            unlabelled=unlabelled,
            sampling=sampling,
            outside=outside,
            conflict_cosine=conflict_cosine,
            ignore_conflicts=ignore_conflicts,
            compute_dtype=compute_dtype,
            chunk_classes=chunk_classes,
            kept_bytes=kept_bytes,
            kernels=kernels,
            gradient_reduction=gradient_reduction,
            seed=seed,
            device=torch.device(device),
            dtype=dtype,
            state_dtype=state_dtype,
        )
        super().__init__(problem)
        self.scale = scale
        self.loss_weight = loss_weight
        self.learning_rate = learning_rate
        self._momentum = momentum
        self._gradient_factor = problem.ranks.size if gradient_reduction == "mean" else 1
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

    def __call__(
        self,
        embedding: Float[Tensor, "batch dim"] | Sequence[tuple[Tensor | None, ...]],
        label: Int[Tensor, " batch"] | None = None,
        *,
        sample_weight: Float[Tensor, " batch"] | None = None,
        class_range: Int[Tensor, "batch 2"] | None = None,
        next_label: Int[Tensor, " next"] | None = None,
    ) -> HeadOutput:
        """The mean loss over all samples of all ranks, to be called on every rank.

        Pass one batch, or a list of `arguments.View`s (or tuples like them). Embeddings need not
        have unit length; batches may differ between ranks or be empty. Labels are global and best
        passed on the host, where checking them waits for nothing. A sample with a `class_range`
        [start, stop) competes with those classes alone. Nothing changes before `loss.backward()`,
        and nothing at all without it. `next_label` are all ranks' labels of the next call, on the
        host: rows kept outside the device are read for them while this step computes. Wrong ones
        cost time alone.

        Collectives: one all_gather of a few integers (counts and complaints), one of embeddings
        and labels, one of near classes where they are mined, one of target cosines, one of five
        numbers a sample; backward one reduce_scatter of embedding gradients.
        """
        views = arguments.as_views(embedding, label, sample_weight, class_range)
        keep = torch.is_grad_enabled()
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            forward = run_forward(
                self._problem,
                views,
                scalars=self._scalars,
                step=self._step,
                loss_weight=self.loss_weight,
                keep=keep,
                next_label=next_label,
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
            partial(forward.statistics, loss, scale=self.scale, num_classes=self.num_classes),
        )

    def _commit(self, forward: Pass, generation: int, upstream: Tensor) -> Tensor:
        """Step the rows by one pass; the gradient of this rank's embeddings, of all views."""
        if generation != self._generation:
            raise RuntimeError(
                "this pass of the head was already used, or is older than the head's last step or "
                "load: its rows have moved; call the head again"
            )
        outside, rows = self._problem.outside, forward.parts[0].rows
        if outside is not None and isinstance(rows, Window):
            outside.check(rows)
        self._generation += 1
        gradient = self._problem.softmax.second_visit(
            forward.batch,
            forward.visit,
            forward.rules,
            forward.weights,
            forward.parts,
            Step(
                learning_rate=self.learning_rate,
                number=self._step,
                skip=forward.outcome.finite.logical_not(),
                ratios=self._problem.ratios,
                clip_row_norm=self._problem.clip_row_norm,
            ),
            chunk=forward.chunk,
        )
        if self._problem.miner is not None:
            drawn, certain = forward.parts
            self._problem.miner.touch(certain.index, drawn.index, step=self._step)
        self._commit_scalars(forward)
        if outside is not None and isinstance(rows, Window):
            outside.keep(rows)
        return own_gradient(
            self._problem,
            forward,
            gradient,
            factor=upstream.double() * self._gradient_factor,
        )

    def _commit_scalars(self, forward: Pass) -> None:
        """The step number, the rows' wins and the margin's scalars, where the pass is finite."""
        finite = forward.outcome.finite
        new = dict(forward.adjustment.state)
        if self.margin.loss == "sigmoid":
            gradient = forward.outcome.bias_gradient * forward.per_sample
            new["bias_momentum"] = self._scalars["bias_momentum"] * self._momentum + gradient
            new["bias"] = self._scalars["bias"] - new["bias_momentum"] * self.learning_rate
        targets = forward.targets
        rows = forward.parts[0].rows
        rows.wins.index_add_(0, rows.places(targets.row), (targets.here & finite).long())
        for name, value in new.items():
            self._scalars[name] = torch.where(finite, value, self._scalars[name])
        self._step += finite
