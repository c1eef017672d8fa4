"""DRConv in compiled code, for float32 on a CPU; see drconv.cpp and its siblings.

Both functions say by None that they did nothing and that torch has to do the work.
"""

import ctypes

import torch
from torch import Tensor

from trainer.layers.drconv.geometry import Geometry
from trainer.layers.drconv.parts import Filters, Gradients
from trainer.layers.native.code import library

_NUMBERS = (
    *("batch", "regions", "terms", "own", "table_taps", "coefficient_taps"),
    *("groups", "inputs", "outputs", "height", "width", "out_height", "out_width"),
    *("kernel_height", "kernel_width", "stride_height", "stride_width", "pad_height", "pad_width"),
    "threads",
)
_STRIDES = ("guide_sample", "guide_region", "guide_pixel")


class _Layer(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_int64) for name in _NUMBERS)


class _Gradients(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("image", "out", "mask", "coefficient", "table")),
        ("guide", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in _STRIDES),
        ("guide_weight", ctypes.c_void_p),
        *((f"d_{name}", ctypes.c_void_p) for name in Gradients._fields),
    )


def forward(
    image: Tensor,
    guide: Tensor | None,
    guide_weight: Tensor | None,
    filters: Filters,
    bias: Tensor | None,
    geometry: Geometry,
    *,
    keep: bool,
) -> tuple[Tensor, Tensor | None, Tensor] | None:
    """The output, the guide's numbers and each pixel's region; None if not done.

    Numbers made here, by `guide_weight`, are kept for a backward alone.
    """
    code = _code(image, guide, guide_weight, bias, *filters)
    if code is None:
        return None
    assert guide is not None or geometry.pointwise
    image = image.contiguous(memory_format=torch.channels_last)
    filters = Filters(*(tensor.contiguous() for tensor in filters))
    batch, regions = filters.coefficient.shape[:2]
    size = geometry.output_size((image.shape[2], image.shape[3]))
    mask = torch.empty(batch, *size, dtype=torch.uint8)
    out = torch.empty(batch, *size, filters.table.shape[2])
    if guide_weight is not None:
        guide_weight = guide_weight.contiguous()
        if keep:
            guide = torch.empty(batch, *size, regions).permute(0, 3, 1, 2)
    else:
        assert guide is not None
        guide = _evenly_spaced(guide)
        code["drconv_regions"](
            _pointer(guide),
            *(ctypes.c_int64(n) for n in (batch, regions, size[0] * size[1], *_strides(guide))),
            _pointer(mask),
            ctypes.c_int64(torch.get_num_threads()),
        )
    described = _layer(image, mask, filters, geometry)
    code["drconv_depthwise_forward" if _depthwise(described) else "drconv_forward"](
        ctypes.byref(described),
        _pointer(image),
        _pointer(guide_weight),
        _pointer(guide),
        _pointer(mask),
        *(_pointer(tensor) for tensor in filters),
        _pointer(None if bias is None else bias.contiguous()),
        _pointer(out),
    )
    return out.permute(0, 3, 1, 2), guide, mask


def backward(
    gradient: Tensor,
    image: Tensor,
    guide: Tensor,
    guide_weight: Tensor | None,
    mask: Tensor,
    filters: Filters,
    geometry: Geometry,
    *,
    wanted: tuple[bool, bool, bool, bool],
) -> Gradients | None:
    """The gradients that are `wanted` of image, guide, coefficient and table; None if not done.

    Where regions share tables, the part of a guide made by `guide_weight` is added to the image's,
    and there is that weight's gradient instead of the guide's.
    """
    code = _code(gradient, image, guide, guide_weight, *filters)
    if code is None:
        return None
    image = image.contiguous(memory_format=torch.channels_last)
    gradient = gradient.contiguous(memory_format=torch.channels_last)
    guide = _evenly_spaced(guide)
    filters = Filters(*(tensor.contiguous() for tensor in filters))
    described = _layer(image, mask, filters, geometry)
    empty = torch.empty_like if geometry.pointwise else torch.zeros_like
    weighed = guide_weight is not None and wanted[1] and len(filters.table) == 1
    weight = guide_weight.contiguous() if guide_weight is not None and weighed else None
    made = Gradients(
        empty(image) if wanted[0] else None,
        torch.empty_strided(guide.shape, guide.stride()) if wanted[1] and not weighed else None,
        torch.empty_like(filters.coefficient) if wanted[2] else None,
        torch.empty_like(filters.table) if wanted[3] else None,
        None if weight is None else torch.empty_like(weight),
    )
    given = _Gradients(
        *(_pointer(tensor) for tensor in (image, gradient, mask, *filters, guide)),
        *_strides(guide),
        _pointer(weight),
        *(_pointer(tensor) for tensor in made),
    )
    name = "drconv_depthwise_backward" if _depthwise(described) else "drconv_backward"
    code[name](ctypes.byref(described), ctypes.byref(given))
    return made


def _code(*tensors: Tensor | None) -> ctypes.CDLL | None:
    """The library, if it can work on these."""
    suited = all(t is None or (t.is_cpu and t.dtype == torch.float32) for t in tensors)
    return library() if suited else None


def _layer(image: Tensor, mask: Tensor, filters: Filters, geometry: Geometry) -> _Layer:
    own, terms, outputs, inputs, table_taps = filters.table.shape
    batch, regions, _, coefficient_taps = filters.coefficient.shape
    return _Layer(
        *(batch, regions, terms, own > 1, table_taps, coefficient_taps),
        *(geometry.groups, inputs, outputs // geometry.groups),
        *(*image.shape[2:], *mask.shape[1:]),
        *(*geometry.kernel, *geometry.stride, *geometry.padding),
        torch.get_num_threads(),
    )


def _depthwise(layer: _Layer) -> bool:
    return layer.groups > 1 and layer.inputs == layer.outputs == 1


def _evenly_spaced(guide: Tensor) -> Tensor:
    """The guide with its pixels at equal distances, as both usual memory formats have them."""
    height, width = guide.stride()[2:]
    return guide if height == guide.shape[3] * width else guide.contiguous()


def _strides(guide: Tensor) -> tuple[int, int, int]:
    return guide.stride(0), guide.stride(1), guide.stride(3)


def _pointer(tensor: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())
