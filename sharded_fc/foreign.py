"""Start from the heads that insightface's arcface_torch saved: one file a rank.

    checkpoint_gpu_{rank}.pt          PartialFC_V2: centres, and SGD's momentum
    rank_{rank}_softmax_weight.pt     PartialFC: centres
    rank_{rank}_softmax_weight_mom.pt            their momentum

The files are pickles: a limited child process (`foreign_reader.py`) turns them into plain numbers.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from sharded_fc.limited import ask
from sharded_fc.partition import bounds, chunks
from sharded_fc.storage import Block

_READER = Path(__file__).with_name("foreign_reader.py")


def insightface_rows(
    folder: Path,
    *,
    num_classes: int,
    partition: range,
    state_widths: dict[str, int],
    block: int = 65536,
) -> Iterator[Block]:
    """The rows of the classes in `partition`, in order, from the files of any number of ranks.

    Rank k of R wrote num_classes // R + (k < num_classes % R) rows. Only files that hold classes of
    `partition` are read, one rank's at a time, which pass through the folder for temporary files
    as float32. `state_widths` names the optimizer rows that the head keeps: "momentum" is taken
    from the files where they have it, anything else starts at 0.

    Raises:
        FileNotFoundError: the folder holds no such files, or not those of every rank.
        ValueError: a file cannot be read, or has other rows than its rank must have; one line.
    """
    files = _find(folder)
    for (start, stop), rank_files in zip(bounds(num_classes, len(files)), files, strict=True):
        wanted = range(max(start, partition.start), min(stop, partition.stop))
        if not wanted:
            continue
        with tempfile.TemporaryDirectory(prefix="foreign-") as scratch:
            rows = _read_rank(rank_files, Path(scratch), num_rows=stop - start)
            yield from _cut(rows, start=start, wanted=wanted, widths=state_widths, block=block)


def _find(folder: Path) -> list[list[Path]]:
    """Each rank's files, that of its centres first."""
    whole, bare = "checkpoint_gpu_{}.pt", "rank_{}_softmax_weight.pt"
    pattern = whole if any(folder.glob(whole.format("*"))) else bare
    num_ranks = len(list(folder.glob(pattern.format("[0-9]*"))))
    if not num_ranks:
        raise FileNotFoundError(f"{folder} holds no {whole.format(0)} and no {bare.format(0)}")
    ranks = []
    for rank in range(num_ranks):
        centre = folder / pattern.format(rank)
        if not centre.exists():
            raise FileNotFoundError(
                f"{folder} holds {num_ranks} files like {pattern.format('*')}, but not rank "
                f"{rank}'s; copy the files of every rank"
            )
        momentum = folder / f"rank_{rank}_softmax_weight_mom.pt"
        ranks.append([centre, momentum] if pattern == bare and momentum.exists() else [centre])
    return ranks


def _read_rank(files: list[Path], scratch: Path, *, num_rows: int) -> dict[str, Tensor]:
    """One rank's tensors, mapped from `scratch`."""
    answer = ask(_READER, files, scratch)
    if "error" in answer:
        names = " with ".join(map(str, files))
        raise ValueError(f"{names} cannot be read: {answer['error']}")
    rows, dim = int(answer["rows"]), int(answer["dim"])
    if rows != num_rows:
        raise ValueError(
            f"{files[0]} holds {rows} rows, not {num_rows}; pass the number of classes that it was "
            "trained with, and the files of all ranks of that run"
        )
    return {
        name: _map(scratch / name, rows, dim)
        for name in ("centre", "momentum")
        if name in answer["tensors"]
    }


def _map(path: Path, rows: int, dim: int) -> Tensor:
    flat = torch.from_file(str(path), shared=False, size=rows * dim, dtype=torch.float32)
    return flat.view(rows, dim)


def _cut(
    tensors: dict[str, Tensor], *, start: int, wanted: range, widths: dict[str, int], block: int
) -> Iterator[Block]:
    for first, last in chunks(len(wanted), block):
        there = slice(wanted.start - start + first, wanted.start - start + last)
        rows = {"centre": tensors["centre"][there].clone()}
        for name, width in widths.items():
            known = tensors.get(name) if name == "momentum" else None
            rows[name] = torch.zeros(last - first, width) if known is None else known[there].clone()
        yield wanted.start + first, rows
