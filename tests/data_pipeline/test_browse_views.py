"""A view is the face of a training batch, and the words beside it say what was done to it."""

from dataclasses import replace

import numpy as np
import pytest

from data_pipeline.augment import Augmentation
from data_pipeline.browse_changes import changes, parameters_of
from data_pipeline.browse_views import Views
from data_pipeline.decode import UndecodableError
from data_pipeline.errors import DataError
from data_pipeline.loader import Loader
from data_pipeline.plan import Plan
from data_pipeline.presets import PRESETS
from data_pipeline.shards import BadSampleError
from tests.data_pipeline.faces import dataset_of, jpeg

SEED = 7
SAMPLES = 12


@pytest.mark.parametrize("preset", ["none", "adaface", "strong"])
@pytest.mark.parametrize("image_size", [32, 24])
def test_a_view_is_the_face_that_a_run_with_the_preset_and_seed_gets(tmp_path, preset, image_size):
    made = dataset_of(tmp_path / "faces", [jpeg(s) for s in range(SAMPLES)], [0] * SAMPLES)
    plan = Plan(made.shard_sizes, micro_batches=1, micro_batch_size=SAMPLES, seed=1)
    augmentation = replace(PRESETS[preset], seed=SEED)
    rank = {"device": "cpu", "threads": 1, "quarantine": {}, "bad_sample_budget": 0}
    loader = Loader(made, plan, range(1), image_size=image_size, augmentation=augmentation, **rank)
    views = Views(made, image_size=image_size)
    try:
        for epoch, step in zip(range(2), loader, strict=False):
            (batch,) = step.batches
            for image, sample in zip(batch.image, batch.sample.tolist(), strict=True):
                seen = views.view(sample, preset=preset, epoch=epoch, seed=SEED)
                # both come from the same 8-bit levels; recoloured ones are rounded to one
                level = (image.permute(1, 2, 0).numpy() + 1) * 127.5
                assert np.abs(np.clip(level, 0, 255) - seen).max() <= 0.5 + 1e-3
    finally:
        views.close()
        loader.close()


def test_what_cannot_be_decoded_raises_and_spoils_nothing_after_it(tmp_path):
    contents = [jpeg(0), b"no image", jpeg(1)]
    views = Views(dataset_of(tmp_path / "faces", contents, [0, 0, 0]), image_size=32)
    before = views.view(0, preset="none", epoch=0, seed=0)
    with pytest.raises((BadSampleError, DataError, UndecodableError)):
        views.view(1, preset="none", epoch=0, seed=0)
    assert np.array_equal(views.view(0, preset="none", epoch=0, seed=0), before)
    views.close()


def test_words_say_what_is_done_and_nothing_else():
    always = Augmentation(
        crop=0.5, occlusion=1.0, low_resolution=1.0, blur=1.0, jpeg=1.0, brightness=0.5, flip=1.0
    )
    parameters = always.parameters(np.array([0]), np.array([3]))
    words = changes(parameters)
    assert words == [
        f"{(parameters.window_stop - parameters.window_start)[0, 0]:.0%} of each side",
        "partly covered",
        f"{parameters.shrunk_side[0]:.0%} resolution",
        f"blurred by {parameters.blur_sigma[0]:.1f} px",
        f"JPEG quality {parameters.jpeg_quality[0]}",
        f"brightness {round(100 * (float(parameters.brightness[0]) - 1)):+d}%",
        "mirrored",
    ]
    assert changes(parameters_of(5, preset="none", epoch=0, seed=0)) == []


def test_grey_faces_are_called_so_and_their_hue_is_left_out():
    grey = Augmentation(grey=1.0, hue_deg=90.0).parameters(np.array([0]), np.array([1]))
    assert changes(grey) == ["grey"]


def test_every_preset_changes_some_face_in_some_epoch_but_none():
    for preset in PRESETS:
        epochs = np.arange(40)
        parameters = PRESETS[preset].parameters(epochs, np.zeros_like(epochs))
        said = {word for row in range(40) for word in changes(parameters.row(row))}
        assert bool(said) == (preset != "none"), preset
        assert ("mirrored" in said) == (PRESETS[preset].flip > 0)
