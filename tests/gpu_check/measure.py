"""One measurement in a process of its own, so that no memory and no error outlives it.

    python -m tests.gpu_check.measure head '{"classes": 1000000, "batch": 1024, ...}'

Prints one JSON object. `head` is a step of the sharded head, `dense` one of all logits at once with
autograd, `rates` what the card does at these shapes, `tile` the fused passes with one tile,
`drconv` and `tvconv` a layer, `network` a backbone.
"""

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from tests.gpu_check.measure_layers import drconv, network, tvconv
from tests.gpu_check.timing import Figures, copy_rate, seconds

SCALE, MARGIN, LEARNING_RATE = 64.0, 0.35, 0.1


def _peak(device: str) -> float:
    return torch.cuda.max_memory_allocated() / 1e9 if device != "cpu" else 0.0


def _batch(batch: int, dim: int, classes: int, device: str) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(batch, dim, device=device), torch.randint(classes, (batch,))


def head(
    *,
    classes: int,
    batch: int,
    dim: int,
    device: str,
    rate: float | None = None,
    in_host: bool = False,
    **options: Any,
) -> Figures:
    """A step of `ShardedHead`: loss, embedding gradient, updated rows."""
    from sharded_fc import ShardedHead
    from sharded_fc.margins import CosFace
    from sharded_fc.outside import Outside
    from sharded_fc.sampling import Sampling

    for name in ("dtype", "state_dtype", "compute_dtype"):
        if name in options:
            options[name] = getattr(torch, options[name])
    if rate is not None:
        options["sampling"] = Sampling(rate=rate)
    if in_host:
        folder = Path(tempfile.mkdtemp(prefix="gpu-check-"))
        options["outside"] = Outside(kept_in="host", folder=folder / "rows")
    sharded = ShardedHead(
        classes,
        dim,
        margin=CosFace(MARGIN),
        scale=SCALE,
        learning_rate=LEARNING_RATE,
        device=device,
        **options,
    )
    embedding, label = _batch(batch, dim, classes, device)

    def step() -> None:
        output = sharded(embedding.detach().requires_grad_(), label, next_label=label)
        output.loss.backward()

    figures = {"ms": 1e3 * seconds(step, device), "peak GB": _peak(device)}
    sharded.close()
    return figures


def dense(*, classes: int, batch: int, dim: int, device: str, compiled: bool) -> Figures:
    """The same step as one finds it elsewhere: logits in float16, autograd, torch.optim.SGD."""
    weight = torch.randn(classes, dim, device=device).mul_(0.01).requires_grad_()
    optimizer = torch.optim.SGD([weight], lr=LEARNING_RATE, momentum=0.9, fused=True)
    embedding, label = _batch(batch, dim, classes, device)
    label = label.to(device)
    low = torch.float16 if device != "cpu" else torch.bfloat16

    def loss_of(face: Tensor, centre: Tensor) -> Tensor:
        with torch.autocast(device, dtype=low):
            cosine = functional.linear(functional.normalize(face), functional.normalize(centre))
        less = torch.full((len(label), 1), -MARGIN, device=device)
        shifted = cosine.float().scatter_add(1, label.unsqueeze(1), less)
        return functional.cross_entropy(shifted * SCALE, label)

    function = torch.compile(loss_of) if compiled else loss_of

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        # float16's range: the usual scaling of the loss, taken out before the update
        (function(embedding.detach().requires_grad_(), weight) * 2.0**12).backward()
        assert weight.grad is not None
        weight.grad.mul_(2.0**-12)
        optimizer.step()

    return {"ms": 1e3 * seconds(step, device), "peak GB": _peak(device)}


def rates(*, classes: int, batch: int, dim: int, device: str) -> Figures:
    """TFLOP/s of the head's three products with chunks of rows, and GB/s of a large copy."""
    low = torch.float16 if device != "cpu" else torch.float32
    num_rows = min(classes, max(8192, (64 << 20) // batch))
    rows = torch.randn(num_rows, dim, device=device, dtype=low)
    embedding = torch.randn(batch, dim, device=device, dtype=low)
    tile = torch.empty(num_rows, batch, device=device, dtype=low)

    def products() -> None:
        torch.mm(rows, embedding.t(), out=tile)
        torch.mm(tile, embedding)
        torch.mm(tile.t(), rows)

    operations = 6.0 * num_rows * batch * dim
    return {
        "TFLOP/s": operations / seconds(products, device) / 1e12,
        "copy GB/s": copy_rate(device) / 1e9,
    }


def tile(*, batch: int, dim: int, device: str, shape: dict[str, int]) -> Figures:
    """TFLOP/s of the two fused passes with one shape of tile, and of the library's product."""
    from sharded_fc import tile as torch_tile
    from sharded_fc.kernels import fused
    from sharded_fc.kernels.configurations import Tile

    fused.fused_tile = lambda *_: Tile(**shape)  # pyright: ignore[reportAttributeAccessIssue]
    num_rows = (64 << 20) // batch
    rows = functional.normalize(torch.randn(num_rows, dim, device=device)).half()
    embedding = functional.normalize(torch.randn(batch, dim, device=device)).half()
    rules = torch_tile.Rules(scale=SCALE, label=torch.randint(num_rows, (batch,), device=device))
    measures = torch.zeros(torch_tile.MEASURES, batch, dtype=torch.float64, device=device)
    weights = torch_tile.Weights(
        offset=torch.full((batch,), -70.0, device=device),
        target=torch.full((batch,), -0.5, device=device),
        factor=1.0,
    )
    ones = torch.ones(num_rows, device=device)
    out = torch.empty(num_rows, batch, dtype=torch.float16, device=device)
    common = {"first_class": 0, "rules": rules}
    passes: dict[str, Callable[[], Any]] = {
        "first pass": lambda: fused.sum_rows(
            rows, embedding, ones, measures=measures, keep_maximum=False, **common
        ),
        "second pass": lambda: fused.gradient_rows(
            rows, embedding, ones, weights=weights, out=out, **common
        ),
        "library": lambda: torch.mm(rows, embedding.t(), out=out),
    }
    operations = 2.0 * num_rows * batch * dim
    return {name: operations / seconds(call, device) / 1e12 for name, call in passes.items()}


MEASUREMENTS: dict[str, Callable[..., Figures]] = {
    "head": head,
    "dense": dense,
    "rates": rates,
    "tile": tile,
    "drconv": drconv,
    "tvconv": tvconv,
    "network": network,
}

if __name__ == "__main__":
    print(json.dumps(MEASUREMENTS[sys.argv[1]](**json.loads(sys.argv[2]))))
