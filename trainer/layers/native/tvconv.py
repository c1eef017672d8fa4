"""The translation-variant product in compiled code, for channels-last images on a CPU.

What tvconv/plain.py does, with the same bits but for the weights' gradient, whose sums over images
have another order. Each says by None where it did nothing and that has to do the work.
"""

import ctypes

import torch
from jaxtyping import Float
from torch import Tensor

from trainer.layers.native.code import library
from trainer.layers.tvconv.taps import Geometry, TapTable

_TYPES = {torch.float32: 0, torch.bfloat16: 1}

Images = Float[Tensor, "batch channels height width"]
Outputs = Float[Tensor, "batch channels out_height out_width"]
Weights = Float[Tensor, "out_height out_width taps channels"]


class _Taps(ctypes.Structure):
    _fields_ = (
        ("positions", ctypes.c_int64),
        ("rows", ctypes.c_int64),
        ("first", ctypes.c_void_p),
        ("row", ctypes.c_void_p),
        ("source", ctypes.c_void_p),
    )


class _Maps(ctypes.Structure):
    _fields_ = (
        ("images", ctypes.c_int64),
        ("channels", ctypes.c_int64),
        ("source_positions", ctypes.c_int64),
        ("threads", ctypes.c_int64),
        ("type", ctypes.c_int32),
    )


def forward(image: Images, weight: Weights, geometry: Geometry) -> Outputs | None:
    """The product, in the image's dtype."""
    return _add_up(image, weight, geometry.forward, size=geometry.out_size)


def image_gradient(gradient: Outputs, weight: Weights, geometry: Geometry) -> Images | None:
    """Of the image, from the output's, in that one's dtype."""
    return _add_up(gradient, weight, geometry.transposed, size=geometry.in_size)


def weight_gradient(image: Images, gradient: Outputs, geometry: Geometry) -> Weights | None:
    """Of the weights, from the output's gradient, in float32."""
    code = library() if _suited(image, gradient) else None
    if code is None:
        return None
    weight = torch.empty(*geometry.out_size, geometry.kernel**2, image.shape[1])
    code["tvconv_correlate"](
        *_described(image, geometry.forward, rows=geometry.kernel**2),
        ctypes.c_void_p(image.data_ptr()),
        ctypes.c_void_p(gradient.data_ptr()),
        ctypes.c_void_p(weight.data_ptr()),
    )
    return weight


def _add_up(
    source: Tensor, weight: Weights, taps: TapTable, *, size: tuple[int, int]
) -> Tensor | None:
    suited = weight.dtype == torch.float32 and weight.is_contiguous() and _suited(source)
    code = library() if suited else None
    if code is None:
        return None
    target = torch.empty(
        *source.shape[:2], *size, dtype=source.dtype, memory_format=torch.channels_last
    )
    code["tvconv_add_up"](
        *_described(source, taps, rows=weight.shape[2]),
        ctypes.c_void_p(source.data_ptr()),
        ctypes.c_void_p(weight.data_ptr()),
        ctypes.c_void_p(target.data_ptr()),
    )
    return target


def _suited(*images: Tensor) -> bool:
    return all(
        image.is_cpu
        and image.dtype == images[0].dtype
        and image.dtype in _TYPES
        and image.is_contiguous(memory_format=torch.channels_last)
        for image in images
    )


def _described(source: Tensor, taps: TapTable, *, rows: int) -> tuple[object, object]:
    """Both structures, by reference; the table must live until the call is over."""
    images, channels, height, width = source.shape
    table = _Taps(
        positions=len(taps.first) - 1,
        rows=rows,
        first=taps.first.ctypes.data,
        row=taps.row.ctypes.data,
        source=taps.source.ctypes.data,
    )
    maps = _Maps(
        images=images,
        channels=channels,
        source_positions=height * width,
        threads=torch.get_num_threads(),
        type=_TYPES[source.dtype],
    )
    return ctypes.byref(table), ctypes.byref(maps)
