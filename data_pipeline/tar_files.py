"""Opens the tars of a dataset wherever they lie: on this machine, or by way of the cache."""

import os
from collections.abc import Callable
from pathlib import Path

from data_pipeline.cache import ShardCache
from data_pipeline.index import Dataset


class TarFiles:
    """The tars of one dataset; safe to use from several threads."""

    def __init__(self, dataset: Dataset, *, cache: ShardCache | None = None) -> None:
        """Open nothing yet; without a `cache` the machine's own is used where one is needed."""
        self._dataset = dataset
        self._places = [dataset.tar_of(i) for i in range(len(dataset.shards))]
        self.remote = any(not isinstance(place, Path) for place in self._places)
        """Whether any tar has to be fetched."""
        self._cache = cache or (ShardCache.of_node() if self.remote else None)

    def open(self, shard_index: int, *, stopping: Callable[[], bool] = lambda: False) -> int:
        """A file descriptor of a shard's tar, whole and at hand; the caller closes it.

        Raises:
            OSError: a tar of this machine cannot be opened.
            DataError: a remote one cannot be fetched, or is not the one that was indexed.
            Stopped: `stopping` became true while fetching.
        """
        place = self._places[shard_index]
        if isinstance(place, Path):
            return os.open(place, os.O_RDONLY | os.O_CLOEXEC)
        assert self._cache is not None, "there is a remote tar, so there is a cache"
        return self._cache.open(place, self._dataset.shards[shard_index].tar, stopping=stopping)

    def fetch(self, shard_index: int, *, stopping: Callable[[], bool]) -> None:
        """Have a remote tar here before it is asked for; otherwise as `open`."""
        if not isinstance(self._places[shard_index], Path):
            os.close(self.open(shard_index, stopping=stopping))
