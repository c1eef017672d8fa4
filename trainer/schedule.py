"""The learning rate of a step: a warm-up, then a decay; a function of the step number alone."""

import math
from typing import Literal

Decay = Literal["polynomial", "cosine", "constant"]


def learning_rate(
    step: int,
    *,
    peak: float,
    steps: int,
    warmup_steps: int = 0,
    name: Decay = "polynomial",
    power: float = 2.0,
    final_ratio: float = 0.0,
) -> float:
    """The learning rate of `step`, counted from 0, in a run of `steps`.

    It rises linearly over the `warmup_steps` first steps, is `peak` at step `warmup_steps`, and at
    the last step exactly `peak * final_ratio` (`constant` stays at the peak). A run whose warm-up
    leaves one step ends at the peak. `power` is the polynomial's: 2 as arcface_torch has it, 1 is
    linear.
    """
    if not 0 <= step < steps:
        raise ValueError(f"step {step} is outside a run of {steps} steps")
    if step < warmup_steps:
        return peak * (step + 1) / (warmup_steps + 1)
    last = steps - 1 - warmup_steps
    progress = (step - warmup_steps) / last if last > 0 else 0.0
    if name == "constant":
        remaining = 1.0
    elif name == "cosine":
        remaining = (1 + math.cos(math.pi * progress)) / 2
    else:
        remaining = (1 - progress) ** power
    return peak * (final_ratio + (1 - final_ratio) * remaining)
