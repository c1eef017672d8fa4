"""The sizes of a convolution: plain integers."""

from dataclasses import dataclass

Pair = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """How a kernel moves over an image, by rows and columns."""

    kernel: Pair
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    groups: int = 1

    @property
    def taps(self) -> int:
        """How many pixels of the image a pixel of the output sees."""
        return self.kernel[0] * self.kernel[1]

    @property
    def pointwise(self) -> bool:
        """Whether each pixel of the output sees the one at its own place, and nothing else."""
        return self.kernel == self.stride == (1, 1) and self.padding == (0, 0)

    def output_size(self, image: Pair) -> Pair:
        """Height and width of the output for an image of this height and width."""
        return (self._along(0, image), self._along(1, image))

    def _along(self, axis: int, image: Pair) -> int:
        free = image[axis] + 2 * self.padding[axis] - self.kernel[axis]
        if free < 0:
            raise ValueError(
                f"a kernel of {self.kernel} does not fit an image of {tuple(image)} padded by "
                f"{self.padding}; use larger images or more padding"
            )
        return free // self.stride[axis] + 1


def pair(value: int | Pair) -> Pair:
    """One number for both axes, or one for each."""
    return value if isinstance(value, tuple) else (value, value)
