import numpy as np
import pytest

from data_pipeline.long_tail import drawing_share, effective_number, loss_weight

IMAGES = np.array([1, 2, 10, 500])


def test_effective_numbers_are_the_papers_sum():
    """(1 - beta^n) / (1 - beta) is the sum of the first n powers of beta, equation 2."""
    for beta in (0.5, 0.9, 0.999):
        expected = [sum(beta**i for i in range(n)) for n in IMAGES.tolist()]
        # The sum of 500 float64 numbers, each right to 500 x 2^-53, is right to about 1e-12.
        assert effective_number(IMAGES, beta=beta) == pytest.approx(expected, rel=1e-11)


def test_effective_numbers_reach_their_limits():
    assert effective_number(IMAGES, beta=0.0).tolist() == [1, 1, 1, 1]
    assert effective_number(IMAGES, beta=1.0).tolist() == IMAGES.tolist()
    # beta^n = 1 - n (1 - beta) + ..., so E differs from n by n^2 (1 - beta) / 2, here 1e-7
    assert effective_number(IMAGES, beta=1 - 1e-12) == pytest.approx(IMAGES, abs=1e-6)


def test_drawing_goes_from_images_alike_to_people_alike():
    assert drawing_share(IMAGES, beta=0.0).tolist() == IMAGES.tolist()
    assert drawing_share(IMAGES, beta=1.0).tolist() == [1, 1, 1, 1]
    some = drawing_share(IMAGES, beta=0.99)
    assert (np.diff(some) > 0).all()
    assert (np.diff(some / IMAGES) < 0).all()


def test_people_without_images_are_never_drawn():
    for beta in (0.0, 0.9, 1.0):
        assert drawing_share(np.array([3, 0]), beta=beta)[1] == 0


@pytest.mark.parametrize("beta", [0.0, 0.9, 1.0])
def test_weights_of_the_loss_have_mean_one_over_samples(beta):
    weight = loss_weight(IMAGES, beta=beta)
    assert (weight * IMAGES).sum() == pytest.approx(IMAGES.sum(), rel=1e-12)  # rounding of a sum
    ratio = weight * effective_number(IMAGES, beta=beta)
    assert ratio == pytest.approx(np.full(4, ratio[0]), rel=1e-12)


@pytest.mark.parametrize("beta", [-0.1, 1.1, np.nan])
def test_a_beta_out_of_range_is_refused(beta):
    with pytest.raises(ValueError, match=r"it must be in \[0, 1\]"):
        effective_number(IMAGES, beta=beta)
