"""A pool of moving-average features instead of trained centres (F2C, arXiv:2105.10375)."""

from sharded_fc.pool.head import PoolHead, PoolView

__all__ = ["PoolHead", "PoolView"]
