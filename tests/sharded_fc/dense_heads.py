"""Small dense heads and batches for the reference's own tests, in float64."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from sharded_fc.margins import CosFace, Margin
from sharded_fc.reference import DenseHead

CLASSES, DIM, SCALE = 10, 6, 16.0
# One computation in two orders of float64 operations on numbers below 100.
close = partial(torch.testing.assert_close, rtol=1e-11, atol=1e-13)


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def batch(count: int = 7, *, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Embeddings 20 to 60 long, inside MagFace's clamp, and labels, some of them twice."""
    generator = torch.Generator().manual_seed(seed)
    embedding = F.normalize(draw(count, DIM, seed=seed))
    length = 20.0 + 40.0 * torch.rand(count, 1, generator=generator, dtype=torch.float64)
    return embedding * length, torch.randint(CLASSES, (count,), generator=generator)


def head(margin: Margin | None = None, rows: int = CLASSES, **changes) -> DenseHead:
    options = {"scale": SCALE, "learning_rate": 0.1, "weight_decay": 5e-4, **changes}
    return DenseHead(draw(rows, DIM), margin=margin or CosFace(0.35), **options)


def cosines(embedding: Tensor, centre: Tensor) -> Tensor:
    return F.normalize(embedding) @ F.normalize(centre).t()
