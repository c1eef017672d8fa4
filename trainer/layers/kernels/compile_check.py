"""Compiles every kernel of the layers for every architecture, without a GPU, as the head's are.

    python -m trainer.layers.kernels.compile_check

Fails where one spills registers to memory or asks for too much shared memory.
"""

from collections.abc import Iterator

from sharded_fc.kernels.compile_check import Build, main
from trainer.layers.kernels import drconv, drconv_kernels, tvconv


def builds(architecture: int) -> Iterator[Build]:
    """What runs on a card of one architecture."""
    yield from _drconv(architecture)
    yield from _tvconv(architecture)


def _drconv(architecture: int) -> Iterator[Build]:
    numbers = (
        *("terms", "of_own", "of_term", "of_out", "of_in", "of_tap"),
        *("sample_factors", "region_factors", "term_factors", "tap_factors"),
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
