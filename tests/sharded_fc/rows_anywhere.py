"""Heads that keep their rows on the device, in host memory or in a file, trained alike."""

import torch
import torch.distributed as dist

from sharded_fc.margins import ArcFace
from sharded_fc.outside import Outside
from sharded_fc.sampling import Sampling
from tests.sharded_fc.on_ranks import collect, join, make_head

CLASSES, DIM = 61, 6
# At a rate of a half, half of a step's rows are also the next one's.
HALF = {
    "num_classes": CLASSES,
    "embedding_dim": DIM,
    "margin": ArcFace(0.5),
    "chunk_classes": 8,
    "learning_rate_ratios": [(0, 4, 0.0), (30, 40, 2.0)],
}
TWO_BYTES = {"dtype": torch.bfloat16, "compute_dtype": torch.float32}


def sampling(untouched, **changes):
    return Sampling(**{"rate": 0.5, "correction": "logq", "untouched": untouched, **changes})


def kept(kind, folder):
    """How a head keeps its rows."""
    return None if kind == "device" else Outside(kept_in=kind, folder=folder / kind)


def step_through(head, batches, *, first=0, rank=0, told=True, between=lambda step: None):
    """Losses and embedding gradients of some steps at learning rates that change."""
    found = []
    for step in range(first, len(batches)):
        embedding, label = batches[step][rank]
        leaf = embedding.to(torch.float32, copy=True).requires_grad_()
        head.learning_rate = 0.1 / (1 + step)
        known = told and step + 1 < len(batches)
        next_label = join(batches[step + 1])[1] if known else None
        output = head(leaf, label, next_label=next_label)
        output.loss.backward()
        found.append((output.loss.detach(), leaf.grad))
        between(step)
    return found


def train(options, batches, told=True):
    """All steps on this rank, and its rows after them."""
    head = make_head(options)
    rank = dist.get_rank() if dist.is_initialized() else 0
    found = step_through(head, batches, rank=rank, told=told)
    rows = collect(head)
    head.close()
    return found, rows


def assert_equal_bits(one, other):
    torch.testing.assert_close(one, other, rtol=0.0, atol=0.0, equal_nan=True)
