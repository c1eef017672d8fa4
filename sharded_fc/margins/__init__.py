"""Margins: what is done to a sample's cosine with its own class before the loss."""

from typing import NoReturn

from sharded_fc.margins.adaface import AdaFace
from sharded_fc.margins.arcface import ArcFace
from sharded_fc.margins.base import Adjustment, HardNegatives, Margin, Samples, Scalars
from sharded_fc.margins.combined import CombinedMargin
from sharded_fc.margins.cosface import CosFace
from sharded_fc.margins.curricularface import CurricularFace
from sharded_fc.margins.elasticface import ElasticArcFace, ElasticCosFace
from sharded_fc.margins.magface import MagFace
from sharded_fc.margins.mv_softmax import MVSoftmax
from sharded_fc.margins.normface import NormFace
from sharded_fc.margins.softmax import PlainSoftmax
from sharded_fc.margins.sphereface import SphereFace
from sharded_fc.margins.uniface import UniFace

__all__ = [
    "AdaFace",
    "Adjustment",
    "ArcFace",
    "CombinedMargin",
    "CosFace",
    "CurricularFace",
    "ElasticArcFace",
    "ElasticCosFace",
    "HardNegatives",
    "MVSoftmax",
    "MagFace",
    "Margin",
    "NormFace",
    "PlainSoftmax",
    "Samples",
    "Scalars",
    "SphereFace",
    "UniFace",
]

_LEFT_OUT = {
    "AdaCos": "its scale changes every step, the head's is fixed; "
    "use NormFace with its fixed scale, sqrt(2) ln(num_classes - 1)",
    "CircleLoss": "it weighs every negative by itself and its scale of 256 leaves the range of "
    "exp in float32; use CurricularFace, which weighs the hard ones",
    "SphereFace2": "it bends the cosine of every negative with a power; "
    "use UniFace, the binary loss of plain cosines",
    "UNPG": "its negatives are pairs of samples, not classes; "
    "use MVSoftmax or CurricularFace for harder negatives",
}


def __getattr__(name: str) -> NoReturn:
    """Say why a known loss is not here; only AttributeError keeps `hasattr` and help() working."""
    if name in _LEFT_OUT:
        raise AttributeError(f"sharded_fc has no {name}: {_LEFT_OUT[name]}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
