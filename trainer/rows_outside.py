"""The head's rows outside the device: where a run keeps them, and whose are needed next."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from data_pipeline.index import Dataset
from data_pipeline.orders import Order
from sharded_fc.outside import Outside, RowsError
from trainer.config import RunConfig
from trainer.errors import RunError
from trainer.run_folder import ROWS


def rows_outside(config: RunConfig) -> Outside | None:
    """What `head.rows` asks for; None for rows on the device."""
    head = config.head
    if head.rows == "device":
        return None
    if head.rows_folder is None:
        return Outside(kept_in=head.rows, folder=config.folder / ROWS)
    return Outside(kept_in=head.rows, folder=Path(head.rows_folder) / config.name)


@contextmanager
def rows_errors_in_one_line() -> Iterator[None]:
    """Say what to change where rows outside the device cannot be read or written.

    A row can then neither be had nor kept, so training cannot go on; what the last checkpoint holds
    is safe.
    """
    try:
        yield
    except BlockingIOError as error:
        raise RunError(str(error)) from error
    except RowsError as error:
        advice = "make room on" if error.full else "see to"
        raise RunError(
            f"{error}; {advice} that disk and start the run again: it continues from the last"
            " checkpoint, which is untouched"
        ) from error


class StepLabels:
    """The labels of any step's global batch, in no order, by the run's order of samples.

    A bad sample's stand-in may have another label than is told here. Keeps four bytes a sample.
    """

    def __init__(self, order: Order, dataset: Dataset) -> None:
        """`order` is this object's alone: orders keep what they computed last."""
        self._order = order
        self._label = np.concatenate(
            [
                dataset.members(shard)["label"].astype(np.int32)
                for shard in range(len(dataset.shards))
            ]
        )

    def of_step(self, step: int) -> Int64[Tensor, " batch"]:
        """Labels of step `step`, counted from 0; -1 or less is nobody's."""
        samples = [self._order.micro_batch(step, j)[0] for j in range(self._order.micro_batches)]
        return torch.from_numpy(self._label[np.concatenate(samples)].astype(np.int64))
