import numpy as np
import pytest

from data_pipeline.pairs import pack_drawn_pairs
from data_pipeline.synthetic import SyntheticSource, draw, synthesize
from trainer.errors import RunError
from trainer.evaluate.baselines import (
    colour_histogram,
    pixel_correlation,
    score_baselines,
    whitened_pca,
)

SIZE = 32
PEOPLE, PICTURES = 20, 6


@pytest.fixture(scope="module")
def faces():
    """[people, pictures, size, size, 3], people 0..PEOPLE-1."""
    return np.array(
        [[draw(i, j, size=SIZE, seed=0) for j in range(PICTURES)] for i in range(PEOPLE)]
    )


def _patterns(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)


def test_correlation_is_numpy_s_of_the_grey_pixels_and_ignores_brightness():
    first, second = _patterns(5), _patterns(5, seed=1)
    luma = np.array([0.299, 0.587, 0.114])
    expected = [
        np.corrcoef((a @ luma).ravel(), (b @ luma).ravel())[0, 1]
        for a, b in zip(first, second, strict=True)
    ]
    # Against numpy's own, in the same float64; only the order of sums differs.
    np.testing.assert_allclose(pixel_correlation(first, second), expected, atol=1e-12)
    darker = (first // 4 * 2).astype(np.uint8)
    np.testing.assert_allclose(
        pixel_correlation(first // 4 * 4, darker), 1.0, atol=1e-12
    )  # exactly half as bright


def test_histograms_ignore_where_a_colour_is_and_see_which_it_is():
    faces = _patterns(4)
    shuffled = faces.reshape(4, -1, 3)[:, ::-1].reshape(faces.shape)
    np.testing.assert_allclose(colour_histogram(faces, shuffled), 1.0, atol=1e-12)
    red, blue = np.zeros((1, 8, 8, 3), np.uint8), np.zeros((1, 8, 8, 3), np.uint8)
    red[..., 0], blue[..., 2] = 200, 200
    assert colour_histogram(red, blue).tolist() == [0.0]
    half = red.copy()
    half[:, :4] = blue[:, :4]
    # Half the mass in common with a full bin: sqrt(1/2 * 1).
    np.testing.assert_allclose(colour_histogram(red, half), [np.sqrt(0.5)], atol=1e-12)


def test_whitening_gives_uncorrelated_coordinates_of_unit_variance(faces):
    training = faces.reshape(-1, SIZE, SIZE, 3)
    pca = whitened_pca(training, dimensions=20)
    rows = pca.embed(training)
    # The covariance of what it was fitted on is the identity but for rounding: float64, condition
    # number of the 20 leading components below 1e4.
    np.testing.assert_allclose(rows.T @ rows / len(rows), np.eye(20), atol=1e-8)
    np.testing.assert_allclose(rows.mean(0), 0, atol=1e-8)


def test_whitened_pca_of_few_faces_is_refused(faces):
    with pytest.raises(RunError, match="6 training faces do not fix 20 components"):
        whitened_pca(faces[0], dimensions=20)


def test_a_picture_scores_highest_with_itself(faces):
    first, second = faces[:, 0], faces[:, 1]
    pca = whitened_pca(faces.reshape(-1, SIZE, SIZE, 3), dimensions=50)
    for score in (pixel_correlation, colour_histogram, pca):
        np.testing.assert_allclose(score(first, first), 1.0, atol=1e-9)
        assert score(first, second).max() < 1.0


def test_blank_pictures_get_a_finite_score(faces):
    blank = np.full((1, SIZE, SIZE, 3), 255, np.uint8)
    pca = whitened_pca(faces.reshape(-1, SIZE, SIZE, 3), dimensions=20)
    for score in (pixel_correlation, colour_histogram, pca):
        assert np.isfinite(score(blank, faces[0, :1])).all()


def test_baselines_stay_low_on_synthetic_faces(tmp_path):
    # The bounds that make the demo's accuracy mean something, on people the PCA was not fitted on.
    # Measured on 3,000 pairs of 150 people at 48 pixels: 66 %, 59 % and 61 %; the 400 here have a
    # standard error of 2.5 points.
    training = synthesize(tmp_path / "training", identities=50, images=6, size=SIZE)
    unseen = SyntheticSource(identities=60, images=6, size=SIZE, seed=0, first_identity=50)
    pairs = pack_drawn_pairs(unseen, tmp_path / "pairs", num_pairs=400, seed=0)
    accuracies = {name: found.accuracy for name, found in score_baselines(pairs, training).items()}
    assert accuracies.keys() == {"pixel_correlation", "colour_histogram", "whitened_pca"}
    assert accuracies["pixel_correlation"] < 0.70
    assert accuracies["colour_histogram"] < 0.70
    assert accuracies["whitened_pca"] < 0.72
