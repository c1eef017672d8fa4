"""What sampling does to the sum a loss is made of: nothing in the mean, where it is corrected."""

import math
from itertools import combinations

import pytest
import torch

from sharded_fc import ShardedHead
from sharded_fc.margins import ArcFace, CurricularFace
from sharded_fc.sampling import Draw, Sampling, share_visited
from sharded_fc.sampling.options import Correction
from tests.sharded_fc.on_ranks import draw_batches

CLASSES, DIM = 12, 4


def make_head(margin, sampling):
    return ShardedHead(
        CLASSES,
        DIM,
        margin=margin,
        scale=8.0,
        learning_rate=0.1,
        sampling=sampling,
        dtype=torch.float64,
        compute_dtype=torch.float64,
    )


@pytest.mark.parametrize("margin", [ArcFace(0.5), CurricularFace(0.5)], ids=["arc", "curricular"])
@pytest.mark.parametrize("count", [2, 4])
@torch.no_grad()
def test_the_mean_over_all_draws_of_twelve_classes_is_the_full_sum(monkeypatch, margin, count):
    """Given the batch: every subset of the classes, each as likely as any other."""
    (((embedding, label),),) = draw_batches([4], num_classes=CLASSES, dim=DIM)
    full = make_head(margin, None)(embedding, label).sample_loss
    subsets = list(combinations(range(CLASSES), count))
    sums: dict[Correction, torch.Tensor] = {
        "logq": torch.zeros_like(full),
        "none": torch.zeros_like(full),
    }
    for correction, total in sums.items():
        head = make_head(margin, Sampling(rate=count / CLASSES, correction=correction))
        for subset in subsets:
            others = torch.tensor(sorted(set(subset) - set(label.tolist())), dtype=torch.int64)

            def of_step(self, step, positives, *, start, stop, others=others):
                return others, count / CLASSES

            monkeypatch.setattr(Draw, "of_step", of_step)
            # The target's logit does not change: loss = ln(sum) - logit.
            total += head(embedding, label).sample_loss.exp() / len(subsets)
    # Sums of a few hundred float64 numbers of one size.
    torch.testing.assert_close(sums["logq"], full.exp(), rtol=1e-11, atol=0)
    assert (sums["none"] < 0.99 * full.exp()).all()


def log_sums(cosine, *, target, positives, correction, rate, scale=64.0, draws=200):
    """Each draw's log-sum for one sample: `cosine` with all classes, its own and others' first."""
    classes = len(cosine)
    draw = Draw(num_classes=classes, count=round(rate * classes), seed=0)
    known = torch.arange(positives)
    found = []
    for step in range(draws):
        drawn, q = draw.of_step(torch.tensor(step), known, start=0, stop=classes)
        weight = -math.log(q) if correction == "logq" else 0.0
        certain = torch.cat([cosine.new_tensor([target]), cosine[1:positives]]) * scale
        found.append(torch.cat([certain, cosine[drawn] * scale + weight]).logsumexp(0))
    return torch.stack(found)


def full_log_sum(cosine, *, target, scale=64.0):
    return (torch.cat([cosine.new_tensor([target]), cosine[1:]]) * scale).logsumexp(0)


def random_cosines(classes, *, dim=512, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(classes, generator=generator, dtype=torch.float64) / dim**0.5


def test_on_random_centres_the_correction_removes_what_acts_like_a_smaller_margin():
    """20,000 classes of width 512, scale 32, rate 0.1, 64 positives, a target of cosine 0."""
    cosine = random_cosines(20_000)
    truth = full_log_sum(cosine, target=0.0, scale=32.0)
    options = {"target": 0.0, "positives": 64, "rate": 0.1, "scale": 32.0}
    plain = log_sums(cosine, correction="none", **options) - truth
    corrected = log_sums(cosine, correction="logq", **options) - truth
    share = share_visited(20_000, positives=64.0, rate=0.1)
    # Among like classes the bias is ln(r_eff): that of a margin smaller by -ln(r_eff) / s.
    assert plain.mean() == pytest.approx(math.log(share), abs=0.05)
    assert abs(corrected.mean()) < 0.05
    # The correction moves the mean, hardly the spread.
    assert corrected.std() == pytest.approx(float(plain.std()), rel=0.2)


def test_on_clustered_centres_the_correction_is_right_in_the_mean_and_seldom_otherwise():
    """Ten neighbours at cosine 0.5 carry the sum: a draw holds one of them in 65 % of the steps.

    The corrected sum is too small without one and too large with one; its logarithm, which the
    loss is, is too small in the mean, and spreads far more.
    """
    cosine = random_cosines(20_000)
    cosine[1000:1010] = 0.5
    truth = full_log_sum(cosine, target=0.0)
    options = {"target": 0.0, "positives": 64, "rate": 0.1}
    corrected = log_sums(cosine, correction="logq", **options) - truth
    without = corrected < -5
    assert without.double().mean() == pytest.approx(0.9**10, abs=0.17)  # five standard errors
    assert corrected.mean() < -5
    assert corrected.std() > 5
    # The sum itself is right: five standard errors of its mean.
    times = corrected.exp()
    assert abs(times.mean() - 1) < 5 * times.std() / len(times) ** 0.5
    # Neighbours that are certain to be visited, as positives are, repair it.
    near = torch.cat([cosine[:1], cosine[1000:1010], cosine[1:1000], cosine[1010:]])
    repaired = log_sums(near, correction="logq", **options) - truth
    assert abs(repaired.mean()) < 0.05
    assert repaired.std() < 0.05
