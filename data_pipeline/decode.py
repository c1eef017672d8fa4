"""Turns encoded images into batches of pixels with DALI, on the CPU or on a GPU.

One graph serves both; `device` chooses. Every parameter of the augmentation is an input beside the
bytes and DALI draws no random number, so a face's pixels depend on its own bytes and parameters
alone: not on its place in the batch, on its neighbours or on the number of threads. The graph has
only the steps that the augmentation asks for, and a step sees only the faces that undergo it.

DALI hands over 8-bit levels; scaling them to -1..1 is also the copy into memory that torch owns,
and the colours, a matrix a face, change there: on a CPU that takes a tenth of DALI's operator.
This is the only file that imports DALI.
"""

import io
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from nvidia.dali import fn
from nvidia.dali.pipeline import Pipeline
from nvidia.dali.tensors import TensorCPU, TensorListCPU
from nvidia.dali.types import DALIDataType, DALIImageType
from PIL import Image
from torch import Tensor

from data_pipeline import colours
from data_pipeline.augment import Augmentation, Parameters
from data_pipeline.pixels import MIDDLE, Buffers, recolour, scale

UNDER_WAY = 2  # batches: one is decoded while another is scaled, and DALI never waits


class UndecodableError(Exception):
    """A batch with at least one image that cannot be decoded; DALI does not say which."""


class Decoder:
    """Batches in turn: `submit` starts one in DALI's threads, `collect` waits for the oldest."""

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
        self._augmentation = augmentation
        self._resizes = resizes or augmentation.crops
        self._device_id = None if chosen.type == "cpu" else chosen.index or 0
        self._stream = None if chosen.type == "cpu" else torch.cuda.Stream(chosen)
        self._buffers = Buffers()
        self._held: deque[tuple[Sequence[bytes], Parameters]]
        self._pipeline: Pipeline | None = self._build()

    def submit(self, contents: Sequence[bytes], parameters: Parameters) -> None:
        """Start decoding; at most `UNDER_WAY` batches may be submitted and not yet collected."""
        if self._pipeline is None:  # DALI calls a pipeline that failed invalid
            self._pipeline = self._build()
        self._held.append((contents, parameters))
        self._feed(self._pipeline, contents, parameters)
        self._pipeline.schedule_run()

    def collect(self) -> Float[Tensor, "batch 3 height width"]:
        """The oldest batch submitted, in memory of its own.

        Raises:
            UndecodableError: DALI could not decode it or one submitted after it; all are lost.
        """
        assert self._pipeline is not None, "collect() without submit()"
        try:
            (images,) = self._pipeline.share_outputs()
        except RuntimeError as error:
            self.close()
            raise UndecodableError(str(error)) from error
        levels = images.as_tensor() if images.is_dense_tensor() else None
        if levels is None or tuple(levels.shape())[1:] != self._shape:
            wrong = {tuple(shape) for shape in images.shape()} - {self._shape}
            self.close()
            raise UndecodableError(f"images of size {sorted(wrong)}, not {self._shape}")
        image = self._scaled(levels, self._held[0][1])
        self._pipeline.release_outputs()
        self._held.popleft()
        return image

    def undecodable(self, contents: Sequence[bytes], parameters: Parameters) -> list[int]:
        """Places of the images that fail on their own as well, after `collect` failed.

        None are named when even a good image fails: then it is the decoder that is broken.
        """
        if not self._decodes(self._good_image(), parameters.row(0)):
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

    def _good_image(self) -> bytes:
        content = io.BytesIO()
        Image.new("RGB", self._shape[1:]).save(content, "JPEG")
        return content.getvalue()

    def _scaled(self, levels: Any, faces: Parameters) -> Tensor:
        """A batch of DALI's 8-bit levels as numbers in torch's memory, -1 to 1, recoloured."""
        chosen = np.flatnonzero(faces.recoloured)
        matrix, offset = colours.transform(
            brightness=faces.brightness[chosen],
            contrast=faces.contrast[chosen],
            saturation=faces.saturation[chosen],
            hue_deg=faces.hue_deg[chosen],
        )
        if self._stream is None:
            scaled = self._buffers.take((levels.shape()[0], *self._shape))
            scale(np.asarray(levels), scaled)
            recolour(scaled, chosen, matrix, offset)
            return torch.from_numpy(scaled)
        with torch.cuda.stream(self._stream):
            image = torch.from_dlpack(levels).float().sub_(MIDDLE.item()).div_(MIDDLE.item())
            if len(chosen):
                place, turn, add = (
                    torch.from_numpy(part).to(image.device) for part in (chosen, matrix, offset)
                )
                changed = turn @ image[place].flatten(2) + add[:, None, None]
                image[place] = changed.view(-1, *self._shape)
        self._stream.synchronize()  # DALI writes over the levels once they are released
        return image

    def _feed(self, pipeline: Pipeline, contents: Sequence[bytes], faces: Parameters) -> None:
        feed, augmentation = pipeline.feed_input, self._augmentation
        parts = [TensorCPU(content) for content in contents]
        feed("content", TensorListCPU(parts, contiguous=False))  # pyright: ignore[reportCallIssue]
        feed("flip", faces.flip)
        if augmentation.crops:
            feed("window_start", faces.window_start)
            feed("window_stop", faces.window_stop)
        if augmentation.covers:
            side = np.float32(self._shape[1])
            start, stop = np.round(faces.cover_start * side), np.round(faces.cover_stop * side)
            feed("covered", faces.covered)
            feed("cover_start", start.reshape(len(start), -1))
            feed("cover_shape", (stop - start).reshape(len(start), -1))
            feed("cover_colour", faces.cover_colour)
        if augmentation.low_resolution:
            feed("shrunk", faces.shrunk)
            feed("shrunk_side", np.maximum(np.floor(faces.shrunk_side * self._shape[1]), 1))
            feed("shrinking_filter", faces.shrinking_filter)
            feed("growing_filter", faces.growing_filter)
        if augmentation.blur:
            feed("blurred", faces.blurred)
            feed("blur_sigma", faces.blur_sigma)
        if augmentation.jpeg:
            feed("compressed", faces.compressed)
            feed("jpeg_quality", faces.jpeg_quality)

    def _build(self) -> Pipeline:
        pipeline = Pipeline(
            batch_size=self._batch_size,
            num_threads=self._threads,
            device_id=self._device_id,
            prefetch_queue_depth=UNDER_WAY,
            # The other executor takes its memory anew for each batch, and on a CPU the kernel
            # then clears every page of it: a tenth of the time and more.
            exec_dynamic=self._device_id is not None,
        )
        # DALI reads the bytes where they lie: they live as long as its threads, even where an
        # exception keeps a failed pipeline alive.
        self._held = deque()
        pipeline.held_bytes = self._held  # pyright: ignore[reportAttributeAccessIssue]
        with pipeline:
            pipeline.set_outputs(self._graph())
        pipeline.build()
        # DALI's first run takes as many batches as may be under way: these are they.
        unchanged = Augmentation().parameters(np.zeros(1, np.int64), np.zeros(1, np.int64))
        good = [self._good_image()]
        for _ in range(UNDER_WAY):
            self._feed(pipeline, good, unchanged)
        pipeline.schedule_run()
        for _ in range(UNDER_WAY):
            pipeline.share_outputs()
            pipeline.release_outputs()
        return pipeline

    def _graph(self) -> Any:
        """The steps in the order of `Augmentation`'s fields."""
        augmentation, (_, height, width) = self._augmentation, self._shape
        image: Any = fn.decoders.image(
            _input("content", DALIDataType.UINT8, ndim=1, no_copy=True),
            device="cpu" if self._device_id is None else "mixed",
            output_type=DALIImageType.RGB,
            # All or nothing for the GPU's hardware decoder: by default it takes the first part of
            # a batch and kernels the rest, so that pixels would depend on the place.
            hw_decoder_load=1.0,
            jpeg_fancy_upsampling=True,  # as libjpeg does; no effect on the CPU
        )
        if self._resizes:
            window = {}
            if augmentation.crops:
                window = {
                    "roi_start": _input("window_start", DALIDataType.FLOAT, ndim=1),
                    "roi_end": _input("window_stop", DALIDataType.FLOAT, ndim=1),
                    "roi_relative": True,
                }
            image = fn.resize(image, resize_y=height, resize_x=width, **window)
        if augmentation.covers:
            image = _changed(
                image,
                "covered",
                lambda chosen, start, shape, colour: fn.erase(
                    chosen, anchor=start, shape=shape, axis_names="HW", fill_value=colour
                ),
                _input("cover_start", DALIDataType.FLOAT, ndim=1),
                _input("cover_shape", DALIDataType.FLOAT, ndim=1),
                _input("cover_colour", DALIDataType.FLOAT, ndim=1),
            )
        if augmentation.low_resolution:
            image = _changed(
                image,
                "shrunk",
                lambda chosen, side, shrinking, growing: _resized(
                    _resized(chosen, side, side, shrinking), height, width, growing
                ),
                _input("shrunk_side", DALIDataType.FLOAT, ndim=0),
                _filter("shrinking_filter"),
                _filter("growing_filter"),
            )
        if augmentation.blur:
            image = _changed(
                image,
                "blurred",
                lambda chosen, sigma: fn.gaussian_blur(chosen, sigma=sigma),
                _input("blur_sigma", DALIDataType.FLOAT, ndim=0),
            )
        if augmentation.jpeg:
            image = _changed(
                image,
                "compressed",
                lambda chosen, quality: fn.jpeg_compression_distortion(chosen, quality=quality),
                _input("jpeg_quality", DALIDataType.INT32, ndim=0),
            )
        return fn.crop_mirror_normalize(
            image,
            mirror=_input("flip", DALIDataType.INT32, ndim=0),
            mean=0.0,
            std=1.0,
            dtype=DALIDataType.UINT8,
            output_layout="CHW",
        )


def _input(name: str, dtype: DALIDataType, *, ndim: int, no_copy: bool = False) -> Any:
    return fn.external_source(name=name, batch=True, dtype=dtype, ndim=ndim, no_copy=no_copy)


def _changed(image: Any, flag: str, change: Callable[..., Any], *arguments: Any) -> Any:
    """`change(image, *arguments)` for the faces whose flag is set, and the others as they are.

    These are the two operators that an `if` of DALI's becomes; writing them out spares its
    rewriting of our source, which cannot see through decorators such as a shape check.
    """
    operators: Any = fn._conditional  # pyright: ignore[reportAttributeAccessIssue]: not in stubs
    chosen = _input(flag, DALIDataType.BOOL, ndim=0)
    split = [operators.split(part, predicate=chosen, _if_stmt=True) for part in (image, *arguments)]
    changed = change(*(yes for yes, _ in split))
    return operators.merge(changed, split[0][1], predicate=chosen)


def _resized(image: Any, height: Any, width: Any, how: Any) -> Any:
    return fn.resize(image, resize_y=height, resize_x=width, interp_type=how, antialias=False)


def _filter(name: str) -> Any:
    return fn.reinterpret(_input(name, DALIDataType.INT32, ndim=0), dtype=DALIDataType.INTERP_TYPE)
