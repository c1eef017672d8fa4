"""Margins: what is done to a sample's cosine with its own class before the softmax."""

from sharded_fc.margins.arcface import ArcFace
from sharded_fc.margins.base import Adjustment, HardNegatives, Margin, Samples
from sharded_fc.margins.cosface import CosFace

__all__ = ["Adjustment", "ArcFace", "CosFace", "HardNegatives", "Margin", "Samples"]
