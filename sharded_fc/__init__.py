"""Margin softmax over classes that live on different ranks."""

from sharded_fc.head import HeadOutput, ShardedHead, Statistics

__all__ = ["HeadOutput", "ShardedHead", "Statistics"]
