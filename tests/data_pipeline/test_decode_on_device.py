"""The same graph on a card: pixels of a face alone, close to the CPU's, in memory of their own."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from data_pipeline.augment import Augmentation
from data_pipeline.decode import Decoder, UndecodableError
from data_pipeline.presets import PRESETS
from tests.data_pipeline.faces import jpeg

pytestmark = pytest.mark.gpu

SIDE = 112
FACES = [jpeg(seed, height=SIDE, width=SIDE) for seed in range(16)]


def decoder(augmentation: Augmentation, *, device: str = "cuda:0") -> Decoder:
    assert torch.cuda.is_available(), "make gpu-check needs a CUDA device"
    return Decoder(
        batch_size=len(FACES),
        image_size=SIDE,
        augmentation=augmentation,
        resizes=False,
        device=device,
        threads=2,
    )


def decoded(made: Decoder, augmentation: Augmentation, chosen: list[int]) -> torch.Tensor:
    sample = np.array(chosen)
    made.submit([FACES[i] for i in chosen], augmentation.parameters(np.ones_like(sample), sample))
    return made.collect()


@pytest.mark.parametrize("preset", PRESETS)
def test_pixels_do_not_depend_on_the_batch_and_are_close_to_the_cpus(preset):
    augmentation = replace(PRESETS[preset], seed=3)
    made = decoder(augmentation)
    together = decoded(made, augmentation, list(range(16)))
    for chosen in ([15, 0], [3], [8, 8, 2]):
        assert torch.equal(decoded(made, augmentation, chosen), together[chosen])
    cpu = decoded(decoder(augmentation, device="cpu"), augmentation, list(range(16)))
    # Other decoders, filters and encoders, each rounding to 8 bits: some levels of 127.5 where a
    # face was compressed or resized, and one on average.
    assert (together.cpu() - cpu).abs().mean() < 1 / 127.5


def test_batches_handed_out_are_never_written_again():
    flip = PRESETS["flip"]
    made = decoder(flip)
    kept = [decoded(made, flip, [(i + k) % 16 for k in range(16)]) for i in range(12)]
    copies = [image.clone() for image in kept]
    decoded(made, flip, [3] * 16)
    made.close()
    for image, copy in zip(kept, copies, strict=True):
        assert torch.equal(image, copy)


def test_an_undecodable_image_is_found_among_the_good_ones():
    strong = PRESETS["strong"]
    made = decoder(strong)
    sample = np.arange(4)
    parameters = strong.parameters(sample, sample)
    contents = [FACES[0], FACES[1][: len(FACES[1]) // 2], FACES[2], b"not an image"]
    made.submit(contents, parameters)
    with pytest.raises(UndecodableError):
        made.collect()
    assert 3 in made.undecodable(contents, parameters)  # some cards decode the cut one
