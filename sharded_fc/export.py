"""Write the centres of all ranks as one safetensors file, for those who recognise faces with them.

Every rank writes its own range of bytes, a block at a time; no rank sees another's rows.
"""

import json
import os
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from sharded_fc.centres import read_centres
from sharded_fc.collectives import Ranks
from sharded_fc.files import commit, partial_path, together
from sharded_fc.partition import chunks
from sharded_fc.present_rows import ReadableRows

TENSOR = "centres"

_NAMES = {torch.float32: "F32", torch.float16: "F16"}


def export_centres(
    path: Path,
    *,
    rows: ReadableRows,
    ranks: Ranks,
    embedding_dim: int,
    unit: bool,
    dtype: torch.dtype = torch.float32,
    sub_centres: int = 1,
    wins: Int[Tensor, " rows"] | None = None,
    block: int = 65536,
) -> None:
    """Write the tensor `centres` to `path`, in a folder that all ranks share.

    It is [classes, embedding_dim]; with sub-centres [classes, sub_centres, embedding_dim], unless
    `wins` says how often each of this rank's rows was its class's nearest to a sample: then the one
    with most wins stands for the class, the first of equals. `unit` gives rows length 1 (a row of
    zeros stays), else they are as trained. `block` classes are in memory at once.

    Every rank calls it with its own rows and wins, and the same other arguments; all return when
    the file is whole and on the disk. Until then an earlier file of the name is untouched.

    Collectives: four all_gathers of a few integers.

    Raises:
        ValueError: on every rank, before anything is written, where arguments do not fit.
        OSError: on every rank, where one could not write.
    """
    if dtype not in _NAMES:
        raise ValueError(f"dtype {dtype}; use torch.float32 or torch.float16")
    device = rows.device
    fits = wins is None or len(wins) == len(rows)
    facts = ranks.exchange_integers([rows.stop, int(fits), int(wins is not None)], device=device)
    if not all(fact[1] for fact in facts) or len({fact[2] for fact in facts}) > 1:
        raise ValueError("pass wins with one entry a row on every rank, or on none")
    num_classes = max(fact[0] for fact in facts) // sub_centres
    one = sub_centres == 1 or wins is not None
    shape = (num_classes, embedding_dim) if one else (num_classes, sub_centres, embedding_dim)
    class_bytes = embedding_dim * dtype.itemsize * (1 if one else sub_centres)
    header = _header(shape, dtype, unit=unit)

    def begin() -> None:
        with partial_path(path).open("wb") as file:
            file.write(header)
            file.truncate(len(header) + num_classes * class_bytes)

    def write() -> None:
        with partial_path(path).open("r+b") as file:
            place = len(header) + rows.start // sub_centres * class_bytes
            for first, last in chunks(len(rows) // sub_centres, block):
                centres = read_centres(
                    rows, first, last, sub_centres=sub_centres, embedding_dim=embedding_dim
                )
                if wins is not None:
                    centres = _dominant(centres, wins[first * sub_centres : last * sub_centres])
                if unit:
                    centres = normalize(centres, dim=-1)
                place += _write(file.fileno(), centres.to("cpu", dtype), place)
            os.fsync(file.fileno())

    try:
        together(begin, takes_part=ranks.rank == 0, ranks=ranks, device=device)
        together(write, takes_part=True, ranks=ranks, device=device)
        together(lambda: commit(path), takes_part=ranks.rank == 0, ranks=ranks, device=device)
    except OSError:
        if ranks.rank == 0:
            partial_path(path).unlink(missing_ok=True)
        raise


def _header(shape: tuple[int, ...], dtype: torch.dtype, *, unit: bool) -> bytes:
    """What a safetensors file begins with: the header's length, then the header, 8-byte aligned."""
    size = torch.Size(shape).numel() * dtype.itemsize
    entry = {"dtype": _NAMES[dtype], "shape": shape, "data_offsets": [0, size]}
    metadata = {"format": "pt", "length": "unit" if unit else "trained"}
    text = json.dumps({"__metadata__": metadata, TENSOR: entry}).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _dominant(
    centres: Float[Tensor, "classes sub_centres dim"], wins: Int[Tensor, " rows"]
) -> Float[Tensor, "classes dim"]:
    best = wins.reshape(centres.shape[:2]).argmax(1).to(centres.device)
    return centres[torch.arange(len(centres), device=best.device), best]


def _write(descriptor: int, tensor: Tensor, place: int) -> int:
    """Put the tensor's bytes at `place` of the file; return how many they are."""
    data = memoryview(tensor.contiguous().numpy()).cast("B")  # pyright: ignore[reportArgumentType]
    written = 0
    while written < len(data):
        written += os.pwrite(descriptor, data[written:], place + written)
    return written
