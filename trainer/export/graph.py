"""From a prepared network to an ONNX model: torch's exporter, and nothing in it but the network."""

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import onnx
import torch

from trainer.export.prepare import Exportable

OPSET = 18
"""Of the operations: old enough for runtimes of 2023, new enough for LayerNormalization."""
INPUT, OUTPUT, BATCH = "image", "embedding", "batch"


def to_onnx(network: Exportable, *, image_size: tuple[int, int]) -> onnx.ModelProto:
    """The model: `image` [batch, 3, height, width] to `embedding` [batch, numbers], any batch.

    It keeps no trace of the machine it was made on: torch notes source files and lines.
    """
    example = torch.zeros(2, 3, *image_size)  # a batch of one would be taken for a constant
    with _quiet():
        program = torch.onnx.export(
            network,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes=({0: torch.export.Dim(BATCH)},),
            input_names=[INPUT],
            output_names=[OUTPUT],
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    for part in (model, model.graph, *model.graph.node, *model.graph.value_info):
        del part.metadata_props[:]
        part.doc_string = ""
    return model


def describe(model: onnx.ModelProto, facts: Mapping[str, str]) -> None:
    """Write what is known of the network into the model, which any runtime shows."""
    model.producer_name = "facescale"
    model.producer_version = facts["facescale_version"]
    onnx.helper.set_model_props(model, dict(facts))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter says of itself: of packages it would like, and of its own tree."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning)
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            yield
    finally:
        logger.setLevel(before)
