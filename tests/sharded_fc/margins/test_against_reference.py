"""Every margin against the reference: values, slopes by autograd, negatives, scalars, penalty."""

from functools import partial
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sharded_fc.margins import Margin, Samples
from tests.sharded_fc.margins.batches import (
    EVERY,
    adjust,
    densely,
    samples,
    state_of,
)

CLASSES = 5
FEW = settings(max_examples=10)  # for each of thirty margins
SCALARS = {"CurricularFace": {"t": 0.3}, "AdaFace": {"mean": 40.0, "std": 15.0}}


class Batch(NamedTuple):
    cosine: Tensor
    norm: Tensor
    label: Tensor
    step: int
    seed: int

    def own(self) -> Tensor:
        target = self.cosine.gather(1, self.label.clamp_min(0).unsqueeze(1)).squeeze(1)
        return torch.where(self.label >= 0, target, 0.0)

    def ours(self, class_margin: Tensor | None = None) -> Samples:
        return samples(
            self.own(),
            norm=self.norm,
            labelled=(self.label >= 0).tolist(),
            class_margin=class_margin,
            step=self.step,
            seed=self.seed,
        )


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    """One to eight samples, at least one with a class; lengths on both sides of every clamp."""
    count = draw(st.integers(1, 8))
    label = draw(st.lists(st.integers(-1, CLASSES - 1), min_size=count, max_size=count))
    label[draw(st.integers(0, count - 1))] = draw(st.integers(0, CLASSES - 1))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    uniform = torch.rand(count, CLASSES + 1, generator=generator, dtype=torch.float64)
    return Batch(
        cosine=uniform[:, :CLASSES] * 1.99 - 0.995,
        norm=uniform[:, CLASSES] * 130.0 + 0.5,
        label=torch.tensor(label),
        step=draw(st.integers(0, 10**6)),
        seed=draw(st.integers(0, 2**40)),
    )


def scalars_of(margin: Margin) -> dict[str, float]:
    return SCALARS.get(type(margin).__name__, {})


# The same float64 formulas in other words: acos and cos instead of the addition theorem lose a few
# units in the last place, 2e-16, times slopes and second derivatives below 1,000 at these cosines.
close = partial(torch.testing.assert_close, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("margin", EVERY, ids=str)
@FEW
@given(batch=batches())
def test_values_penalties_and_scalars_are_the_references(margin: Margin, batch: Batch):
    ours = adjust(margin, batch.ours(), **scalars_of(margin))
    dense = densely(
        margin,
        batch.cosine,
        batch.label,
        batch.norm,
        step=batch.step,
        seed=batch.seed,
        scalars=scalars_of(margin),
    )
    place = batch.label >= 0
    label = batch.label[place].unsqueeze(1)
    close(ours.value[place], dense.cosine.gather(1, label).squeeze(1))
    penalty = torch.zeros_like(ours.value) if ours.penalty is None else ours.penalty
    close(penalty[place], torch.zeros_like(penalty[place]) + dense.penalty)
    close(dict(ours.state), dict(dense.state))


@pytest.mark.parametrize("margin", EVERY, ids=str)
@FEW
@given(batch=batches())
def test_slopes_are_autograds(margin: Margin, batch: Batch):
    ours = adjust(margin, batch.ours(), **scalars_of(margin))
    cosine, norm = batch.cosine.clone().requires_grad_(), batch.norm.clone().requires_grad_()
    place = (batch.label >= 0).nonzero().squeeze(1)
    own = batch.label[place]
    dense = densely(
        margin,
        cosine,
        batch.label,
        norm,
        step=batch.step,
        seed=batch.seed,
        scalars=scalars_of(margin),
    )
    value = dense.cosine.gather(1, own.unsqueeze(1)).sum()

    def derivative(of: Tensor | float, by: Tensor) -> Tensor:
        zero = torch.zeros(()).double()
        graph = zero + of + 0.0 * by.sum()
        (found,) = torch.autograd.grad(graph.sum(), by, retain_graph=True)
        return found

    close(ours.slope[place], derivative(value, cosine)[place, own])
    by_norm, penalty_by_norm = (
        torch.zeros_like(batch.norm) if found is None else found
        for found in (ours.norm_slope, ours.penalty_slope)
    )
    close(by_norm[place], derivative(value, norm)[place])
    penalty = torch.as_tensor(dense.penalty).sum()
    close(penalty_by_norm[place], derivative(penalty, norm)[place])


@pytest.mark.parametrize("margin", [m for m in EVERY if m.changes_negatives], ids=str)
@FEW
@given(batch=batches())
def test_hard_negatives_and_their_slopes_are_the_references(margin: Margin, batch: Batch):
    hard = adjust(margin, batch.ours(), **scalars_of(margin)).hard
    assert hard is not None
    cosine = batch.cosine.clone().requires_grad_()
    dense = densely(
        margin,
        cosine,
        batch.label,
        batch.norm,
        step=batch.step,
        seed=batch.seed,
        scalars=scalars_of(margin),
    )
    place = (batch.label >= 0).nonzero().squeeze(1)
    negative = torch.ones(len(place), CLASSES, dtype=torch.bool)
    negative.scatter_(1, batch.label[place].unsqueeze(1), False)  # noqa: FBT003
    (slope,) = torch.autograd.grad(dense.cosine[negative].sum(), cosine)
    c = batch.cosine
    is_hard = c > hard.threshold.unsqueeze(1)
    changed = torch.where(is_hard, hard.constant + hard.linear * c + hard.square * c**2, c)
    close(changed[place][negative], dense.cosine[negative].detach())
    ours = torch.where(is_hard, hard.linear + 2.0 * hard.square * c, 1.0)
    close(ours[place][negative], slope[place][negative])
    assert (changed <= hard.highest.clamp_min(1.0)).all()
    assert not is_hard[batch.label < 0].any()  # a sample without a class has no hard negatives


@pytest.mark.parametrize("margin", [m for m in EVERY if m.class_margins], ids=str)
@FEW
@given(batch=batches())
def test_margins_of_classes_take_the_place_of_the_margins_own(margin: Margin, batch: Batch):
    # Draws around the first and the last can leave the range of an angle: they are clamped.
    of_class = torch.tensor([0.0, 0.1, 0.5, 0.7, 1.5], dtype=torch.float64)
    own = of_class[batch.label.clamp_min(0)]
    ours = adjust(margin, batch.ours(own), **scalars_of(margin))
    dense = densely(
        margin,
        batch.cosine,
        batch.label,
        batch.norm,
        class_margin=own,
        step=batch.step,
        seed=batch.seed,
        scalars=scalars_of(margin),
    )
    place = batch.label >= 0
    close(ours.value[place], dense.cosine.gather(1, batch.label[place].unsqueeze(1)).squeeze(1))


@pytest.mark.parametrize("margin", EVERY, ids=str)
@FEW
@given(batch=batches())
def test_samples_without_a_class_change_nothing_for_the_others(margin: Margin, batch: Batch):
    scalars = state_of(margin, scalars_of(margin))
    ours = margin.adjust(batch.ours(), scalars)
    place = batch.label >= 0
    moved = batch.ours()
    other = Samples(
        cosine=torch.where(place, moved.cosine, 0.9),
        norm=torch.where(place, moved.norm, 1e6),
        labelled=moved.labelled,
        class_margin=None,
        step=moved.step,
        seed=moved.seed,
    )
    again = margin.adjust(other, scalars)
    assert torch.equal(ours.value[place], again.value[place])
    assert torch.equal(ours.slope[place], again.slope[place])
    assert ours.state == again.state
    assert ours.statistics == again.statistics
