"""Networks that turn a face into an embedding: float [B, 3, H, W] in [-1, 1] to [B, embedding_dim].

Embeddings are not normalised: the head and verification do that.
"""

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING

from trainer.backbones import table

if TYPE_CHECKING:
    import torch

    from trainer.backbones.replace import Rule


def build(
    name: str,
    *,
    embedding_dim: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    rules: "Sequence[Rule]" = (),
) -> "torch.nn.Module":
    """The network called `name` in the table, with first weights from torch's default generator.

    What is None is as in the paper. `image_size` is one side or (height, width). `rules` say which
    convolutions become other layers.
    """
    chosen = table.row(name)
    shape = table.image_shape(chosen.image_size if image_size is None else image_size)
    module, builder = chosen.builder.split(":")
    network = getattr(import_module(module), builder)(
        **chosen.arguments,
        embedding_dim=chosen.embedding_dim if embedding_dim is None else embedding_dim,
        image_size=shape,
    )
    if rules:
        from trainer.backbones.replace import replace

        replace(network, rules, image_size=shape)
    return network
