"""What a head takes, in numbers alone: bytes, operations and exchanges of a rank. Nothing is made.

They follow from the code of this package and are tested against it; how long they take is for
those to say who know the machine.
"""

from sharded_fc.capacity.memory import HeadBytes, head_bytes, outside_bytes
from sharded_fc.capacity.pool import PoolShape, pool_bytes, pool_traffic, pool_work
from sharded_fc.capacity.shape import HeadShape
from sharded_fc.capacity.traffic import Collective, head_traffic
from sharded_fc.capacity.work import HeadWork, head_work

__all__ = [
    "Collective",
    "HeadBytes",
    "HeadShape",
    "HeadWork",
    "PoolShape",
    "head_bytes",
    "head_traffic",
    "head_work",
    "outside_bytes",
    "pool_bytes",
    "pool_traffic",
    "pool_work",
]
