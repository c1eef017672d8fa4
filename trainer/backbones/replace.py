"""Other layers in place of a network's convolutions, by rules: which, in which stages, by what.

Every backbone names its parts alike: stage n, the child `stage<n>`, ends in a map of a 2^n-th of
the image's sides, and stage 0 is the child `stem`. A stage's children are its blocks.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from trainer.backbones.count import without_replaced
from trainer.backbones.replacements import REPLACEMENTS, Site
from trainer.errors import RunError
from trainer.layers.squeeze_excite import SqueezeExcite

SHORTCUT = "shortcut"
"""What blocks call the branch that only brings their input to their output's shape."""
STAGES = range(5)


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Convolutions of a kind, in some stages, become layers of another kind."""

    what: Literal["pointwise", "depthwise"]
    """1x1 convolutions but those of shortcuts and squeeze-and-excitation; or depthwise ones."""
    stages: tuple[int, ...]
    kind: str
    """A name in `REPLACEMENTS`."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """For that replacement."""


def replace(
    network: nn.Module, rules: Sequence[Rule], *, image_size: tuple[int, int]
) -> list[list[str]]:
    """Apply the rules in turn, in place; the names of the convolutions that each one replaced.

    New layers draw their own first weights from torch's default generator.

    Raises:
        RunError: a rule names a stage that is not there, or finds no convolution.
    """
    if not rules:
        return []
    sizes = _map_sizes(network, image_size)
    done = []
    for rule in rules:
        sites = _find(network, rule, sizes)
        for block in dict.fromkeys(site.block for site in sites):
            of_block = [site for site in sites if site.block == block]
            made = REPLACEMENTS[rule.kind](of_block, **rule.options)
            for site, layer in zip(of_block, made, strict=True):
                parent, _, last = site.name.rpartition(".")
                setattr(network.get_submodule(parent), last, layer)
        done.append([site.name for site in sites])
    return done


def _find(network: nn.Module, rule: Rule, sizes: Mapping[str, tuple[int, int]]) -> list[Site]:
    children = dict(network.named_children())
    named = {stage: "stem" if stage == 0 else f"stage{stage}" for stage in STAGES}
    there = [stage for stage in STAGES if named[stage] in children]
    sites = []
    for stage in sorted(set(rule.stages)):
        if stage not in there:
            raise RunError(
                f"the backbone has no stage {stage} to replace {rule.what} convolutions in; "
                f"its stages are {', '.join(map(str, there)) or 'none'}"
            )
        for name, layer in _convolutions(children[named[stage]], named[stage], rule.what):
            block = ".".join(name.split(".")[:2])
            sites.append(Site(name=name, block=block, layer=layer, map_size=sizes[name]))
    if not sites:
        raise RunError(
            f"there are no {rule.what} convolutions in stages "
            f"{', '.join(map(str, sorted(set(rule.stages))))} of this backbone to replace"
        )
    return sites


def _convolutions(part: nn.Module, name: str, what: str) -> Iterator[tuple[str, nn.Conv2d]]:
    """The convolutions of a kind inside `part`, which is called `name`, in its order."""
    if isinstance(part, nn.Conv2d):
        pointwise = part.kernel_size == (1, 1) and part.groups == 1
        depthwise = part.kernel_size != (1, 1) and (
            part.groups == part.in_channels == part.out_channels
        )
        if pointwise if what == "pointwise" else depthwise:
            yield name, part
    for child, inside in part.named_children():
        spared = child == SHORTCUT or isinstance(inside, SqueezeExcite)
        if not (spared and what == "pointwise"):
            yield from _convolutions(inside, f"{name}.{child}", what)


def _map_sizes(network: nn.Module, image_size: tuple[int, int]) -> dict[str, tuple[int, int]]:
    """Height and width of every convolution's output for images of this size."""
    shadow = without_replaced(network)
    sizes: dict[str, tuple[int, int]] = {}
    for name, layer in shadow.named_modules():
        if isinstance(layer, nn.Conv2d):

            def note(_layer: nn.Module, _inputs: Any, output: Tensor, name: str = name) -> None:
                sizes[name] = (output.shape[2], output.shape[3])

            layer.register_forward_hook(note)
    with torch.no_grad():
        shadow(torch.empty(1, 3, *image_size, device="meta"))
    return sizes
