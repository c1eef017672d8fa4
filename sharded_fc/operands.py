"""The three matrix products of a chunk, with operands in the dtype that is fastest.

Rows [rows, dim] times embeddings give products; gradients of products times rows give the
embedding gradient, and times embeddings the rows' gradient. Sums are in the working dtype. With
float16 operands rows are multiplied at unit length, so that nothing overflows, and gradients times
a power of two, since they are far below float16's smallest normal number at a million classes.
"""

from types import ModuleType

import torch
from jaxtyping import Float
from torch import Tensor

from sharded_fc import huge_pages, native_products, native_tile
from sharded_fc.targets import SHORTEST
from sharded_fc.tile import Weights

_LARGEST_EXPONENT = 14  # 2^14 leaves a factor of four below float16's largest number


class Operands:
    """Buffers for chunks of up to `chunk` rows of `centre` and batches of `batch` embeddings."""

    def __init__(
        self, chunk: int, batch: int, centre: Tensor, *, working: torch.dtype, compute: torch.dtype
    ) -> None:
        dim = centre.shape[1]

        def empty(*shape: int, dtype: torch.dtype = working) -> Tensor:
            return huge_pages.empty(*shape, dtype=dtype, device=centre.device)

        self.unit = compute == torch.float16
        self.product_dtype = compute if centre.device.type == "cpu" else working
        self._low = compute != working
        self._convert = centre.dtype != compute or self.unit
        self._wide_output = self._low and self.product_dtype == working
        self.product = empty(chunk, batch, dtype=self.product_dtype)
        self.tile = self.product if self.product_dtype == working else empty(chunk, batch)
        self.gradient = empty(chunk, batch)
        self.operand_gradient = (
            empty(chunk, batch, dtype=compute) if compute != working else self.gradient
        )
        self.embedding = empty(batch, dim, dtype=compute)
        self._row_gradient = empty(chunk, dim)
        if self._convert:
            self.low_rows = empty(chunk, dim, dtype=compute)
        if self._low:
            self._low_row_gradient = empty(chunk, dim, dtype=self.product_dtype)
            self._low_embedding_gradient = empty(batch, dim, dtype=self.product_dtype)
            self._multiplier = torch.ones((), dtype=working, device=centre.device)

    def load(self, embedding: Float[Tensor, "batch dim"]) -> None:
        """Round the embeddings, once a visit."""
        self.embedding.copy_(embedding)

    def place_for(
        self, buffer: Float[Tensor, "chunk dim"], count: int
    ) -> Float[Tensor, "rows dim"] | None:
        """Where rows belong that are rounded as they are read; None where that is not all.

        `buffer` holds rows as they are kept.
        """
        if self.unit:
            return None
        return (self.low_rows if self._convert else buffer)[:count]

    def rows(
        self, centre: Float[Tensor, "rows dim"], inverse_norm: Float[Tensor, " rows"]
    ) -> Float[Tensor, "rows dim"]:
        """The rows as an operand, valid until the next call."""
        if not self._convert:
            return centre
        rows = self.low_rows[: len(centre)]
        if self.unit:
            torch.mul(centre, inverse_norm.unsqueeze(1), out=rows)
            return rows
        if native_tile.copy_rows(centre, to=rows):
            return rows
        if centre.dtype == torch.float16 and rows.dtype == torch.bfloat16:
            # torch converts these two one by one; by way of float32 it takes a sixth of the time.
            centre = self._row_gradient[: len(centre)].copy_(centre)
        return rows.copy_(centre)

    def measured_rows(
        self,
        centre: Float[Tensor, "rows dim"],
        inverse_norm: Float[Tensor, " rows"],
        *,
        kernels: ModuleType | None,
    ) -> Float[Tensor, "rows dim"]:
        """Write one over the rows' lengths; return the rows as `rows` does."""
        if kernels is not None and self.unit:
            rows = self.low_rows[: len(centre)]
            kernels.unit_rows(centre, inverse_norm=inverse_norm, out=rows)
            return rows
        low = None
        if self._convert and self.low_rows.dtype == torch.bfloat16:
            low = self.low_rows[: len(centre)]
        if not native_tile.measure_rows(centre, inverse_norm, shortest=SHORTEST, copy=low):
            _inverse_norms(centre, out=inverse_norm)
        elif low is not None:
            return low
        return self.rows(centre, inverse_norm)

    def products(
        self, rows: Float[Tensor, "rows dim"], *, out: Float[Tensor, "rows batch"]
    ) -> Float[Tensor, "rows batch"]:
        """Rows times embeddings, in `product_dtype`; float16 rows are cosines already."""
        return self._multiply(rows, self.embedding.t(), out)

    def widen(self, product: Float[Tensor, "rows batch"]) -> Float[Tensor, "rows batch"]:
        """The product in the working dtype: itself, or a copy in `tile`."""
        if product.dtype == self.tile.dtype:
            return product
        return self.tile[: len(product)].copy_(product)

    def fit(self, weights: Weights, largest_weight: Float[Tensor, ""], *, sigmoid: bool) -> Weights:
        """Weights for gradients that fit float16; what they are multiplied by is divided out later.

        A power of two brings the largest of them, a whole weight or a target's steep slope, near
        2^14; it goes into the weights, so that no pass is spent on it. Other dtypes need none.
        """
        if not self.unit:
            return weights
        largest = torch.maximum(weights.target.abs().amax(), largest_weight)
        power = torch.exp2(_LARGEST_EXPONENT - largest.clamp_min(2.0**-20).log2().ceil())
        self._multiplier.copy_(weights.factor / power)
        return Weights(
            offset=weights.offset * power if sigmoid else weights.offset + power.log(),
            target=weights.target * power,
            factor=1.0,
        )

    def add_embedding_gradient(
        self,
        total: Float[Tensor, "batch dim"],
        gradient: Float[Tensor, "rows batch"],
        rows: Float[Tensor, "rows dim"],
    ) -> None:
        """Add a chunk's share of the embedding gradient."""
        if not self._low:
            if not native_products.multiply(gradient.t(), rows, out=total, add=True):
                total.addmm_(gradient.t(), rows)
            return
        share = self._multiply(self._rounded(gradient).t(), rows, self._low_embedding_gradient)
        if self.unit:
            total.addcmul_(share, self._multiplier)
        else:
            total.add_(share)

    def left_over(self, inverse_norm: Float[Tensor, " rows"]) -> Float[Tensor, " rows"]:
        """What products still have to be multiplied by to be cosines."""
        return torch.ones_like(inverse_norm) if self.unit else inverse_norm

    def along_rows(
        self, along: Float[Tensor, " rows"], inverse_norm: Float[Tensor, " rows"]
    ) -> Float[Tensor, " rows"]:
        """What `gradient_tile` returned, for the rows as they are kept."""
        if not self.unit:
            return along
        return along.mul_(inverse_norm).mul_(inverse_norm).mul_(self._multiplier)

    def row_gradients(
        self, gradient: Float[Tensor, "rows batch"], inverse_norm: Float[Tensor, " rows"]
    ) -> Float[Tensor, "rows dim"]:
        """The rows' gradients, in the working dtype or as the product left them."""
        out = self._row_gradient[: len(gradient)]
        if not self._low:
            return self._multiply(gradient, self.embedding, out)
        low = self._multiply(
            self._rounded(gradient),
            self.embedding,
            self._low_row_gradient[: len(gradient)],
        )
        if self.unit:
            return torch.mul(low, (inverse_norm * self._multiplier).unsqueeze(1), out=out)
        return low

    def _rounded(self, gradient: Float[Tensor, "rows batch"]) -> Float[Tensor, "rows batch"]:
        low = self.operand_gradient[: len(gradient)]
        return gradient if gradient.dtype == low.dtype else low.copy_(gradient)

    def _multiply(self, left: Tensor, right: Tensor, out: Tensor) -> Tensor:
        if self._wide_output:
            return torch.mm(left, right, out_dtype=out.dtype, out=out)
        if native_products.multiply(left, right, out=out):
            return out
        return torch.mm(left, right, out=out)


def _inverse_norms(centre: Tensor, *, out: Tensor) -> None:
    torch.linalg.vector_norm(centre, dim=1, dtype=out.dtype, out=out)
    # A norm that is not a number stays out of the guard: its products are not finite, and that
    # must show in the sums.
    out.copy_(out.reciprocal().masked_fill_(out <= SHORTEST, 0.0))
