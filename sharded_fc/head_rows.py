"""What a head does with its rows between steps: hand them out, take them over, look into them."""

from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from sharded_fc.export import export_centres
from sharded_fc.nearest import Nearest, nearest
from sharded_fc.outside import OutsideRows
from sharded_fc.present_rows import PresentRows, ReadableRows
from sharded_fc.problem import Problem
from sharded_fc.storage import Block
from sharded_fc.suggestions import Suggestions, merge_suggestions
from sharded_fc.summary import Summary, summarise_rows


class HeadRows:
    """One rank's rows with the scalars that belong to them; the part of a head that lasts.

    Rows that steps have passed by (`Sampling.untouched`) are brought to the present before they are
    handed out or looked at.
    """

    def __init__(self, problem: Problem) -> None:
        self.num_classes = problem.num_classes
        self.embedding_dim = problem.embedding_dim
        self.margin = problem.margin
        self.sub_centres = problem.softmax.sub_centres
        self.device = problem.device
        self._problem = problem
        self._ranks = problem.ranks
        self._step = torch.zeros((), dtype=torch.int64, device=problem.device)
        self._scalars = self._initial_scalars()
        # Host-side, so that an old pass is refused without waiting for the device: it counts
        # backwards and loads, committed or not.
        self._generation = 0

    @property
    def partition(self) -> range:
        """The classes of this rank."""
        rows, each = self._problem.softmax.rows, self.sub_centres
        return range(rows.start // each, rows.stop // each)

    def rows(self, block: int = 65536) -> Iterator[Block]:
        """Copies of this rank's rows on the host, with the global row each block starts at.

        Class c has rows c * sub_centres to (c + 1) * sub_centres.
        """
        rows = self._present_rows()
        self._renew_index()
        return rows.blocks(block)

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
        self._check(state)
        self._fill(rows, centres_only=False)
        self._take_scalars(state)

    def load_centres(self, rows: Iterable[Block]) -> None:
        """Start from another run's centres, or `foreign.insightface_rows`, and nothing else.

        The optimizer's rows, the margin's scalars and the step number begin anew.
        """
        self._fill(rows, centres_only=True)
        self._step.zero_()
        self._scalars = self._initial_scalars()

    @property
    def outside(self) -> bool:
        """Whether the rows are outside the device: then tables of their own hold checkpoints."""
        return self._problem.outside is not None

    def checkpoint(self, step: int) -> str:
        """Make rows outside the device, as they are, a checkpoint; the name of this rank's table.

        Earlier ones stay. To go on from it take the names of all ranks' tables, `state()` and
        `history()`; once they are safe, `forget` the checkpoints that are needed no more.
        """
        return self._rows_outside().checkpoint(step)

    def history(self) -> dict[str, Tensor]:
        """What rows that stay behind (`Sampling.untouched`) need of the past; alike on all ranks.

        Goes with `checkpoint`, which brings no row to the present.
        """
        catch_up = self._problem.softmax.catch_up
        return {} if catch_up is None else catch_up.history()

    def forget(self, *, before: int, tables: Collection[str]) -> None:
        """Give back what checkpoints before step `before`, and all but these tables, take."""
        rows = self._rows_outside()
        rows.forget(before=before)
        if self._ranks.rank == 0:
            rows.remove_others(tables)

    def restore(
        self,
        tables: Collection[str],
        state: dict[str, float | int],
        history: dict[str, Tensor],
        *,
        step: int,
    ) -> None:
        """Go back to a checkpoint of rows outside the device, of any number of ranks.

        Raises:
            ValueError: a table is missing or has no such checkpoint, or the head is another.
            BlockingIOError: another process trains with one.
        """
        self._check(state)
        self._generation += 1
        self._rows_outside().restore(tables, step=step)
        catch_up = self._problem.softmax.catch_up
        if catch_up is not None:
            catch_up.remember(history)
        self._take_scalars(state)

    def close(self) -> None:
        """Give back the files of rows outside the device; what was not checkpointed is undone."""
        if self._problem.outside is not None:
            self._problem.outside.close()

    def nearest(self, embedding: Float[Tensor, "own dim"], *, k: int) -> Nearest:
        """The `k` classes of all ranks nearest to each of this rank's embeddings.

        Every rank calls it, with as many embeddings as it has. See `nearest.nearest`.
        """
        return nearest(
            embedding,
            k=k,
            rows=self._present_rows(),
            ranks=self._ranks,
            sub_centres=self.sub_centres,
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
            rows=self._present_rows(),
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
        rows = self._present_rows()
        export_centres(
            path,
            unit=unit,
            dtype=dtype,
            wins=rows.wins.cpu() if dominant else None,
            rows=rows,
            ranks=self._ranks,
            embedding_dim=self.embedding_dim,
            sub_centres=self.sub_centres,
        )

    def summary(self) -> Summary:
        """Figures of all ranks' rows, for now and then: it reads every row.

        Every rank calls it and gets the same.
        """
        return summarise_rows(self._present_rows(), self._ranks, embedding_dim=self.embedding_dim)

    def _present_rows(self) -> ReadableRows:
        rows, catch_up = self._problem.softmax.rows, self._problem.softmax.catch_up
        if isinstance(rows, OutsideRows):
            return PresentRows(rows, catch_up, step=self._step)
        if catch_up is not None:
            catch_up.finish(step=self._step)
        return rows

    def _rows_outside(self) -> OutsideRows:
        rows = self._problem.outside
        if rows is None:
            raise ValueError("the rows are on the device; save them with head.rows()")
        return rows

    def _check(self, state: dict[str, float | int]) -> None:
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

    def _take_scalars(self, state: dict[str, float | int]) -> None:
        self._step.fill_(int(state["step"]))
        for name, value in self._scalars.items():
            value.fill_(state[name])

    def _fill(self, rows: Iterable[Block], *, centres_only: bool) -> None:
        self._generation += 1
        softmax = self._problem.softmax
        softmax.rows.fill(rows, centres_only=centres_only)
        if softmax.catch_up is not None:
            softmax.catch_up.restart()
        self._renew_index()

    def _renew_index(self) -> None:
        # Made of the rows as they are now, so that a run that goes on and one that is resumed from
        # what is handed out mine the same classes.
        if self._problem.miner is not None:
            self._problem.miner.renew()

    def _initial_scalars(self) -> dict[str, Tensor]:
        values = self.margin.initial_state(num_classes=self.num_classes)
        if self.margin.loss == "sigmoid":
            values["bias_momentum"] = 0.0
        return {
            name: torch.tensor(value, dtype=torch.float64, device=self.device)
            for name, value in values.items()
        }
