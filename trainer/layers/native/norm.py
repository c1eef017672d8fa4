"""Batch normalisation and PReLU in compiled code, for channels-last maps on a CPU.

`takes` says whether: not for other layouts, devices and dtypes, nor where there is no compiler.
"""

import ctypes
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from sharded_fc.native_build import Native

_FOLDER = Path(__file__).parent

NORM = Native(
    name="norm",
    user="BatchNorm and PReLU run",
    sources=(_FOLDER / "norm.cpp",),
    headers=(_FOLDER / "norm_map.h",),
)

library = NORM.library
version = NORM.version

_TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float64: 2}

Values = Float[Tensor, "batch channel ..."]
ByChannel = Float[Tensor, " channel"]


class NormGradients(NamedTuple):
    """Of a normalisation with a PReLU after it."""

    image: Values | None
    weight: ByChannel
    bias: ByChannel
    slope: ByChannel | None


class _Map(ctypes.Structure):
    _fields_ = (
        ("rows", ctypes.c_int64),
        ("channels", ctypes.c_int64),
        ("threads", ctypes.c_int64),
        ("type", ctypes.c_int32),
    )


def takes(image: Tensor, *by_channel: Tensor | None) -> bool:
    """Whether the functions here can be called with this map and what there is a channel."""
    wide = torch.float64 if image.dtype == torch.float64 else torch.float32
    return (
        image.is_cpu
        and image.dtype in _TYPES
        and image.numel() > 0
        and image.is_contiguous(memory_format=layout(image))
        and all(
            each is None
            or (each.dtype == wide and each.shape == image.shape[1:2] and each.is_contiguous())
            for each in by_channel
        )
        and library() is not None
    )


def layout(image: Tensor) -> torch.memory_format:
    """The one that such a map must have."""
    return torch.channels_last if image.ndim == 4 else torch.contiguous_format


def forward(
    image: Values, weight: ByChannel, bias: ByChannel, slope: ByChannel | None, *, eps: float
) -> tuple[Values, Float[Tensor, "3 channel"]]:
    """The output, and mean, inverse deviation and unbiased variance of each channel."""
    output = torch.empty_like(image)
    statistics = weight.new_empty(3, len(weight))
    data = _data(weight, bias, slope, image, statistics, output)
    _code()["norm_forward"](_described(image), ctypes.c_double(eps), *data)
    return output, statistics


def backward(
    image: Values,
    weight: ByChannel,
    bias: ByChannel,
    slope: ByChannel | None,
    statistics: Float[Tensor, "3 channel"],
    gradient: Values,
    *,
    of_image: bool,
) -> NormGradients:
    """What `forward` took and gave, and the output's gradient, laid out as the image."""
    result = NormGradients(
        torch.empty_like(image) if of_image else None,
        torch.empty_like(weight),
        torch.empty_like(bias),
        None if slope is None else torch.empty_like(slope),
    )
    data = _data(weight, bias, slope, statistics, image, gradient, *result)
    _code()["norm_backward"](_described(image), *data)
    return result


def apply(
    image: Values,
    *,
    scale: ByChannel | None = None,
    shift: ByChannel | None = None,
    slope: ByChannel | None = None,
    in_place: bool = False,
) -> Values:
    """Times scale plus shift where these are given, then PReLU where a slope is; one must be."""
    output = image if in_place else torch.empty_like(image)
    _code()["norm_apply"](_described(image), *_data(scale, shift, slope, image, output))
    return output


def prelu_backward(image: Values, slope: ByChannel, gradient: Values) -> tuple[Values, ByChannel]:
    """The gradients of an image that `apply` took with a slope alone, and of the slope."""
    of_image, of_slope = torch.empty_like(image), torch.empty_like(slope)
    data = _data(slope, image, gradient, of_image, of_slope)
    _code()["prelu_backward"](_described(image), *data)
    return of_image, of_slope


def _code() -> ctypes.CDLL:
    code = library()
    assert code is not None, "ask `takes` first"
    return code


def _described(image: Tensor) -> object:
    channels = image.shape[1]
    return ctypes.byref(
        _Map(
            rows=image.numel() // channels,
            channels=channels,
            threads=torch.get_num_threads(),
            type=_TYPES[image.dtype],
        )
    )


def _data(*tensors: Tensor | None) -> list[ctypes.c_void_p]:
    return [ctypes.c_void_p(None if each is None else each.data_ptr()) for each in tensors]
