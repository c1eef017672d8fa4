"""Read one rank's files of another trainer in a process of its own; leave its rows as numbers.

    python -I foreign_reader.py FOLDER ALLOWANCE_BYTES CPU_SECONDS CENTRE_FILE [MOMENTUM_FILE]

Writes FOLDER/centre and, where the files have it, FOLDER/momentum: rows after rows of float32.
Prints one JSON object: {"rows", "dim", "tensors"} or {"error"}. The files are pickles of strangers:
only tensors and plain containers are made from them (torch's allow-list), and the process may
neither take more memory, disk or time than it was given nor start another. It imports nothing of
this package.
"""

import json
import resource
import sys
import zipfile
from pathlib import Path
from typing import Any

import torch

_ROWS_AT_ONCE = 4096


def answer(files: list[Path], folder: Path) -> dict[str, Any]:
    """Write what the files hold, the centres' file first; say what was written or what is wrong."""
    try:
        tensors = _read(files[0])
        if len(files) > 1:
            tensors["momentum"] = _load(files[1])
        return _write(tensors, folder)
    except MemoryError:
        return {"error": "it needs more memory than its size allows"}
    except Exception as error:
        # Whatever a stranger's file does to the loader is that file's fault: one line of it.
        lines = str(error).strip().splitlines() or [""]
        return {"error": f"{type(error).__name__}: {lines[0]}"}


def _load(path: Path) -> Any:
    return torch.load(path, weights_only=True, map_location="cpu", mmap=zipfile.is_zipfile(path))


def _read(path: Path) -> dict[str, torch.Tensor]:
    """The centres, and their momentum where a whole checkpoint has it."""
    loaded = _load(path)
    if isinstance(loaded, torch.Tensor):
        return {"centre": loaded}
    if not isinstance(loaded, dict) or "state_dict_softmax_fc" not in loaded:
        raise ValueError("it is neither a tensor nor a checkpoint with state_dict_softmax_fc")
    tensors = {"centre": loaded["state_dict_softmax_fc"]["weight"]}
    optimizer = loaded.get("state_optimizer")
    if optimizer is not None:
        # The centres are the last parameter of the last group.
        last = optimizer["param_groups"][-1]["params"][-1]
        momentum = optimizer["state"].get(last, {}).get("momentum_buffer")
        if momentum is not None:
            tensors["momentum"] = momentum
    return tensors


def _write(tensors: dict[str, torch.Tensor], folder: Path) -> dict[str, Any]:
    shape = list(tensors["centre"].shape)
    for name, tensor in tensors.items():
        if tensor.dim() != 2 or not tensor.is_floating_point():
            raise ValueError(f"its {name} is {tensor.dtype} of shape {list(tensor.shape)}, no rows")
        if list(tensor.shape) != shape:
            raise ValueError(f"its {name} has shape {list(tensor.shape)}, its centres {shape}")
        with (folder / name).open("wb") as file:
            for rows in tensor.split(_ROWS_AT_ONCE):
                file.write(rows.to(torch.float32).numpy().tobytes())
    return {"rows": shape[0], "dim": shape[1], "tensors": sorted(tensors)}


def _limit(*, allowance_bytes: int, cpu_seconds: int) -> None:
    """What torch has mapped by now and an allowance, which a file may have too; no new process."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = {
        resource.RLIMIT_AS: used + allowance_bytes,
        resource.RLIMIT_FSIZE: allowance_bytes,  # a few bytes can claim to be any number of rows
        resource.RLIMIT_CPU: cpu_seconds,
        resource.RLIMIT_NPROC: 0,
        resource.RLIMIT_CORE: 0,
    }
    for name, limit in limits.items():
        resource.setrlimit(name, (limit, limit))


def _main(folder: str, allowance_bytes: str, cpu_seconds: str, *files: str) -> None:
    torch.set_num_threads(1)
    _limit(allowance_bytes=int(allowance_bytes), cpu_seconds=int(cpu_seconds))
    json.dump(answer([Path(file) for file in files], Path(folder)), sys.stdout)


if __name__ == "__main__":
    _main(*sys.argv[1:])
