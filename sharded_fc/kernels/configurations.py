"""How large a tile one program works on, and with how many threads: pure integers."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Tile:
    """`rows` x `samples` of products by `warps` of 32 threads.

    A kernel that makes the products itself takes `depth` columns of embeddings at a time and keeps
    `stages` of them on their way.
    """

    rows: int
    samples: int
    warps: int
    depth: int | None = None
    stages: int = 1

    def grid(self, num_rows: int, batch: int) -> tuple[int, int]:
        """Programs along rows and along samples."""
        return -(-num_rows // self.rows), -(-batch // self.samples)

    @property
    def arguments(self) -> dict[str, int]:
        """What a kernel's launch takes."""
        depth = {} if self.depth is None else {"DEPTH": self.depth, "num_stages": self.stages}
        return {"ROWS": self.rows, "SAMPLES": self.samples, "num_warps": self.warps, **depth}


# 32 products a thread: enough loads on their way to fill the memory's pipeline, and room for what
# is made of them.
ELEMENTWISE = Tile(rows=64, samples=128, warps=8)
