"""Faces as the network sees them: through training's own decoder and augmentation.

A view depends on (preset, seed, epoch, sample) alone, as a face of a training batch does, so it is
that face to the last level of 255.
"""

import numpy as np
from jaxtyping import UInt8

from data_pipeline.browse_changes import parameters_of
from data_pipeline.browse_images import Pictures
from data_pipeline.decode import Decoder
from data_pipeline.index import Dataset
from data_pipeline.presets import PRESETS


class Views:
    """The views of a dataset's faces, one at a time; not to be used from several threads."""

    def __init__(self, dataset: Dataset, *, image_size: int) -> None:
        """Views of this height and width; a preset's decoder is made when first used."""
        self._pictures = Pictures(dataset)
        self._image_size = image_size
        self._resizes = dataset.image_size != (image_size, image_size)
        self._decoders: dict[str, Decoder] = {}

    def view(
        self, sample: int, *, preset: str, epoch: int, seed: int
    ) -> UInt8[np.ndarray, "height width 3"]:
        """A face as an epoch of a run with this preset and seed shows it.

        Colours that step over black or white are cut off here, and nowhere else.

        Raises:
            BadSampleError, DataError: as `Pictures.encoded`.
            UndecodableError: DALI cannot decode it.
        """
        content = self._pictures.encoded(sample)
        decoder = self._decoder(preset)
        decoder.submit([content], parameters_of(sample, preset=preset, epoch=epoch, seed=seed))
        image = decoder.collect()[0].permute(1, 2, 0).numpy()
        return np.clip(np.rint(image * 127.5 + 127.5), 0, 255).astype(np.uint8)

    def close(self) -> None:
        """Close the files and stop DALI's threads."""
        self._pictures.close()
        for decoder in self._decoders.values():
            decoder.close()

    def _decoder(self, preset: str) -> Decoder:
        if preset not in self._decoders:
            self._decoders[preset] = Decoder(
                batch_size=1,
                image_size=self._image_size,
                augmentation=PRESETS[preset],
                resizes=self._resizes,
                device="cpu",
                threads=1,
            )
        return self._decoders[preset]
