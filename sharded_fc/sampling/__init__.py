"""Comparing with a share of the classes: which ones, how likely, and what that does to the loss."""

from sharded_fc.sampling.draw import Draw
from sharded_fc.sampling.inclusion import effective_margin, expected_distinct, share_visited
from sharded_fc.sampling.options import Sampling
from sharded_fc.sampling.permutation import Permutation

__all__ = [
    "Draw",
    "Permutation",
    "Sampling",
    "effective_margin",
    "expected_distinct",
    "share_visited",
]
