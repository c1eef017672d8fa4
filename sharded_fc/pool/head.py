"""The head without trained centres: probes against a pool of a moving-average network's features.

F2C (arXiv:2105.10375). A pool holds the last two gallery features of the identities seen last. In
one call each of two views is compared with the other's features: first the second view's go in, and
are taken out again; then the first view's go in, and stay once the loss is differentiated. The pool
is cut over ranks by slot, while its directory is on every rank's host.
"""

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Literal

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Int64
from torch import Tensor

from sharded_fc.collectives import Ranks
from sharded_fc.commit import Commit
from sharded_fc.head import HeadOutput
from sharded_fc.margins import Margin
from sharded_fc.partition import bounds
from sharded_fc.pool.arguments import check_arguments
from sharded_fc.pool.directory import Change, Directory
from sharded_fc.pool.loss import PassLoss, Problem, pass_loss
from sharded_fc.pool.outside import published_nearest
from sharded_fc.pool.rows import PoolRows
from sharded_fc.pool.statistics import pool_statistics
from sharded_fc.pool.view import GatheredView, PoolView, gather_view
from sharded_fc.storage import Block

_DIRECTORY = ("label", "last_use", "next_row")


class PoolHead:
    """Softmax with a margin over the `slots` identities seen last, cut over a process group.

    `num_classes` counts all identities. `margin` is one of `arguments.MARGINS`. With
    `unfilled="masked"` slots that nobody has yet count for nothing; with `"random"` they are
    negatives of random direction, as in the published code. `chunk_slots` are visited at once; None
    fits the cache. Features are kept and multiplied in `dtype`, float32 or float64. `loss_weight`
    and `gradient_reduction` are `ShardedHead`'s, and so is the contract: nothing changes without a
    backward, under `no_grad`, or where something is not finite on any rank; a second backward of
    one call raises.

    The loss is a sum over two passes and two rows (see `loss`) of the mean over probes in the pool
    plus the mean over those outside; means are over all ranks.
    """

    sub_centres = 1

    def __init__(
        self,
        num_classes: int,
        embedding_dim: int,
        *,
        slots: int,
        margin: Margin,
        scale: float,
        group: dist.ProcessGroup | None = None,
        unfilled: Literal["masked", "random"] = "masked",
        chunk_slots: int | None = None,
        loss_weight: float = 1.0,
        gradient_reduction: Literal["mean", "sum"] = "mean",
        seed: int = 0,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._ranks = Ranks.of(group)
        check_arguments(
            num_classes=num_classes,
            embedding_dim=embedding_dim,
            slots=slots,
            world_size=self._ranks.size,
            margin=margin,
            scale=scale,
            unfilled=unfilled,
            chunk_slots=chunk_slots,
            gradient_reduction=gradient_reduction,
            dtype=dtype,
        )
        self.num_classes = num_classes
        self.embedding_dim = embedding_dim
        self.slots = slots
        self.margin = margin
        self.device = torch.device(device)
        self._masked = unfilled == "masked"
        self._gradient_factor = self._ranks.size if gradient_reduction == "mean" else 1
        self._rows = PoolRows(
            *bounds(slots, self._ranks.size)[self._ranks.rank],
            slots=slots,
            embedding_dim=embedding_dim,
            random=not self._masked,
            seed=seed,
            device=self.device,
            dtype=dtype,
        )
        self._problem = Problem(
            margin=margin,
            scale=scale,
            nearest=published_nearest(slots),
            chunk_slots=chunk_slots,
            loss_weight=loss_weight,
            seed=seed,
            ranks=self._ranks,
            rows=self._rows,
        )
        self._directory = Directory(slots)
        self._step = 0
        self._generation = 0
        # Keeps the loss differentiable on a rank without samples: each takes part in the backward.
        self._anchor = torch.zeros((), device=self.device, requires_grad=True)

    @property
    def partition(self) -> range:
        """The slots of this rank."""
        return range(self._rows.start, self._rows.stop)

    def __call__(self, first: PoolView, second: PoolView) -> HeadOutput:
        """The loss of both views of all ranks, to be called on every rank.

        Sizes may differ between views and ranks, or be 0 on some; lengths do not matter. No
        gradient goes to the gallery. `sample_loss` has the first view's probes, then the second's.
        Waits for the device once, for the labels, and once in the backward.

        Collectives: a view, one all_gather of integers and one of embeddings and labels; a pass,
        two (see `pass_loss`); backward, one reduce_scatter a view.
        """
        dtype = self._rows.feature.dtype
        differentiate = torch.is_grad_enabled()
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            views = [
                gather_view(
                    self._ranks,
                    view,
                    num_classes=self.num_classes,
                    embedding_dim=self.embedding_dim,
                    device=self.device,
                    dtype=dtype,
                )
                for view in (first, second)
            ]
            labels = [view.label.cpu().numpy() for view in views]
            changes = [self._directory.plan(label) for label in reversed(labels)]
            passes = [
                self._pass(probes, label, gallery, change, differentiate=differentiate)
                for probes, label, gallery, change in zip(
                    views, labels, reversed(views), changes, strict=True
                )
            ]
            loss = passes[0].loss + passes[1].loss
            finite = torch.cat(
                [loss.isfinite().unsqueeze(0), *(view.finite for view in views)]
            ).all()
            summarise = partial(
                pool_statistics,
                views,
                passes,
                loss=loss.to(dtype),
                finite=finite,
                filled=self._directory.filled_after(changes[1]),
                slots=self.slots,
                scale=self._problem.scale,
            )
        generation = self._generation

        def step(upstream: Tensor) -> list[Tensor]:
            self._commit(generation, changes[1], views[0], finite)
            factor = torch.where(finite, upstream.double() * self._gradient_factor, torch.nan)
            return [
                view.own_gradient(self._ranks, found.share(), factor=factor).to(
                    given.probe.device, given.probe.dtype
                )
                for given, view, found in zip((first, second), views, passes, strict=True)
            ]

        sample_loss = [v.own(found.sample_loss) for v, found in zip(views, passes, strict=True)]
        return HeadOutput(
            Commit.apply(step, loss.to(dtype), self._anchor, first.probe, second.probe),
            torch.cat(sample_loss).to(dtype),
            summarise,
        )

    def rows(self, block: int = 65536) -> Iterator[Block]:
        """Copies of this rank's slots on the host, with the slot each block starts at.

        Features "row0" and "row1", and the slots' part of the directory in three columns.
        """
        for first, features in self._rows.blocks(block):
            stop = first + len(features["row0"])
            columns = {
                name: torch.from_numpy(getattr(self._directory, name)[first:stop, None].copy())
                for name in _DIRECTORY
            }
            yield first, features | columns

    def state(self) -> dict[str, float | int]:
        """The scalars that belong to the rows, the same on every rank."""
        return {
            "num_classes": self.num_classes,
            "embedding_dim": self.embedding_dim,
            "slots": self.slots,
            "sub_centres": self.sub_centres,
            "num_inserted": self._directory.num_inserted,
            "step": self._step,
        }

    def load(self, rows: Iterable[Block], state: dict[str, float | int]) -> None:
        """Take over slots and scalars saved by any number of ranks; every rank calls it.

        A rank needs the blocks that hold its own slots; others are ignored. After an error the pool
        is a mixture and must be loaded again.

        Collectives: one all_gather of a flag, one of the directory.

        Raises:
            ValueError: on every rank, where the blocks are of another pool or leave a gap.
        """
        self._generation += 1
        columns, error = {}, None
        try:
            self._check_state(state)
            columns = self._rows.fill(rows)
            if set(columns) != set(_DIRECTORY):
                raise ValueError("the blocks have no directory; load a checkpoint of a pool")
        except ValueError as found:
            error = found
        flags = self._ranks.exchange_integers([int(error is not None)], device=self.device)
        if error is not None:
            raise error
        if [1] in flags:
            raise ValueError(f"rank {flags.index([1])} could not load its slots of the pool")
        self._directory.restore(
            **self._whole_directory(columns), num_inserted=int(state["num_inserted"])
        )
        self._step = int(state["step"])

    def _pass(
        self,
        probes: GatheredView,
        label: Int64[np.ndarray, " batch"],
        gallery: GatheredView,
        change: Change,
        *,
        differentiate: bool,
    ) -> PassLoss:
        """One view's probes against the pool with the other's features, which then leave it."""
        slot = torch.from_numpy(self._directory.find(label, after=change))
        with self._rows.holding(*self._writes(change, gallery)):
            return pass_loss(
                self._problem,
                probes.at(slot),
                filled=self._directory.filled_after(change) if self._masked else self.slots,
                renewed=torch.from_numpy(change.renewed),
                step=torch.tensor(self._step, device=self.device),
                differentiate=differentiate,
            )

    def _writes(self, change: Change, gallery: GatheredView) -> tuple[Tensor, Tensor, Tensor]:
        """(row, slot, feature) of what a change writes to this rank's slots."""
        slot = torch.from_numpy(change.written)
        own = self._rows.own(slot)
        row, source = (
            torch.from_numpy(x)[own].to(self.device) for x in (change.row, change.source)
        )
        return row, slot[own].to(self.device), gallery.gallery[source]

    def _commit(
        self, generation: int, change: Change, gallery: GatheredView, finite: Tensor
    ) -> None:
        if generation != self._generation:
            raise RuntimeError(
                "this pass of the head was already used, or is older than the head's last step or "
                "load: its pool has changed; call the head again"
            )
        self._generation += 1
        if finite:
            self._rows.write(*self._writes(change, gallery))
            self._directory.apply(change)
            self._step += 1

    def _check_state(self, state: dict[str, float | int]) -> None:
        for name in ("num_classes", "embedding_dim", "slots"):
            if state.get(name) != getattr(self, name):
                raise ValueError(
                    f"the saved head has {name} {state.get(name)}, this one {getattr(self, name)}"
                )

    def _whole_directory(self, columns: dict[str, Tensor]) -> dict[str, np.ndarray]:
        """All ranks' parts of the directory put together."""
        counts = [stop - start for start, stop in bounds(self.slots, self._ranks.size)]
        own = torch.zeros(max(counts), len(_DIRECTORY), dtype=torch.int64, device=self.device)
        own[: len(self._rows)] = torch.cat([columns[name] for name in _DIRECTORY], 1).to(own.device)
        parts = self._ranks.all_gather(own).cpu()
        whole = torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])
        return {
            name: column.numpy().copy()
            for name, column in zip(_DIRECTORY, whole.unbind(1), strict=True)
        }
