"""A network in 8-bit integers: static quantisation by onnxruntime.

Static, because dynamic quantisation has no fast convolution: it measures every map while it runs.
Convolutions and linear layers take 8-bit weights, scaled a channel, and 8-bit maps, whose ranges
are the smallest and largest values that the calibration images gave. All else stays in float32.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from jaxtyping import Float
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from torch import Tensor

from trainer.export.graph import INPUT

METHOD = "static, QDQ, int8 weights a channel, uint8 maps by their least and greatest values"
QUANTISED = ["Conv", "Gemm", "MatMul"]
AT_ONCE = 8  # images that calibration runs together
PREPROCESSED = {"onnx.quant.pre_process": "onnxruntime.quant"}
"""What onnxruntime looks for before it advises to infer shapes and fold constants, done here."""


class _Images(CalibrationDataReader):
    def __init__(self, image: Tensor) -> None:
        self.batches: Iterator[Tensor] = iter(image.split(AT_ONCE))

    def get_next(self) -> dict[str, np.ndarray] | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        batch = next(self.batches, None)
        return None if batch is None else {INPUT: batch.numpy()}


def quantise(
    model: onnx.ModelProto, image: Float[Tensor, "images 3 height width"]
) -> onnx.ModelProto:
    """The model in integers, with ranges of these images."""
    inferred = onnx.shape_inference.infer_shapes(model)
    onnx.helper.set_model_props(inferred, PREPROCESSED)
    with tempfile.TemporaryDirectory(prefix="facescale-") as folder:
        file = Path(folder) / "quantised.onnx"
        quantize_static(
            inferred,
            str(file),
            _Images(image),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=QUANTISED,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={"MatMulConstBOnly": True},
        )
        return onnx.load(file)
