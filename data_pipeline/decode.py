"""Turns encoded images into batches of pixels with DALI, on the CPU or on a GPU.

One graph serves both; `device` chooses. Every parameter of the augmentation is an input beside the
bytes and DALI draws no random number, so a face's pixels depend on its own bytes and parameters
alone: not on its place in the batch, on its neighbours or on the number of threads. This is the
only file that imports DALI.
"""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from nvidia.dali import fn
from nvidia.dali.pipeline import Pipeline
from nvidia.dali.types import DALIDataType, DALIImageType
from PIL import Image
from torch import Tensor

from data_pipeline.augment import Augmentation, Parameters

MIDDLE = 127.5  # maps 0..255 to -1..1, as published face models expect


class UndecodableError(Exception):
    """A batch with at least one image that cannot be decoded; DALI does not say which."""


class Decoder:
    """One batch at a time: `submit` starts it in DALI's threads, `collect` waits for it."""

    def __init__(
        self,
        *,
        batch_size: int,
        image_size: int,
        augmentation: Augmentation,
        resizes: bool,
        device: str,
        threads: int,
    ) -> None:
        """Build the graph; without `resizes` every image must have the size already."""
        chosen = torch.device(device)
        self._shape = (3, image_size, image_size)
        self._batch_size = batch_size
        self._threads = threads
        self._recolours = augmentation.recolours
        self._crops = augmentation.crops
        self._resizes = resizes or augmentation.crops
        self._device_id = None if chosen.type == "cpu" else chosen.index or 0
        self._stream = None if chosen.type == "cpu" else torch.cuda.Stream(chosen)
        self._pipeline: Pipeline | None = self._build()

    def submit(self, contents: Sequence[bytes], parameters: Parameters) -> None:
        """Start decoding; the bytes are copied before this returns."""
        if self._pipeline is None:  # DALI calls a pipeline that failed invalid
            self._pipeline = self._build()
        feed = self._pipeline.feed_input
        feed("content", [np.frombuffer(content, np.uint8) for content in contents])
        feed("flip", parameters.flip)
        if self._recolours:
            feed("brightness", parameters.brightness)
            feed("contrast", parameters.contrast)
            feed("saturation", parameters.saturation)
        if self._crops:
            feed("window_start", parameters.window_start)
            feed("window_stop", parameters.window_stop)
        self._pipeline.schedule_run()

    def collect(self) -> Float[Tensor, "batch 3 height width"]:
        """The batch submitted last; raises `UndecodableError` where DALI could not decode it."""
        assert self._pipeline is not None, "collect() without submit()"
        try:
            (images,) = self._pipeline.share_outputs()
        except RuntimeError as error:
            self._pipeline = None
            raise UndecodableError(str(error)) from error
        self._pipeline.release_outputs()  # returns a slot; memory that is in use stays alive
        wrong = {tuple(shape) for shape in images.shape()} - {self._shape}
        if wrong:
            raise UndecodableError(f"images of size {sorted(wrong)}, not {self._shape}")
        if self._stream is None:
            return torch.from_dlpack(images.as_tensor())
        with torch.cuda.stream(self._stream):
            # A copy into torch's memory: DALI reuses its own when the tensor dies, although
            # kernels that read it may still be queued on the consumer's stream.
            image = torch.from_dlpack(images.as_tensor()).clone()
        self._stream.synchronize()
        return image

    def undecodable(self, contents: Sequence[bytes], parameters: Parameters) -> list[int]:
        """Places of the images that fail on their own as well, after `collect` failed.

        None are named when even a good image fails: then it is the decoder that is broken.
        """
        good = io.BytesIO()
        Image.new("RGB", self._shape[1:]).save(good, "JPEG")
        if not self._decodes(good.getvalue(), parameters.row(0)):
            return []
        return [
            place
            for place, content in enumerate(contents)
            if not self._decodes(content, parameters.row(place))
        ]

    def close(self) -> None:
        """Stop DALI's threads; batches handed out stay valid."""
        self._pipeline = None

    def _decodes(self, content: bytes, parameters: Parameters) -> bool:
        self.submit([content], parameters)
        try:
            self.collect()
        except UndecodableError:
            return False
        return True

    def _build(self) -> Pipeline:
        pipeline = Pipeline(
            batch_size=self._batch_size,
            num_threads=self._threads,
            device_id=self._device_id,
            prefetch_queue_depth=1,  # submit and collect take turns
        )
        with pipeline:
            pipeline.set_outputs(self._graph())
        pipeline.build()
        return pipeline

    def _graph(self) -> Any:
        image: Any = fn.decoders.image(
            _input("content", DALIDataType.UINT8, ndim=1),
            device="cpu" if self._device_id is None else "mixed",
            output_type=DALIImageType.RGB,
            # All or nothing for the GPU's hardware decoder: by default it takes the first part of
            # a batch and kernels the rest, so that pixels would depend on the place.
            hw_decoder_load=1.0,
            jpeg_fancy_upsampling=True,  # as libjpeg does; no effect on the CPU
        )
        if self._resizes:
            window = {}
            if self._crops:
                window = {
                    "roi_start": _input("window_start", DALIDataType.FLOAT, ndim=1),
                    "roi_end": _input("window_stop", DALIDataType.FLOAT, ndim=1),
                    "roi_relative": True,
                }
            _, height, width = self._shape
            image = fn.resize(image, resize_y=height, resize_x=width, **window)
        if self._recolours:
            image = fn.color_twist(
                image,
                brightness=_input("brightness", DALIDataType.FLOAT, ndim=0),
                contrast=_input("contrast", DALIDataType.FLOAT, ndim=0),
                saturation=_input("saturation", DALIDataType.FLOAT, ndim=0),
                dtype=DALIDataType.FLOAT,  # neither rounded nor clipped on the way
            )
        return fn.crop_mirror_normalize(
            image,
            mirror=_input("flip", DALIDataType.INT32, ndim=0),
            mean=MIDDLE,
            std=MIDDLE,
            dtype=DALIDataType.FLOAT,
            output_layout="CHW",
        )


def _input(name: str, dtype: DALIDataType, *, ndim: int) -> Any:
    return fn.external_source(name=name, batch=True, dtype=dtype, ndim=ndim)
