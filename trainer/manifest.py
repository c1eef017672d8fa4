"""The manifest of a checkpoint: what it holds, how to tell that it is whole, what made it.

A JSON file beside the tensors. It names every other file with its checksum, and carries a checksum
of itself, so that a flipped bit anywhere is found before anything is loaded.
"""

import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from sharded_fc import native_code
from trainer.errors import RunError
from trainer.layers.native import norm
from trainer.tensor_file import FileFacts, facts, write_durably

NAME = "manifest.json"
FORMAT = 3  # format 1 had one row a class and did not say so, 2 no rows outside the device
DISTRIBUTIONS = ("facescale", "torch", "deepspeed", "numpy", "nvidia-dali-cuda120")
"""Packages whose version may change a number."""


class DamagedError(RunError):
    """A checkpoint is not whole; the message names the file."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Everything about a checkpoint but its tensors."""

    step: int
    samples_seen: int
    config: dict[str, Any]
    """The run file's tree, as plain values."""
    data: dict[str, Any]
    """The data pipeline's state beyond samples seen: the bad samples."""
    optimizer: str
    """The backbone's, by name."""
    head: dict[str, Any]
    """Scalars of the head: its sizes, its steps, what its margin carries on."""
    partitions: dict[str, tuple[int, int]]
    """Classes [start, stop) by file of the head; of none where the rows are in tables."""
    tables: tuple[str, ...] = ()
    """Tables of rows outside the device, of all ranks: they hold a checkpoint of this step."""
    world_size: int
    threads: int
    instruction_set: str
    versions: dict[str, str]
    files: dict[str, FileFacts]

    def differences(self, *, world_size: int) -> list[str]:
        """What keeps a run that continues here from being equal to the bit, a line each."""
        now = {"world_size": world_size, **surroundings()}
        then = {
            "world_size": self.world_size,
            "threads": self.threads,
            "instruction_set": self.instruction_set,
        }
        lines = [
            f"{name.replace('_', ' ')} was {value}, now {now[name]}"
            for name, value in then.items()
            if value != now[name]
        ]
        for name in sorted(self.versions.keys() | now["versions"].keys()):
            before, after = self.versions.get(name, "absent"), now["versions"].get(name, "absent")
            if before != after:
                lines.append(f"version of {name} was {before}, now {after}")
        return lines


def surroundings() -> dict[str, Any]:
    """What else a bit-equal resume depends on: this process's threads, processor, versions."""
    versions = {name: _version(name) for name in DISTRIBUTIONS}
    versions["compiled head"] = native_code.version() or "absent"
    versions["compiled norm"] = norm.version() or "absent"
    return {
        "threads": torch.get_num_threads(),
        "instruction_set": instruction_set(),
        "versions": versions,
    }


def instruction_set() -> str:
    """The processor's features by which torch and its libraries choose their kernels."""
    words = [platform.machine(), torch.backends.cpu.get_cpu_capability()]
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        flags = {
            flag
            for line in cpuinfo.read_text(encoding="utf-8").splitlines()
            if line.lower().startswith(("flags", "features"))
            for flag in line.partition(":")[2].split()
        }
        words += sorted(f for f in flags if f.startswith(("avx", "fma", "amx", "asimd", "sve")))
    if torch.cuda.is_available():
        words.append(torch.cuda.get_device_name())
    return " ".join(words)


def write(folder: Path, manifest: Manifest) -> None:
    """Put the manifest into a folder of tensor files."""
    content = {"format": FORMAT, **asdict(manifest)}
    content["checksum"] = _checksum(content)
    text = json.dumps(content, indent=1, sort_keys=True, allow_nan=False)
    write_durably(folder / NAME, text.encode())


def read(folder: Path) -> Manifest:
    """The manifest of a checkpoint, itself checked.

    Raises:
        DamagedError: it is missing, cut, changed, or of a later format.
    """
    path = folder / NAME
    try:
        content = json.loads(path.read_bytes())
        checksum = content.pop("checksum")
        whole = checksum == _checksum(content)
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise DamagedError(f"{path} cannot be read: {error}") from error
    if not whole:
        raise DamagedError(f"{path} does not match its checksum")
    written = content.pop("format")
    if written not in (1, 2, FORMAT):
        raise DamagedError(f"{path} is of a later format; use the facescale that wrote it")
    if written == 1:
        content["head"]["sub_centres"] = 1
    content["files"] = {name: FileFacts(**entry) for name, entry in content["files"].items()}
    content["tables"] = tuple(content.get("tables", ()))
    content["partitions"] = {name: tuple(p) for name, p in content["partitions"].items()}
    return Manifest(**content)


def check_sizes(folder: Path) -> Manifest:
    """The manifest, where every file is there at its full length.

    Raises:
        DamagedError: names the first file that is not.
    """
    manifest = read(folder)
    for name, wanted in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise DamagedError(f"{path} is missing")
        size = path.stat().st_size
        if size != wanted.bytes:
            raise DamagedError(f"{path} has {size} bytes instead of {wanted.bytes}")
    return manifest


def verify(folder: Path) -> Manifest:
    """The manifest, where every file matches its checksum. Reads them all.

    Raises:
        DamagedError: names the first file that does not.
    """
    manifest = check_sizes(folder)
    for name, wanted in manifest.files.items():
        try:
            found = facts(folder / name)
        except OSError as error:
            raise DamagedError(f"{folder / name} cannot be read: {error}") from error
        if found != wanted:
            raise DamagedError(f"{folder / name} does not match its checksum")
    return manifest


def _checksum(content: Mapping[str, Any]) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "absent"
