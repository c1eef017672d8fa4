"""A picture of the regions that a network's guides see in faces, as PNG."""

import io
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw
from torch import Tensor, nn

from trainer.layers.drconv.usage import Usage, watching

SIDE = 112  # pixels of a face
GAP = 12
TEXT = 15  # pixels of a line
INK, PAPER = (40, 40, 40), (255, 255, 255)
# Okabe and Ito's eight, which people of any colour vision tell apart; more regions start anew.
COLOURS = np.array(
    [
        *[(230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66)],
        *[(0, 114, 178), (213, 94, 0), (204, 121, 167), (90, 90, 90)],
    ]
)
OPACITY = 0.6


@torch.no_grad()
def region_picture(
    network: nn.Module, faces: Float[Tensor, "faces 3 height width"], path: Path
) -> None:
    """Write a row a layer: its regions over each face, their shares and how even these are.

    `faces` are pixels as the network is given them, from -1 to 1; it runs as for evaluation.

    Raises:
        ValueError: the network has no DRConv layer.
    """
    training = network.training
    with watching(network.eval()) as usages:
        network(faces)
    network.train(training)
    seen = {name: usage for name, usage in usages.items() if usage.last is not None}
    if not seen:
        raise ValueError("the network has no DRConv2d; replace some convolutions first")
    width = GAP + max(len(faces), 4) * (SIDE + GAP)
    row_height = SIDE + 2 * TEXT + GAP
    page = Image.new("RGB", (width, 2 * GAP + SIDE + len(seen) * row_height), PAPER)
    originals = [_face(face) for face in faces]
    for column, face in enumerate(originals):
        page.paste(face, (GAP + column * (SIDE + GAP), GAP))
    for row, (name, usage) in enumerate(seen.items()):
        top = 2 * GAP + SIDE + row * row_height
        _draw(page, originals, name or "the layer", usage, top=top)
    stream = io.BytesIO()
    page.save(stream, "PNG", optimize=True)
    path.write_bytes(stream.getvalue())


def _draw(
    page: Image.Image, faces: list[Image.Image], name: str, usage: Usage, *, top: int
) -> None:
    draw = ImageDraw.Draw(page)
    assert usage.last is not None
    height, width = usage.last.shape[1:]
    title = f"{name}: {usage.regions} regions, {height} x {width}, evenness {usage.entropy():.2f}"
    draw.text((GAP, top), title, INK)
    at = GAP
    for region, share in enumerate(usage.share().tolist()):
        colour = tuple(COLOURS[region % len(COLOURS)].tolist())
        draw.rectangle((at, top + TEXT + 2, at + 9, top + TEXT + 11), colour)
        text = f"{share:.0%}"
        draw.text((at + 13, top + TEXT), text, INK)
        at += 22 + round(draw.textlength(text))
    for column, (face, mask) in enumerate(zip(faces, usage.last.cpu(), strict=True)):
        page.paste(_over(face, mask), (GAP + column * (SIDE + GAP), top + 2 * TEXT))


def _face(pixels: Float[Tensor, "3 height width"]) -> Image.Image:
    bytes_ = (pixels * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8)
    image = Image.fromarray(bytes_.permute(1, 2, 0).cpu().numpy())
    return image.resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def _over(face: Image.Image, mask: UInt8[Tensor, "h w"]) -> Image.Image:
    """The face in grey under its regions' colours."""
    colours = Image.fromarray(COLOURS[mask.numpy() % len(COLOURS)].astype(np.uint8))
    grey = face.convert("L").convert("RGB")
    return Image.blend(grey, colours.resize((SIDE, SIDE), Image.Resampling.NEAREST), OPACITY)
