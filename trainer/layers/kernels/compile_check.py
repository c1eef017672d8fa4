"""Compiles every kernel of the layers for every architecture, without a GPU, as the head's are.

    python -m trainer.layers.kernels.compile_check

Fails where one spills registers to memory or asks for too much shared memory.
"""

from collections.abc import Iterator

from sharded_fc.kernels.compile_check import Build, main
from trainer.layers.kernels import tvconv


def builds(architecture: int) -> Iterator[Build]:
    """What runs on a card of one architecture."""
    yield from _tvconv(architecture)


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
