"""Verification without learning an identity: what a network has to beat for its figure to count.

Each baseline scores pairs of pictures, higher for more alike; `verification.fold_accuracy` then
chooses thresholds as it does for a network. If one of these does well, identity can be read off
colours or aligned pixels, and a network's accuracy says little about faces.
"""

import io
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64, UInt8
from PIL import Image

from data_pipeline.index import Dataset
from data_pipeline.pairs import PairSet
from data_pipeline.shards import BadSampleError, ShardReader
from trainer.errors import RunError
from trainer.evaluate.verification import FoldAccuracy, fold_accuracy

BINS = 8  # a channel; 8 x 8 x 8 colours
PCA_SIZE = 45  # pixels a side
PCA_DIMENSIONS = 200
PCA_FACES = 10_000  # fitted on at most so many, evenly spaced; 2,025 pixels need no more
OPEN_SHARDS = 8

Faces = UInt8[np.ndarray, "faces height width 3"]
Scores = Float64[np.ndarray, " pairs"]


def score_baselines(pairs: PairSet, training: Dataset) -> dict[str, FoldAccuracy]:
    """All three on a verification set, by the folds of its pairs; the PCA is fitted on `training`.

    Raises:
        RunError: an image cannot be read, or images of one set differ in size.
    """
    used, place = np.unique(np.concatenate((pairs.first, pairs.second)), return_inverse=True)
    faces = _read(pairs.dataset, used)
    first, second = (faces[half] for half in np.split(place, 2))
    step = -(-training.num_samples // PCA_FACES)
    pca = whitened_pca(_read(training, np.arange(0, training.num_samples, step)))
    scores = {
        "pixel_correlation": pixel_correlation(first, second),
        "colour_histogram": colour_histogram(first, second),
        "whitened_pca": pca(first, second),
    }
    return {name: fold_accuracy(score, pairs.same, pairs.fold) for name, score in scores.items()}


def pixel_correlation(first: Faces, second: Faces) -> Scores:
    """Pearson's correlation of the grey values of aligned pixels."""
    return _cosine(_standard(grey(first)), _standard(grey(second)))


def colour_histogram(first: Faces, second: Faces) -> Scores:
    """How much the joint colour histograms overlap, by the Bhattacharyya coefficient in [0, 1]."""
    return (np.sqrt(_histogram(first)) * np.sqrt(_histogram(second))).sum(1)


@dataclass(frozen=True, kw_only=True)
class WhitenedPca:
    """Principal components of small grey faces, each scaled to unit variance (eigenfaces)."""

    mean: Float64[np.ndarray, " pixels"]
    projection: Float64[np.ndarray, "pixels dimensions"]

    def __call__(self, first: Faces, second: Faces) -> Scores:
        """Cosine of the two faces' coordinates."""
        return _cosine(self.embed(first), self.embed(second))

    def embed(self, faces: Faces) -> Float64[np.ndarray, "faces dimensions"]:
        """Coordinates of faces."""
        return (_small(faces) - self.mean) @ self.projection


def whitened_pca(training: Faces, *, dimensions: int = PCA_DIMENSIONS) -> WhitenedPca:
    """Fit on training faces; no pair that is scored may be among them."""
    rows = _small(training)
    if len(rows) <= dimensions:
        raise RunError(
            f"{len(rows)} training faces do not fix {dimensions} components; give more than that"
        )
    mean = rows.mean(0)
    rows -= mean
    variance, vectors = np.linalg.eigh(rows.T @ rows / len(rows))
    kept = slice(-dimensions, None)
    return WhitenedPca(mean=mean, projection=vectors[:, kept] / np.sqrt(variance[kept]))


def _read(dataset: Dataset, samples: Int64[np.ndarray, " faces"]) -> Faces:
    if dataset.image_size is None:
        raise RunError(f"{dataset.path} has images of several sizes; pixels need one to be aligned")
    reader = ShardReader(dataset, max_open=OPEN_SHARDS)
    faces = np.empty((len(samples), *dataset.image_size, 3), np.uint8)
    try:
        for face, sample in zip(faces, samples.tolist(), strict=True):
            with Image.open(io.BytesIO(reader.read(sample).content)) as image:
                face[...] = np.asarray(image.convert("RGB"))
    except BadSampleError as error:
        raise RunError(f"{reader.where(error.sample)} cannot be read: {error.reason}") from error
    finally:
        reader.close()
    return faces


def grey(faces: Faces) -> Float64[np.ndarray, "faces height width"]:
    """Luma by ITU-R BT.601, as in JPEG."""
    return faces @ np.array([0.299, 0.587, 0.114])


def _small(faces: Faces) -> np.ndarray:
    size = (PCA_SIZE, PCA_SIZE)
    return _standard(
        np.stack(
            [
                np.asarray(Image.fromarray(face).convert("L").resize(size, Image.Resampling.BOX))
                for face in faces
            ]
        ).astype(np.float64)
    )


def _standard(images: np.ndarray) -> np.ndarray:
    rows = images.reshape(len(images), -1)
    rows = rows - rows.mean(1, keepdims=True)
    return rows / np.maximum(rows.std(1, keepdims=True), 1e-6)  # a blank picture stays at zero


def _cosine(first: np.ndarray, second: np.ndarray) -> Scores:
    norm = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return (first * second).sum(1) / np.maximum(norm, 1e-12)


def _histogram(faces: Faces) -> Float64[np.ndarray, "faces colours"]:
    level = faces.reshape(len(faces), -1, 3).astype(np.int64) * BINS // 256
    colour = (level[:, :, 0] * BINS + level[:, :, 1]) * BINS + level[:, :, 2]
    colour += np.arange(len(faces))[:, None] * BINS**3
    counts = np.bincount(colour.ravel(), minlength=len(faces) * BINS**3)
    return counts.reshape(len(faces), -1) / colour.shape[1]
