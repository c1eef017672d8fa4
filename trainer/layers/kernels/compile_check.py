"""Compiles every kernel of the layers for every architecture, without a GPU, as the head's are.

    python -m trainer.layers.kernels.compile_check

Fails where one spills registers to memory or asks for too much shared memory.
"""

from collections.abc import Iterator

from sharded_fc.kernels.compile_check import Build, main
from trainer.layers.drconv.geometry import Geometry, pair
from trainer.layers.kernels import (
    drconv,
    drconv_depthwise,
    drconv_depthwise_kernels,
    drconv_kernels,
    tvconv,
)


def builds(architecture: int) -> Iterator[Build]:
    """What runs on a card of one architecture."""
    yield from _drconv(architecture)
    yield from _drconv_depthwise(architecture)
    yield from _tvconv(architecture)


_FILTER_NUMBERS = (
    *("terms", "of_own", "of_term", "of_tap"),
    *("sample_factors", "region_factors", "term_factors", "tap_factors"),
)


def _drconv(architecture: int) -> Iterator[Build]:
    numbers = (
        *_FILTER_NUMBERS,
        *("of_out", "of_in"),
        *("to_lot", "to_own", "to_term", "to_out", "to_in"),
        *("inputs", "outputs", "regions", "tiles", "pixels", "seen", "groups", "first_tap"),
        *("taps", "lots", "out_blocks", "batch"),
    )
    for dtype in ("fp32", "bf16"):
        types = {
            **dict.fromkeys(numbers, "i32"),
            **dict.fromkeys(("order", "starts", "places"), "*i32"),
            **dict.fromkeys(("coefficient", "table", "bias", "slope", "d_factor"), "*fp32"),
            **dict.fromkeys(("source", "target", "gradient", "image"), f"*{dtype}"),
            "d_table": "*fp32",
        }
        of_kernel = {
            "product_kernel": {"BACK": False},
            "slope_kernel": {},
            "filter_kernel": {},
        }
        for kernel, constants in of_kernel.items():
            yield Build(
                kernel=(drconv_kernels.__name__, kernel),
                what=dtype,
                architecture=architecture,
                types=types,
                constants={**constants, **drconv.TILE},
            )
        yield Build(
            kernel=(drconv_kernels.__name__, "product_kernel"),
            what=f"image gradient, {dtype}",
            architecture=architecture,
            types={**types, "target": "*fp32", "bias": "constexpr"},
            constants={"BACK": True, **drconv.TILE},
        )


def _drconv_depthwise(architecture: int) -> Iterator[Build]:
    numbers = (
        *_FILTER_NUMBERS,
        *("tiles", "height", "width", "seen_height", "seen_width"),
        *("numbers", "regions", "tables", "lots", "taps"),
    )
    filters = ("coefficient", "table", "bias", "slope", "d_factor", "d_table")
    # At whole blocks of channels a load is of several numbers.
    whole = {"channels": 128, "of_tap": 128, "of_term": 9 * 128}
    shared = {"tables": 1, "of_own": 0, "term_factors": 1, "tap_factors": 0}
    layers = {
        "3 x 3": (pair(3), pair(1), {**whole, **shared}),
        "3 x 3, stride 2": (pair(3), pair(2), {**whole, **shared}),
        "3 x 3, own tables": (pair(3), pair(1), whole),
        "5 x 5, odd channels": (pair(5), pair(1), {}),
    }
    of_kernel = {
        "forward": ("product_kernel", {"BACK": False, **drconv_depthwise.PRODUCT_TILE}),
        "image gradient": ("product_kernel", {"BACK": True, **drconv_depthwise.PRODUCT_TILE}),
        "slopes": ("slope_kernel", drconv_depthwise.SLOPE_TILE),
        "filters": ("filter_kernel", drconv_depthwise.FILTER_TILE),
    }
    for dtype in ("fp32", "bf16"):
        types = {
            **dict.fromkeys(numbers, "i32"),
            **dict.fromkeys(("channels", "batch"), "i32"),
            **dict.fromkeys(filters, "*fp32"),
            **dict.fromkeys(("source", "target", "gradient", "image"), f"*{dtype}"),
            "mask": "*u8",
        }
        for layer, (kernel, stride, sizes) in layers.items():
            geometry = Geometry(kernel=kernel, stride=stride, padding=(kernel[0] // 2,) * 2)
            shape = {**drconv_depthwise.geometry_arguments(geometry), **sizes}
            for what, (name, constants) in of_kernel.items():
                yield Build(
                    kernel=(drconv_depthwise_kernels.__name__, name),
                    what=f"{what}, {layer}, {dtype}",
                    architecture=architecture,
                    types={**types, "bias": "constexpr"} if constants.get("BACK") else types,
                    constants={**shape, **constants},
                )


def _tvconv(architecture: int) -> Iterator[Build]:
    sizes = ("height", "width", "out_height", "out_width", "source_height", "source_width")
    counts = ("images", "channels", "target_height", "target_width")
    for dtype in ("fp32", "bf16"):
        types = {
            "weight": "*fp32",
            **dict.fromkeys(("source", "target", "image_of", "gradient_of"), f"*{dtype}"),
            **dict.fromkeys((*sizes, *counts), "i32"),
        }
        for kernel, stride in ((3, 1), (3, 2), (5, 1)):
            shape = {"KERNEL": kernel, "STRIDE": stride, **tvconv.TILE}
            for name, transposed in (("forward", False), ("image gradient", True)):
                yield Build(
                    kernel=(tvconv.__name__, "product_kernel"),
                    what=f"{name}, {kernel} x {kernel}, stride {stride}, {dtype}",
                    architecture=architecture,
                    types=types,
                    constants={**shape, "TRANSPOSED": transposed},
                )
            yield Build(
                kernel=(tvconv.__name__, "weight_kernel"),
                what=f"weights, {kernel} x {kernel}, stride {stride}, {dtype}",
                architecture=architecture,
                types=types,
                constants=shape,
            )


if __name__ == "__main__":
    main(builds)
