"""torch.optim's own updates of rows, and the one it does not have."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from sharded_fc.optimizer import SGD, AdamW, RowWise

# What each optimizer keeps for a parameter, under the name the sharded head gives it.
NAMES = {
    SGD: {"momentum": "momentum_buffer"},
    AdamW: {"mean": "exp_avg", "square": "exp_avg_sq"},
    RowWise: {"square": "square"},
}


class RowWiseAdaGrad(torch.optim.Optimizer):
    """One running mean square a row; see `sharded_fc.optimizer.RowWise`."""

    def __init__(self, groups: Iterable[dict[str, Any]], *, rule: RowWise) -> None:
        super().__init__(groups, {"lr": 0.0})
        self.rule = rule

    @torch.no_grad()
    def step(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]: no closure
        """Decay, then step by g / (sqrt(v) + eps)."""
        beta = self.rule.beta
        for group in self.param_groups:
            for row in group["params"]:
                old = self.state[row].get("square", torch.zeros_like(row[:, :1]))
                square = beta * old + (1.0 - beta) * row.grad.pow(2).mean(1, keepdim=True)
                self.state[row]["square"] = square
                change = self.rule.weight_decay * row + row.grad / (square.sqrt() + self.rule.eps)
                row -= group["lr"] * change


def make_optimizer(
    rule: SGD | AdamW | RowWise, pieces: list[tuple[Tensor, float]]
) -> torch.optim.Optimizer:
    """The optimizer of (leaf, learning rate) pairs."""
    groups = [{"params": [leaf], "lr": learning_rate} for leaf, learning_rate in pieces]
    if isinstance(rule, SGD):
        return torch.optim.SGD(
            groups,
            momentum=rule.momentum,
            weight_decay=rule.weight_decay,
            nesterov=rule.nesterov,
        )
    if isinstance(rule, AdamW):
        return torch.optim.AdamW(
            groups, betas=rule.betas, eps=rule.eps, weight_decay=rule.weight_decay
        )
    return RowWiseAdaGrad(groups, rule=rule)
