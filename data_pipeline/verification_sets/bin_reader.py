"""Read insightface's `.bin` verification set in a process of its own; leave plain files.

    python -I -S bin_reader.py SET FOLDER ALLOWANCE_BYTES CPU_SECONDS

Writes FOLDER/images (encoded images, one after the other), FOLDER/sizes (uint64 each) and
FOLDER/same (one byte a pair). Prints one JSON object: {"images", "pairs"} or {"error"}. The set is
a pickle of a stranger, so nothing of its naming is ever imported: the few functions that arrays of
bytes are made with are replaced by the classes below, everything else is refused, and the process
may neither take more memory, disk or time than it was given nor start another. It needs the
standard library alone, and imports nothing of this package.
"""

import io
import json
import pickle
import resource
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

MAX_IMAGES = 1 << 24


class Dtype:
    """Stands in for `numpy.dtype`: only its name."""

    def __init__(self, name: object = "", *_: object) -> None:
        self.name = name.decode("ascii") if isinstance(name, bytes) else name

    def __setstate__(self, state: object) -> None:
        """Byte order and the like, which bytes and flags do not have."""


class Array:
    """Stands in for `numpy.ndarray`: shape, kind and bytes, in rows."""

    shape: tuple[Any, ...] = ()
    dtype: object = None
    content: object = b""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """(version, shape, dtype, whether columns come first, bytes), as numpy leaves it."""
        _, shape, dtype, by_columns, content = state
        if by_columns:
            raise ValueError("an array in the order of columns")
        self.shape, self.dtype, self.content = shape, dtype, content


class Flag:
    """Stands in for a number of `numpy.bool_`."""

    def __init__(self, dtype: object, content: bytes) -> None:
        self.value = _item(dtype) and _bytes(content) == b"\x01"


class Nothing:
    """Stands in for what is only named: the types that the makers of arrays are given."""


def array_made_empty(*_: object) -> Array:
    """Stands in for numpy's `_reconstruct`: the content follows."""
    return Array()


def array_from_buffer(content: object, dtype: object, shape: Any, order: object) -> Array:
    """Stands in for numpy's `_frombuffer`, which pickles of protocol 5 hold."""
    array = Array()
    array.__setstate__((1, shape, dtype, order not in ("C", b"C"), content))
    return array


def bytes_from_text(text: str, encoding: str = "latin1") -> bytes:
    """Stands in for `_codecs.encode`, with which Python 3 writes bytes for Python 2."""
    if encoding != "latin1":
        raise ValueError(f"bytes written as {encoding}")
    return text.encode("latin1")


def no_bytes() -> bytes:
    """Stands in for `bytes()`, with which Python 3 writes empty bytes for Python 2."""
    return b""


def _byte_array(content: object = b"", *encoding: str) -> bytes:
    if isinstance(content, str):
        return bytes_from_text(content, *encoding)
    return _bytes(content)


ALLOWED: dict[str, Callable[..., object]] = {
    "numpy dtype": Dtype,
    "numpy ndarray": Nothing,
    "_codecs encode": bytes_from_text,
    "__builtin__ bytes": no_bytes,
    "builtins bytes": no_bytes,
    "__builtin__ bytearray": _byte_array,
    "builtins bytearray": _byte_array,
    **{
        f"{package}.{module}": stand_in
        for package in ("numpy.core", "numpy._core")
        for module, stand_in in (
            ("multiarray _reconstruct", array_made_empty),
            ("multiarray scalar", Flag),
            ("numeric _frombuffer", array_from_buffer),
        )
    },
}


class Unpickler(pickle.Unpickler):
    """Makes containers, numbers, text, bytes and the stand-ins above, nothing else."""

    def find_class(self, module: str, name: str) -> Callable[..., object]:
        """The stand-in for a name, which is never looked up."""
        try:
            return ALLOWED[f"{module} {name}"]
        except KeyError:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is not let in") from None


def answer(file: Path, folder: Path) -> dict[str, Any]:
    """Write what the set holds; say what was written or what is wrong."""
    try:
        with file.open("rb") as stream:
            loaded = Unpickler(stream, encoding="bytes").load()
        return _write(loaded, folder)
    except (MemoryError, RecursionError):
        return {"error": "it needs more memory than its size allows"}
    except Exception as error:
        # Whatever a stranger's file does to the unpickler is that file's fault: one line of it.
        lines = str(error).strip().splitlines() or [""]
        return {"error": f"{type(error).__name__}: {lines[0][:300]}"}


def _write(loaded: object, folder: Path) -> dict[str, Any]:
    if not isinstance(loaded, list | tuple) or len(loaded) != 2:
        raise ValueError("it is not a pair of images and flags")
    images, flags = loaded
    if not isinstance(images, list | tuple):
        raise ValueError("its images are not a list")
    same = _flags(flags)
    if len(images) > MAX_IMAGES or len(images) != 2 * len(same):
        raise ValueError(f"it holds {len(images)} images for {len(same)} pairs")
    with (folder / "images").open("wb") as content, (folder / "sizes").open("wb") as sizes:
        for image in images:
            sizes.write(struct.pack("<Q", content.write(_encoded(image))))
    (folder / "same").write_bytes(same)
    return {"images": len(images), "pairs": len(same)}


def _encoded(image: object) -> bytes:
    """The bytes of an image file; pixels, height x width x 3, become one in PPM."""
    if not isinstance(image, Array):
        return _bytes(image)
    content = _bytes(image.content)
    size = 1
    for length in image.shape:
        if type(length) is not int or length < 0:
            raise ValueError("an array whose shape is no shape")
        size *= length
    if not isinstance(image.dtype, Dtype) or image.dtype.name != "u1" or size != len(content):
        raise ValueError("an image that is no array of bytes")
    if len(image.shape) == 3 and image.shape[2] == 3:
        return b"P6 %d %d 255\n" % (image.shape[1], image.shape[0]) + content
    if size in image.shape:  # all along one axis
        return content
    raise ValueError(f"an image of shape {list(image.shape)[:8]}")


def _flags(flags: object) -> bytes:
    """One byte a pair, 0 or 1."""
    if isinstance(flags, Array):
        content = _bytes(flags.content)
        if not _item(flags.dtype) or len(flags.shape) != 1 or not set(content) <= {0, 1}:
            raise ValueError("flags that are no array of yes and no")
        return content
    if not isinstance(flags, list | tuple):
        raise ValueError("its flags are not a list")
    stream = io.BytesIO()
    for flag in flags:
        value = flag.value if isinstance(flag, Flag) else flag
        if type(value) not in (bool, int) or value not in (0, 1):
            raise ValueError("a flag that is neither yes nor no")
        stream.write(bytes([value]))
    return stream.getvalue()


def _item(dtype: object) -> bool:
    """Whether one is a flag; raises where it is anything else."""
    if not isinstance(dtype, Dtype) or dtype.name != "b1":
        raise ValueError("a number of a kind that is not let in")
    return True


def _bytes(content: object) -> bytes:
    if isinstance(content, bytes | bytearray):
        return bytes(content)
    raise ValueError("something else where bytes belong")


def limit(*, allowance_bytes: int, cpu_seconds: int) -> None:
    """What is mapped by now and an allowance, which a file may have too; no new process."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = {
        resource.RLIMIT_AS: used + allowance_bytes,
        resource.RLIMIT_FSIZE: allowance_bytes,
        resource.RLIMIT_CPU: cpu_seconds,
        resource.RLIMIT_NPROC: 0,
        resource.RLIMIT_CORE: 0,
    }
    for name, value in limits.items():
        resource.setrlimit(name, (value, value))


def _main(file: str, folder: str, allowance_bytes: str, cpu_seconds: str) -> None:
    limit(allowance_bytes=int(allowance_bytes), cpu_seconds=int(cpu_seconds))
    json.dump(answer(Path(file), Path(folder)), sys.stdout)


if __name__ == "__main__":
    _main(*sys.argv[1:])
