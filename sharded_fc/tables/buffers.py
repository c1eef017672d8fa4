"""Room for one step's rows, on the host and, where that is another place, on the device.

On an accelerator rows travel on a stream of their own, beside the computation.
"""

from typing import Any

import torch
from torch import Tensor

from sharded_fc.tables.layout import COUNTERS, Layout
from sharded_fc.tables.table import RowNumbers, Taken


class Buffers:
    """Two sides of the same rows; on a CPU they are the same memory. They grow with use."""

    def __init__(self, layout: Layout, device: torch.device) -> None:
        self._layout = layout
        self._device = device
        self._room = -1
        self._host: dict[str, Tensor] = {}
        self._near: dict[str, Tensor] = {}

    def host(self, num_rows: int) -> dict[str, Tensor]:
        """The fields of so many rows, on the host."""
        if num_rows > self._room:
            self._host = self._near = {}  # freed before the new ones are made
            self._host = self._layout.empty(num_rows, pinned=self._device.type == "cuda")
            if self._device.type == "cpu":
                self._near = self._host
            else:
                self._near = {
                    name: torch.empty_like(tensor, device=self._device)
                    for name, tensor in self._host.items()
                }
            self._room = num_rows
        return {name: tensor[:num_rows] for name, tensor in self._host.items()}

    def near(self, num_rows: int) -> dict[str, Tensor]:
        """The fields of so many rows, on the device."""
        return {name: tensor[:num_rows] for name, tensor in self._near.items()}

    def taken(self, rows: RowNumbers) -> Taken:
        """The rows on the device, as views."""
        tensors = self.near(len(rows))
        centre = tensors.pop("centre")
        wins, counter = (tensors.pop(name).squeeze(1) for name in COUNTERS)
        return Taken(rows, centre, tensors, wins, counter)


class Travel:
    """Copies between the sides of buffers, made by another thread than the one that computes."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def now(self) -> Any:
        """What the device was told to do so far, for `up` and `down` to come after."""
        if self._stream is None:
            return None
        return torch.cuda.current_stream(self._device).record_event()

    def up(self, buffers: Buffers, num_rows: int, *, after: Any) -> None:
        """Copy host to device; the rows are there when this returns."""
        self._copy(buffers.host(num_rows), buffers.near(num_rows), after)

    def down(self, buffers: Buffers, num_rows: int, *, after: Any) -> None:
        """Copy device to host; the rows are there when this returns."""
        self._copy(buffers.near(num_rows), buffers.host(num_rows), after)

    def _copy(self, source: dict[str, Tensor], to: dict[str, Tensor], after: Any) -> None:
        if self._stream is None:
            return
        with torch.cuda.stream(self._stream):
            self._stream.wait_event(after)
            for name, tensor in source.items():
                to[name].copy_(tensor, non_blocking=True)
            self._stream.synchronize()
