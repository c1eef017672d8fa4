"""Seconds of calls, and bytes a second of a copy, on a card or not."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

Figures = dict[str, float]


def seconds(call: Callable[[], Any], device: str, *, at_least_s: float = 0.5) -> float:
    """The median time of a call, after two that are not counted."""
    times: list[float] = []
    for number in range(1000):
        _finish(device)
        began = time.perf_counter()
        call()
        _finish(device)
        if number >= 2:
            times.append(time.perf_counter() - began)
        if len(times) >= 3 and sum(times) > at_least_s:
            break
    return statistics.median(times)


def _finish(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def copy_rate(device: str) -> float:
    """Bytes a second of a large copy, those read and those written."""
    source = torch.empty(1 << (28 if device != "cpu" else 20), device=device)
    target = torch.empty_like(source)
    return 2.0 * source.nbytes / seconds(lambda: target.copy_(source), device)
