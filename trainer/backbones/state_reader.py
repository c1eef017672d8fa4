"""A network's weights of another trainer, left as numbers: a reader for `sharded_fc/limited.py`.

Writes FOLDER/values, float32 after float32, and says {"tensors": [[name, shape], ...]} in that
order. The files are pickles of strangers: only tensors and plain containers are made from them
(torch's allow-list). It imports nothing of this package.
"""

import zipfile
from pathlib import Path
from typing import Any

import torch

COUNTER = "num_batches_tracked"  # torch's BatchNorm counts its steps; nothing uses that


def read(files: list[Path], folder: Path) -> dict[str, Any]:
    """Write all numbers of one state dictionary; say their names and shapes."""
    (path,) = files
    loaded = torch.load(path, weights_only=True, map_location="cpu", mmap=zipfile.is_zipfile(path))
    if isinstance(loaded, dict) and "state_dict_backbone" in loaded:
        loaded = loaded["state_dict_backbone"]  # of train_v2.py's checkpoint_gpu_{rank}.pt
    if not isinstance(loaded, dict) or not loaded:
        raise ValueError("it is no state dictionary of a network")
    said = []
    with (folder / "values").open("wb") as file:
        for name, tensor in loaded.items():
            if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
                raise ValueError("it is no state dictionary of a network")
            if name.endswith(COUNTER):
                continue
            if not tensor.is_floating_point():
                raise ValueError(f"one of its tensors is {tensor.dtype}, no weights")
            file.write(tensor.to(torch.float32).contiguous().numpy().tobytes())
            said.append([name, list(tensor.shape)])
    return {"tensors": said}
