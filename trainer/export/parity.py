"""How far an ONNX file's embeddings are from the network's own, through onnxruntime."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from jaxtyping import Float, Float64
from onnxruntime.capi.onnxruntime_pybind11_state import RuntimeException
from torch import Tensor, nn
from torch.nn import functional

from trainer.errors import RunError
from trainer.export.graph import INPUT, OUTPUT

BATCHES = (1, 3, 32)
"""Sizes of the first batches; any size must do."""


@dataclass(frozen=True, kw_only=True)
class Parity:
    """Cosine distances, 1 - cos, of embeddings of the same images."""

    images: int
    mean: float
    worst: float


class Session:
    """An ONNX file in onnxruntime, on this machine's CPU."""

    def __init__(self, file: Path, *, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3  # errors, which are raised too
        providers = ["CPUExecutionProvider"]
        self.session = onnxruntime.InferenceSession(str(file), options, providers=providers)

    def __call__(
        self, image: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch embedding"]:
        """Embeddings as the file says."""
        (embedding,) = self.session.run([OUTPUT], {INPUT: image.numpy()})
        return torch.from_numpy(np.asarray(embedding))


@torch.no_grad()
def compare(
    network: nn.Module, session: Session, image: Float[Tensor, "images 3 height width"]
) -> Parity:
    """The distances of all images, run in batches of several sizes.

    Raises:
        RunError: onnxruntime does not run the file, or an embedding is not finite.
    """
    distances, start, sizes = [], 0, list(BATCHES)
    while start < len(image):
        batch = image[start : start + (sizes.pop(0) if sizes else BATCHES[-1])]
        start += len(batch)
        try:
            found = session(batch)
        except RuntimeException as error:
            words = " ".join(str(error).split())
            raise RunError(f"onnxruntime cannot run the exported network: {words}") from error
        if not found.isfinite().all():
            raise RunError(
                "the exported network gives embeddings that are not finite; export it as fp32"
            )
        distances.append(cosine_distance(network(batch), found))
    every = torch.cat(distances)
    return Parity(images=len(every), mean=every.mean().item(), worst=every.max().item())


def cosine_distance(
    first: Float[Tensor, "batch embedding"], second: Float[Tensor, "batch embedding"]
) -> Float64[Tensor, " batch"]:
    """1 - cos of each pair of rows, in float64."""
    cosine = functional.cosine_similarity(first.double(), second.double())
    return (1 - cosine).clamp(min=0)
