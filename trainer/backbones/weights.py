"""A network's weights in one safetensors file: a checkpoint's backbone, or imported ones."""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from trainer.errors import RunError


def load_weights(network: nn.Module, path: Path) -> None:
    """Take over all weights and running statistics of a file.

    Raises:
        RunError: there is no such file, or it is of another network.
    """
    try:
        tensors = load_file(path)
    except FileNotFoundError:
        raise RunError(f"{path}: there is no such file of weights") from None
    except (OSError, SafetensorError) as error:
        raise RunError(f"{path} is no whole safetensors file: {_one_line(error)}") from None
    wanted = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    compare(found, wanted, source=path)
    network.load_state_dict(tensors)


def compare(
    found: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]], *, source: Path
) -> None:
    """Refuse names or shapes other than those wanted, in one line.

    Raises:
        RunError: they differ.
    """
    missing, unknown = wanted.keys() - found.keys(), found.keys() - wanted.keys()
    if missing or unknown:
        raise RunError(
            f"{source} is of another network: missing {_few(missing)}, not known {_few(unknown)}"
        )
    for name, shape in wanted.items():
        if found[name] != shape:
            raise RunError(
                f"{source} is of another network: {name} has shape {list(found[name])}, not"
                f" {list(shape)}; use its backbone, embedding_dim and image size"
            )


def metadata(
    *, name: str, embedding_dim: int, image_size: tuple[int, int], source: str
) -> dict[str, str]:
    """What a file of weights says of itself."""
    return {
        "backbone": name,
        "embedding_dim": str(embedding_dim),
        "image_size": f"{image_size[0]}x{image_size[1]}",
        "pixels": "(x - 127.5) / 127.5, RGB",
        "source": source,
    }


def _few(names: set[str]) -> str:
    printable = sorted(ascii(name)[1:-1][:80] for name in names)
    return ", ".join(printable[:3]) + (", ..." if len(names) > 3 else "") if names else "none"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
