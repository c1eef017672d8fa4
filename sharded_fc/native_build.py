"""Builds C++ sources for this CPU at first use and keeps the result in the user's cache folder.

Nothing needs it: without a compiler, or where anything goes wrong, there is one line in the log and
torch does the same work. Nobody else may write the folder, and a library in it is
named by all it was made from, so neither a stranger's nor another machine's code is ever loaded.
"""

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import stat
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

SWITCH = "FACESCALE_NATIVE"
"""Set to 0 in the environment, nothing is built or used."""

_FLAGS = (
    "-std=c++17",
    "-O3",
    "-march=native",
    "-ffp-contract=off",  # every operation rounded by itself, as torch's are
    "-fno-math-errno",  # sqrt as one instruction
    "-fno-trapping-math",  # choices as masks
    "-fPIC",
)
_BUILD_TIMEOUT_S = 120  # two seconds on an idle machine

logger = logging.getLogger(__name__)


class Library(ctypes.CDLL):
    """A library whose functions are looked up once: `library["name"]`."""

    def __getitem__(self, name: str) -> Any:
        found = self.__dict__.get(name)
        if found is None:
            found = self.__dict__[name] = super().__getitem__(name)
        return found


@dataclass(frozen=True, kw_only=True, eq=False)  # looked up by identity, at every call
class Native:
    """C++ sources with their headers, and the library they become."""

    name: str
    """What the library's file is called by, before its hash."""
    user: str
    """Who runs in torch alone where there is no library: the log's words."""
    sources: tuple[Path, ...]
    headers: tuple[Path, ...]

    def library(self) -> ctypes.CDLL | None:
        """The compiled library, or None where there is none; builds it in some seconds."""
        return None if os.environ.get(SWITCH) == "0" else _loaded(self)

    def version(self) -> str | None:
        """What the compiled library was made from, as a hash; None where there is none.

        Its results may differ from torch's, and from another compiler's, in their last bits.
        """
        code = self.library()
        return None if code is None else Path(code._name).stem.removeprefix(f"{self.name}-")

    def load(self) -> ctypes.CDLL | None:
        """Load the library from the cache folder, after building it if it is not there."""
        try:
            return Library(str(_built(self)))
        except (OSError, subprocess.SubprocessError) as error:
            reason = str(getattr(error, "stderr", None) or error).strip()
            logger.info("%s in torch alone: no native code, %s", self.user, reason)
            return None


_loaded = cache(Native.load)


def _built(native: Native) -> Path:
    compiler = shutil.which("g++")
    if sys.platform != "linux" or compiler is None:
        raise OSError("it takes g++ on Linux")
    threads = _openmp_of_torch()
    folder = _private_folder()
    path = folder / f"{native.name}-{_hash(native, Path(compiler), threads)}.so"
    if not path.exists():
        # Beside the target and renamed: other processes see a whole library or none.
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            compiled = [Path(scratch) / f"{source.stem}.o" for source in native.sources]
            for source, to in zip(native.sources, compiled, strict=True):
                _run(compiler, *_FLAGS, "-fopenmp", "-c", source, "-o", to)
            linked = Path(scratch) / "linked.so"
            # Without -fopenmp, which would name another copy of the thread library.
            _run(compiler, "-shared", *compiled, threads, "-o", linked)
            linked.chmod(0o700)
            linked.replace(path)
    return path


def _run(*command: str | Path) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=_BUILD_TIMEOUT_S)


def _hash(native: Native, compiler: Path, threads: Path) -> str:
    """A hash of all that the library is made from: source, flags, compiler, threads and CPU."""
    made_from = [
        *(file.read_text() for file in (*native.sources, *native.headers)),
        *_FLAGS,
        torch.__version__,
        _cpu(),
    ]
    for file in (compiler.resolve(), threads.resolve()):
        facts = file.stat()
        made_from += [str(file), str(facts.st_size), str(facts.st_mtime_ns)]
    return hashlib.sha256("\0".join(made_from).encode()).hexdigest()[:32]


def _cpu() -> str:
    """The model and features of the first core, which -march=native looks at."""
    lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    telling = ("vendor", "model", "stepping", "cpu family", "flags", "CPU", "Features")
    return platform.machine() + "".join(line for line in lines if line.startswith(telling))


def _openmp_of_torch() -> Path:
    """The thread library torch has loaded, so that both share one pool of threads."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    loaded = [Path(line.split(maxsplit=5)[-1]) for line in lines]
    found = [path for path in loaded if path.name.startswith(("libgomp", "libiomp5"))]
    if not found:
        raise OSError("torch has loaded no OpenMP library to share threads with")
    beside_torch = [path for path in found if Path(torch.__file__).parent in path.parents]
    return (beside_torch or found)[0]


def _private_folder() -> Path:
    """The cache folder, made for this user alone; refused where others could write it."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = base / "facescale"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    facts = folder.lstat()
    if (
        not stat.S_ISDIR(facts.st_mode)
        or facts.st_uid != os.geteuid()
        or facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    ):
        raise OSError(f"{folder} is not this user's alone; chmod 700 it, or set XDG_CACHE_HOME")
    return folder
