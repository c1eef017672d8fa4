"""Fixtures that more than one package's tests use."""

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.ranks import RankPools

settings.register_profile("dev", max_examples=25, deadline=None)
settings.register_profile("ci", max_examples=200, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))


@pytest.fixture(scope="session")
def rank_pools() -> Iterator[RankPools]:
    """`rank_pools(world)` is a live pool of gloo ranks, kept for the whole session."""
    pools = RankPools()
    yield pools
    pools.close()


@pytest.fixture
def ranks(rank_pools: RankPools) -> RankPools:
    """`ranks(world).run(fn, *args)` calls `fn` on each rank of a shared gloo group."""
    return rank_pools
