import numpy as np
import pytest

from data_pipeline.synthetic import draw
from trainer.evaluate.baselines import colour_histogram, pixel_correlation, whitened_pca
from trainer.evaluate.verification import fold_accuracy

SIZE = 32
PEOPLE, PICTURES = 60, 6


@pytest.fixture(scope="module")
def faces():
    """[people, pictures, size, size, 3], people 0..PEOPLE-1."""
    return np.array(
        [[draw(i, j, size=SIZE, seed=0) for j in range(PICTURES)] for i in range(PEOPLE)]
    )


def _patterns(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)


def _pairs(faces):
    """Each person with itself and with the next one; folds of whole neighbourhoods."""
    people, pictures = faces.shape[:2]
    first, second, same, fold = [], [], [], []
    for person in range(people):
        for k in range(pictures - 1):
            for other in (person, (person + 1) % people):
                first.append(faces[person, k])
                second.append(faces[other, k + 1])
                same.append(other == person)
                fold.append(person * 10 // people)
    return np.array(first), np.array(second), np.array(same), np.array(fold)


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
    with pytest.raises(ValueError, match="6 training faces do not fix 20 components"):
        whitened_pca(faces[0], dimensions=20)


def test_a_picture_scores_highest_with_itself(faces):
    training = faces[:40].reshape(-1, SIZE, SIZE, 3)
    first, second, _, _ = _pairs(faces[40:])
    for score in (pixel_correlation, colour_histogram, whitened_pca(training, dimensions=50)):
        np.testing.assert_allclose(score(first, first), 1.0, atol=1e-9)
        assert score(first, second).max() < 1.0


def test_blank_pictures_get_a_finite_score(faces):
    blank = np.full((1, SIZE, SIZE, 3), 255, np.uint8)
    pca = whitened_pca(faces.reshape(-1, SIZE, SIZE, 3), dimensions=20)
    for score in (pixel_correlation, colour_histogram, pca):
        assert np.isfinite(score(blank, faces[0, :1])).all()


def test_baselines_stay_low_on_synthetic_faces(faces):
    # The bounds that make the demo's accuracy mean something, on people the PCA was not fitted on.
    # Measured on 3,000 pairs at 48 pixels: 64 %, 57 % and 62 %; 200 to 600 pairs have a standard
    # error of 2 to 3.5 points.
    first, second, same, fold = _pairs(faces)
    assert fold_accuracy(pixel_correlation(first, second), same, fold).accuracy < 0.70
    assert fold_accuracy(colour_histogram(first, second), same, fold).accuracy < 0.70
    first, second, same, fold = _pairs(faces[40:])
    pca = whitened_pca(faces[:40].reshape(-1, SIZE, SIZE, 3))
    assert fold_accuracy(pca(first, second), same, fold).accuracy < 0.72
