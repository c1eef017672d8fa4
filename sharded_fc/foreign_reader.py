"""One rank's files of another trainer, left as numbers: a reader for `limited.py`.

Writes FOLDER/centre and, where the files have it, FOLDER/momentum: rows after rows of float32, and
says {"rows", "dim", "tensors"}. The files are pickles of strangers: only tensors and plain
containers are made from them (torch's allow-list). It imports nothing of this package.
"""

import zipfile
from pathlib import Path
from typing import Any

import torch

_ROWS_AT_ONCE = 4096


def read(files: list[Path], folder: Path) -> dict[str, Any]:
    """Write what the files hold, the centres' file first; say what was written."""
    tensors = _read(files[0])
    if len(files) > 1:
        tensors["momentum"] = _load(files[1])
    return _write(tensors, folder)


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
