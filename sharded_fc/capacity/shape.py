"""A head as numbers: how large it is, in which dtypes, over how many ranks."""

import math
from dataclasses import dataclass
from functools import cached_property

import torch

from sharded_fc.arguments import OptimizerName, make_optimizer
from sharded_fc.construction import KEPT_BYTES, KEPT_SHARE
from sharded_fc.partition import bounds, default_chunk
from sharded_fc.sampling.inclusion import expected_distinct, most_on_rank
from sharded_fc.sampling.options import Sampling
from sharded_fc.sampling.signatures import Signatures
from sharded_fc.storage import working_dtype
from sharded_fc.tables import Layout

LEAST_CHUNK = 64  # rows a sampled chunk has room for: `sampling.sampler`
MOST_MINED = 64  # classes for one sample: `sampling.mining`


@dataclass(frozen=True, kw_only=True)
class HeadShape:
    """A `ShardedHead` and the global batch it is called with.

    `batch` counts the samples of all ranks; `most_own` are those of the rank that has most, None
    where they are spread evenly. All figures are those of rank 0, which has the most classes.
    Arguments of the same name are the head's; `state` and `operands` are its
    `state_dtype` and `compute_dtype`, and None its defaults. `outside` are rows in host memory or
    in a file, of which a step's come to the device.
    """

    num_classes: int
    embedding_dim: int
    batch: int
    world_size: int
    on_cpu: bool
    most_own: int | None = None
    dtype: torch.dtype = torch.float32
    state: torch.dtype | None = None
    operands: torch.dtype | None = None
    optimizer: OptimizerName = "sgd"
    momentum: float = 0.9
    sub_centres: int = 1
    sampling: Sampling | None = None
    outside: bool = False
    normalised: bool = True
    weighted: bool = False
    ranged: bool = False
    class_margins: bool = False
    chunk_classes: int | None = None

    def __post_init__(self) -> None:
        bounds(self.num_classes, self.world_size)  # refuses what leaves ranks without classes
        if self.batch < 1:
            raise ValueError(f"a batch of {self.batch}; a step needs at least 1 sample")
        if self.outside and self.sampling is None:
            raise ValueError(
                "rows outside the device without sampling would all move in every step"
            )

    @property
    def width(self) -> int:
        """Columns of a row: the embedding's, and a bias where margins work on raw products."""
        return self.embedding_dim + (not self.normalised)

    @property
    def own_batch(self) -> int:
        """The most samples that a rank brings: as many are sent by all."""
        return self.most_own or -(-self.batch // self.world_size)

    @property
    def own_classes(self) -> int:
        """Classes of the rank."""
        return -(-self.num_classes // self.world_size)

    @property
    def own_rows(self) -> int:
        """Rows of the rank."""
        return self.own_classes * self.sub_centres

    @property
    def working(self) -> torch.dtype:
        """What sums are made in."""
        return working_dtype(self.dtype)

    @property
    def compute(self) -> torch.dtype:
        """What products' operands are rounded to."""
        if self.operands is not None:
            return self.operands
        return self.working if self.on_cpu or self.working == torch.float64 else torch.float16

    @property
    def product(self) -> torch.dtype:
        """What products are written in."""
        return self.compute if self.on_cpu else self.working

    @property
    def state_dtype(self) -> torch.dtype:
        """What wide optimizer states are kept in."""
        if self.state is not None:
            return self.state
        return torch.float32 if self.dtype == torch.float16 else self.dtype

    @cached_property
    def state_widths(self) -> dict[str, int]:
        """Columns of what the optimizer keeps for a row."""
        chosen = make_optimizer(
            self.optimizer, momentum=self.momentum, weight_decay=0.0, betas=(0.9, 0.999), eps=1e-8
        )
        return chosen.state_widths(self.width)

    @property
    def state_row_bytes(self) -> int:
        """Bytes the optimizer keeps for a row."""
        return sum(
            width * (self.working if width == 1 else self.state_dtype).itemsize
            for width in self.state_widths.values()
        )

    @property
    def row_bytes(self) -> int:
        """Bytes of a row and of what the optimizer keeps for it."""
        return self.width * self.dtype.itemsize + self.state_row_bytes

    @property
    def record_bytes(self) -> int:
        """Bytes of a row kept outside the device, with its counters."""
        layout = Layout(
            start=0,
            stop=self.own_rows,
            embedding_dim=self.width,
            state_widths=self.state_widths,
            seed=0,
            dtype=self.dtype,
            state_dtype=self.state_dtype,
        )
        return layout.record_bytes

    @property
    def kept_bytes(self) -> int:
        """The most that products and rows kept between the visits may take."""
        on_device = 0 if self.outside else self.own_rows * self.row_bytes
        return max(KEPT_BYTES, on_device // KEPT_SHARE)

    @property
    def drawn(self) -> int:
        """Classes that a step draws from all; all of them without sampling."""
        if self.sampling is None:
            return self.num_classes
        draw = self.sampling.draw(self.num_classes, seed=0)
        return min(draw.drawn_blocks * draw.block, self.num_classes)

    @property
    def parts(self) -> tuple[float, ...]:
        """Mean rows of the rank in each part of a visit: all; or those drawn, and those certain.

        Labels are taken as drawn evenly. A drawn class that a sample has is visited once.
        """
        if self.sampling is None:
            return (float(self.own_rows),)
        share = self.own_classes / self.num_classes
        positives = expected_distinct(self.num_classes, self.batch)
        negatives = self.drawn * (1.0 - positives / self.num_classes)
        if self.sampling.quota == "peer":
            negatives = max(self.drawn - positives, 0.0)
        certain = positives + self.mined_each * self.batch
        return tuple(part * share * self.sub_centres for part in (negatives, certain))

    @property
    def mined_each(self) -> int:
        """Classes mined for each sample, the most there are: none of two samples the same."""
        if self.sampling is None or not self.sampling.hard_share:
            return 0
        each = self.sampling.mined(self.num_classes) // self.batch
        return min(MOST_MINED, max(1, each))

    @cached_property
    def signatures(self) -> Signatures | None:
        """What rows are found by where classes are mined; None where none are."""
        if not self.mined_each:
            return None
        rows = self.num_classes * self.sub_centres
        return Signatures(self.width, num_rows=rows, seed=0, device=torch.device("cpu"))

    @property
    def most_rows(self) -> int:
        """Rows that a chunk has any use for."""
        if self.sampling is None:
            return self.own_rows
        draw = self.sampling.draw(self.num_classes, seed=0)
        most = most_on_rank(
            draw.num_blocks,
            drawn=draw.drawn_blocks,
            own_classes=-(-self.own_classes // draw.block),
        )
        return self.sub_centres * max(LEAST_CHUNK, most * draw.block)

    @property
    def chunk(self) -> int:
        """Rows visited at once."""
        classes = self.chunk_classes or max(
            1,
            default_chunk(
                embedding_dim=self.width,
                batch=self.batch,
                item_bytes=self.working.itemsize,
                on_cpu=self.on_cpu,
            )
            // self.sub_centres,
        )
        return min(classes * self.sub_centres, self.most_rows)

    @property
    def num_chunks(self) -> int:
        """Chunks of a visit, the last of each part maybe shorter."""
        return sum(-int(-rows // self.chunk) for rows in self.parts)

    @property
    def kept_chunks(self) -> int:
        """Chunks whose products are kept from the first visit for the second."""
        return min(self.kept_bytes // self.tile_bytes, self.num_chunks)

    @property
    def tile_bytes(self) -> int:
        """Bytes of a chunk's products."""
        return self.chunk * self.batch * self.product.itemsize

    @property
    def kept_rows(self) -> int:
        """Rows that lie here and there and are kept as operands: `ChunkWork`'s rule."""
        sampling = self.sampling
        if sampling is None or sampling.untouched == "caught_up" or not self.on_cpu:
            return 0
        if self.compute == torch.float16 or not self.normalised:
            return 0
        left = self.kept_bytes - self.kept_chunks * self.tile_bytes
        return min(math.ceil(sum(self.parts)), left // self.operand_row_bytes)

    @property
    def operand_row_bytes(self) -> int:
        """Bytes of a row as an operand."""
        return self.width * self.compute.itemsize
