"""Batch normalisation whose running statistics belong to the whole global batch.

In training a layer normalises by the micro-batch it is given and leaves its running buffers alone.
`recording` keeps the statistics of a network's forwards inside it; `apply_statistics` gathers them
from all ranks once a step and applies their average once. So running statistics depend on the
global batch, not on how many ranks share it, and every rank holds the same bits.

A layer leaves each forward's statistics in `latest`, whoever looks, so that what torch compiles of
it is the same in every forward; the recording takes them when the network has returned. A forward
that is replayed in backward (`torch.utils.checkpoint`) finds no recording open and so is not
recorded a second time; a forward whose statistics must not count runs outside `recording`.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn

from trainer.layers.norm_prelu import affine, batch_norm


class _BatchNorm(nn.Module):
    """The parameters and buffers of `torch.nn.BatchNorm2d`, under the same names."""

    running_mean: Tensor
    running_var: Tensor
    weight: Tensor

    def __init__(
        self,
        num_features: int,
        *,
        eps: float = 1e-5,
        momentum: float = 0.1,
        learn_scale: bool = True,
    ) -> None:
        """A scale that is not learned stays 1, and is neither trained nor decayed."""
        super().__init__()
        self.num_features = num_features
        self.eps = eps
        self.momentum = momentum
        if learn_scale:
            self.weight = nn.Parameter(torch.ones(num_features))
        else:
            self.register_buffer("weight", torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))
        self.latest: Tensor | None = None
        """Mean, then unbiased variance, of the last training forward that was not recorded."""
        self.recorded = False

    def extra_repr(self) -> str:
        """What `print(module)` shows."""
        return f"{self.num_features}, eps={self.eps}, momentum={self.momentum}"

    def _normalise(self, image: Tensor, slope: Tensor | None) -> Tensor:
        if not self.training:
            statistics = self.running_mean, self.running_var
            return affine(image, *statistics, self.weight, self.bias, slope, eps=self.eps)
        if image.numel() == image.shape[1]:
            raise ValueError(
                "batch normalisation needs more than one value a channel in training, and got one "
                f"sample of shape {tuple(image.shape[1:])}; use a micro-batch of at least 2 samples"
            )
        made = batch_norm(image, self.weight, self.bias, slope, eps=self.eps)
        self.latest = torch.cat([made.mean, made.variance])
        return made.output


class BatchNorm2d(_BatchNorm):
    """`torch.nn.BatchNorm2d` with running statistics of the global batch."""

    def forward(
        self,
        image: Float[Tensor, "batch channel height width"],
        *,
        slope: Float[Tensor, " channel"] | None = None,
    ) -> Float[Tensor, "batch channel height width"]:
        """Normalise each channel over the micro-batch and its positions; PReLU if given a slope."""
        return self._normalise(image, slope)


class BatchNorm1d(_BatchNorm):
    """`torch.nn.BatchNorm1d` for vectors, with running statistics of the global batch."""

    def forward(self, vector: Float[Tensor, "batch channel"]) -> Float[Tensor, "batch channel"]:
        """Normalise each channel over the micro-batch."""
        return self._normalise(vector, None)


class Records:
    """The statistics of each forward inside one `recording`, in the order of the forwards."""

    def __init__(self, layers: dict[str, _BatchNorm]) -> None:
        self.layers = layers
        self.rows: list[Float[Tensor, " statistics"]] = []
        """Every layer's mean, then its variance, layer after layer; a row for each forward."""

    def take(self) -> None:
        """Keep the statistics of the forward that has just ended."""
        latest = []
        for name, layer in self.layers.items():
            if layer.latest is None:
                raise ValueError(
                    f"layer {name} normalised nothing by its batch in a forward inside "
                    "`recording`; run the whole network, in training mode"
                )
            latest.append(layer.latest)
            layer.latest = None
        self.rows.append(torch.cat(latest))

    def stack(self, expected: int) -> Float[Tensor, "forwards statistics"]:
        """One row a forward."""
        if len(self.rows) != expected:
            raise ValueError(
                f"{len(self.rows)} forwards were recorded for {expected} micro-batches; run each "
                "micro-batch once inside `recording`, and any further forward outside it"
            )
        return torch.stack(self.rows)


@contextmanager
def recording(module: nn.Module) -> Iterator[Records]:
    """Keep the batch statistics of every training forward of `module` until the block ends.

    Those of calls of `module` itself; a part of it that is called alone is not recorded.
    """
    layers = {name: m for name, m in module.named_modules() if isinstance(m, _BatchNorm)}
    if any(layer.recorded for layer in layers.values()):
        raise ValueError("a recording of this module is open already; close it first")
    records = Records(layers)
    for layer in layers.values():
        layer.latest, layer.recorded = None, True

    def take(_module: nn.Module, _images: object, _output: object) -> None:
        if layers:
            records.take()

    handle = module.register_forward_hook(take)
    try:
        yield records
    finally:
        handle.remove()
        for layer in layers.values():
            layer.recorded = False


@torch.no_grad()
def apply_statistics(
    records: Records,
    *,
    micro_batches: range,
    total: int,
    group: dist.ProcessGroup | None,
) -> None:
    """Move the running statistics once, towards the average over all `total` micro-batches.

    Every rank passes the records of its own `micro_batches`, one forward each, in that order; the
    ranks' ranges cover 0..total without overlap, evenly or not. Afterwards every rank's buffers are
    equal to the bit, and equal to those of one rank that did all the micro-batches.
    Collectives: one all_reduce, where `group` has more than one rank. `group=None` is one process.
    """
    if not records.layers:
        return
    buffer = next(iter(records.layers.values())).running_mean
    width = 2 * sum(layer.num_features for layer in records.layers.values())
    rows = torch.zeros(total, width, dtype=buffer.dtype, device=buffer.device)
    if len(micro_batches):
        rows[micro_batches.start : micro_batches.stop] = records.stack(len(micro_batches))
    if group is not None and dist.get_world_size(group) > 1:
        # Each row is non-zero on one rank only, so the sum is a gather, exact in any order, that
        # needs to know nothing of the other ranks' shares.
        dist.all_reduce(rows, group=group)
    average = torch.zeros_like(rows[0])
    for row in rows:  # in micro-batch order: the same rounding at every world size
        average += row
    average /= total
    sizes = [n for layer in records.layers.values() for n in (layer.num_features,) * 2]
    pieces = iter(average.split(sizes))
    for layer, mean, variance in zip(records.layers.values(), pieces, pieces, strict=True):
        layer.running_mean.lerp_(mean, layer.momentum)
        layer.running_var.lerp_(variance, layer.momentum)
