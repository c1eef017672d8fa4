"""Every margin again, differentiable by autograd, on the full matrix of cosines."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import singledispatch

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sharded_fc import margins
from sharded_fc.counter import keys, normals
from sharded_fc.margins import Margin, Scalars


@dataclass(frozen=True, kw_only=True)
class Dense:
    """The labelled samples of a batch. `place` is their position in the whole of it."""

    cosine: Float[Tensor, "batch classes"]
    label: Int[Tensor, " batch"]
    norm: Float[Tensor, " batch"]
    place: Int[Tensor, " batch"]
    class_margin: Float[Tensor, " batch"] | None
    state: Scalars
    step: int
    seed: int

    @property
    def target(self) -> Float[Tensor, " batch"]:
        """Each sample's cosine with its own class."""
        return self.cosine.gather(1, self.label.unsqueeze(1)).squeeze(1)

    def with_target(self, target: Float[Tensor, " batch"]) -> "Changed":
        """The cosines with other targets."""
        index = self.label.unsqueeze(1)
        return Changed(cosine=self.cosine.scatter(1, index, target.unsqueeze(1)))


@dataclass(frozen=True, kw_only=True)
class Changed:
    """What a margin made of the cosines, its part of each loss, and the next step's scalars."""

    cosine: Float[Tensor, "batch classes"]
    penalty: Float[Tensor, " batch"] | float = 0.0
    state: Scalars = field(default_factory=dict)


@singledispatch
def change(margin: Margin, dense: Dense) -> Changed:
    """The cosines as `margin` changes them."""
    raise ValueError(f"no dense reference for {margin}")


@change.register(margins.NormFace)
@change.register(margins.PlainSoftmax)
def unchanged(margin: margins.NormFace | margins.PlainSoftmax, dense: Dense) -> Changed:
    """No margin."""
    return Changed(cosine=dense.cosine)


@change.register(margins.CosFace)
def cosface(margin: margins.CosFace, dense: Dense) -> Changed:
    """cos(theta) - m."""
    return dense.with_target(dense.target - _margin(margin, dense))


@change.register(margins.UniFace)
def uniface(margin: margins.UniFace, dense: Dense) -> Changed:
    """cos(theta) - m; the bias is the loss's business."""
    return dense.with_target(dense.target - _margin(margin, dense))


@change.register(margins.ArcFace)
def arcface(margin: margins.ArcFace, dense: Dense) -> Changed:
    """cos(theta + m)."""
    return dense.with_target(_added(margin, dense, _margin(margin, dense)))


@change.register(margins.SphereFace)
def sphereface(margin: margins.SphereFace, dense: Dense) -> Changed:
    """psi(m theta)."""
    return dense.with_target(
        _through(margin, dense.target, lambda cosine: _psi(_angle(cosine) * margin.margin))
    )


@change.register(margins.CombinedMargin)
def combined(margin: margins.CombinedMargin, dense: Dense) -> Changed:
    """psi(m1 theta + m2) - m3."""

    def value(cosine: Tensor) -> Tensor:
        return _psi(_angle(cosine) * margin.factor + margin.angle) - margin.cosine

    return dense.with_target(_through(margin, dense.target, value))


@change.register(margins.MVSoftmax)
def mv_softmax(margin: margins.MVSoftmax, dense: Dense) -> Changed:
    """Negatives above the target become t c + t - 1."""
    if margin.target == "cosine":
        target = dense.target - _margin(margin, dense)
    else:
        target = _added(margin, dense, _margin(margin, dense))
    t = margin.hardness
    return _harder(dense, target, lambda cosine: t * (cosine + 1.0) - 1.0)


@change.register(margins.CurricularFace)
def curricularface(margin: margins.CurricularFace, dense: Dense) -> Changed:
    """Negatives above the target become c (t + c), after t has moved."""
    mean = dense.target.detach().double().mean()
    t = margin.rate * mean + (1.0 - margin.rate) * dense.state["t"]
    target = _added(margin, dense, _margin(margin, dense))
    changed = _harder(dense, target, lambda cosine: cosine * (cosine + t.to(cosine.dtype)))
    return replace(changed, state={"t": t})


@change.register(margins.MagFace)
def magface(margin: margins.MagFace, dense: Dense) -> Changed:
    """cos(theta + m(a)), with g(a) as the penalty."""
    low, high = margin.lowest_norm, margin.highest_norm
    norm = dense.norm.clamp(low, high)
    share = (norm - low) / (high - low)
    added = margin.lowest_margin * (1.0 - share) + margin.highest_margin * share
    changed = dense.with_target(_added(margin, dense, added))
    return replace(changed, penalty=margin.norm_weight * (1.0 / norm + norm / high**2))


@change.register(margins.AdaFace)
def adaface(margin: margins.AdaFace, dense: Dense) -> Changed:
    """cos(theta - m k) - m - m k, after mean and deviation have moved."""
    norm = dense.norm.detach().double().clamp(0.001, 100.0)
    new = {"mean": norm.mean(), "std": norm.std() if len(norm) > 1 else dense.state["std"]}
    rate = margin.rate
    state = {name: rate * new[name] + (1.0 - rate) * dense.state[name] for name in new}
    k = (margin.concentration * (norm - state["mean"]) / (state["std"] + 0.001)).clamp(-1.0, 1.0)
    k = k.to(dense.cosine.dtype)

    def value(cosine: Tensor) -> Tensor:
        angle = (_angle(cosine) - margin.margin * k).clamp(0.001, math.pi - 0.001)
        return angle.cos() - margin.margin * (1.0 + k)

    return replace(dense.with_target(_through(margin, dense.target, value)), state=state)


@change.register(margins.ElasticArcFace)
def elastic_arcface(margin: margins.ElasticArcFace, dense: Dense) -> Changed:
    """cos(theta + m_i)."""
    drawn = _drawn(margin, dense).clamp(0.0, math.pi / 2)
    return dense.with_target(_added(margin, dense, drawn))


@change.register(margins.ElasticCosFace)
def elastic_cosface(margin: margins.ElasticCosFace, dense: Dense) -> Changed:
    """cos(theta) - m_i."""
    return dense.with_target(dense.target - _drawn(margin, dense).clamp_min(0.0))


def _margin(margin: Margin, dense: Dense) -> Tensor:
    if dense.class_margin is not None:
        return dense.class_margin.to(dense.cosine.dtype)
    return torch.full_like(dense.norm, margin.margin, dtype=dense.cosine.dtype)  # pyright: ignore[reportAttributeAccessIssue]


def _angle(cosine: Tensor) -> Tensor:
    bound = 1.0 - torch.finfo(cosine.dtype).eps  # acos' slope is infinite at 1
    return cosine.clamp(-bound, bound).acos()


def _through(margin: Margin, cosine: Tensor, value: Callable[[Tensor], Tensor]) -> Tensor:
    """The value, with the gradient by the cosine that `margin` asks for."""
    if margin.gradient == "exact":  # pyright: ignore[reportAttributeAccessIssue]
        return value(cosine)
    fixed = cosine.detach()
    return value(fixed) + (cosine - fixed)


def _added(margin: Margin, dense: Dense, added: Tensor) -> Tensor:
    added = added.to(dense.cosine.dtype)

    def value(cosine: Tensor) -> Tensor:
        moved = torch.cos(_angle(cosine) + added)
        fallback = cosine - added * torch.sin(added)
        return torch.where(cosine > torch.cos(math.pi - added), moved, fallback)

    return _through(margin, dense.target, value)


def _psi(angle: Tensor) -> Tensor:
    """Half a turn after the other, each continuing downwards from where the last one ended."""
    value = angle.cos()
    for turn in range(1, int(angle.max() / math.pi) + 1):
        later = -2.0 * turn + (-1.0) ** turn * angle.cos()
        value = torch.where(angle >= turn * math.pi, later, value)
    return value


def _harder(dense: Dense, target: Tensor, changed: Callable[[Tensor], Tensor]) -> Changed:
    is_hard = dense.cosine > target.detach().unsqueeze(1)
    harder = torch.where(is_hard, changed(dense.cosine), dense.cosine)
    return replace(dense, cosine=harder).with_target(target)


def _drawn(margin: margins.ElasticArcFace | margins.ElasticCosFace, dense: Dense) -> Tensor:
    step = torch.tensor(dense.step, device=dense.place.device)
    draw = margin.deviation * normals(keys(dense.seed, step, dense.place))
    if margin.plus:
        cosine = dense.target.detach()
        by_cosine = sorted(range(len(cosine)), key=lambda i: -float(cosine[i]))
        for sample, number in zip(by_cosine, sorted(draw.tolist()), strict=True):
            draw[sample] = number
    return (_margin(margin, dense) + draw).to(dense.cosine.dtype)
