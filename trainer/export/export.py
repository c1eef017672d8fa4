"""A network into an ONNX file that has been checked: what `facescale export` does."""

from collections.abc import Callable
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import onnx
import torch
from jaxtyping import Float
from torch import Tensor

from data_pipeline.index import Dataset
from trainer.errors import RunError
from trainer.export import images
from trainer.export.graph import OPSET, describe, to_onnx
from trainer.export.parity import Parity, Session, compare
from trainer.export.prepare import prepare
from trainer.export.quantise import METHOD, quantise
from trainer.export.source import Source
from trainer.new_file import expect_new, written_beside

Precision = Literal["fp32", "fp16", "int8"]
LIMITS: dict[Precision, float] = {"fp32": 1e-4, "fp16": 1e-3}
"""Cosine distances to the network in float32 above which nothing is written. What 8 bits cost is
the network's own: it is said, and the user decides."""
NOISE_IMAGES = 8
STAGES = 4


def export(
    source: Source,
    dest: Path,
    *,
    precision: Precision = "fp32",
    unit: bool = False,
    dataset: Dataset | None = None,
    most_faces: int = 256,
    threads: int = 1,
    progress: Callable[[str], None] = lambda stage: None,
) -> dict[str, Any]:
    """Write `dest` and say what is in it, how large it is and how near to the network.

    `dataset` are faces to compare on, and to calibrate 8 bits with; without, 8 bits take the run's
    own. `progress` is told each of the `STAGES` as it begins.

    Raises:
        RunError: the file is there already, cannot be written, or is too far from the network; 8
            bits have no faces to calibrate with.
        DataError: faces cannot be read.
    """
    expect_new(dest)
    torch.set_num_threads(threads)
    progress("faces")
    noise = images.noise(NOISE_IMAGES, source.image_size)
    faces = _faces(source, dataset, most_faces, needed=precision == "int8")
    progress("graph")
    dtype = torch.float16 if precision == "fp16" else torch.float32
    model = to_onnx(prepare(source.network, unit=unit, dtype=dtype), image_size=source.image_size)
    known = _known(source, precision, unit=unit)
    if precision == "int8":
        progress("8 bits")
        calibrated = noise if faces is None else faces
        model = quantise(model, calibrated)
        known["calibrated_with"] = f"{len(calibrated)} {'faces' if faces is not None else 'noise'}"
    describe(model, known)
    with written_beside(dest, model.SerializeToString()) as partial:
        progress("check")
        onnx.checker.check_model(str(partial), full_check=True)
        session = Session(partial, threads=threads)
        found = {"noise": compare(source.network, session, noise)}
        if faces is not None:
            found["faces"] = compare(source.network, session, faces)
        _expect_near(found, precision)
    return {
        "file": str(dest),
        "bytes": dest.stat().st_size,
        "precision": precision,
        **known,
        "opset": OPSET,
        "nodes": len(model.graph.node),
        "cosine_distance": {name: asdict(parity) for name, parity in found.items()},
    }


def _faces(
    source: Source, dataset: Dataset | None, most: int, *, needed: bool
) -> Float[Tensor, "images 3 height width"] | None:
    """Faces that were given, or those of the run where there must be some."""
    if dataset is None and needed and source.faces is not None:
        dataset = source.faces()
    if dataset is not None:
        return images.faces(dataset, most, source.image_size)
    if needed and source.trained:
        raise RunError("8 bits are calibrated with faces; give a dataset with --faces")
    return None


def _known(source: Source, precision: Precision, *, unit: bool) -> dict[str, str]:
    """What the file says of itself."""
    height, width = source.image_size
    return {
        "facescale_version": metadata.version("facescale"),
        "model": source.model,
        "weights": "trained" if source.trained else "first ones, not trained",
        **source.facts,
        "input": f"float32 [batch, 3, {height}, {width}], aligned faces",
        "image_height": str(height),
        "image_width": str(width),
        "channel_order": "RGB",
        "pixel_normalisation": "(x - 127.5) / 127.5",
        "embedding_dim": str(source.embedding_dim),
        "embedding": "of length 1" if unit else "of any length; divide by it before comparing",
        "numbers": METHOD if precision == "int8" else precision,
    }


def _expect_near(found: dict[str, Parity], precision: Precision) -> None:
    for name, parity in found.items():
        if parity.worst > LIMITS.get(precision, float("inf")):
            raise RunError(
                f"the exported network is {parity.worst:.1e} from torch's in cosine distance on"
                f" {name}, more than {LIMITS[precision]:g}; nothing was written"
            )
