"""A machine that is set up for one object storage, and the storage beside it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from data_pipeline.addresses import Address
from data_pipeline.object_stores.az import Az
from data_pipeline.object_stores.gs import Gs
from data_pipeline.object_stores.s3 import S3
from tests.data_pipeline.stores import azure, google, s3
from tests.data_pipeline.stores.server import Store, serving

SPOKEN = {"s3": s3.S3, "gs": google.Google, "az": azure.Azure}
FILE_SYSTEMS = {"s3": S3, "gs": Gs, "az": Az}
SETTINGS = ("AWS_", "AZURE_", "FSSPEC_", "GCSFS_", "GOOGLE_", "STORAGE_EMULATOR_HOST")


@dataclass(frozen=True)
class Stored:
    """A storage, and how it is addressed."""

    scheme: str
    store: Store

    def address(self, path: str) -> Address:
        """Of what lies in the bucket."""
        return Address.parse(f"{self.scheme}://bucket/{path}")

    def put(self, path: str, content: bytes) -> Address:
        """Lay something into the bucket."""
        self.store.objects[f"bucket/{path}"] = content
        return self.address(path)


@contextmanager
def machine_with(scheme: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stored]:
    """This machine, with the settings for a storage of its own and a cache in `folder`."""
    for name in os.environ:
        if name.startswith(SETTINGS):
            monkeypatch.delenv(name)
    with serving(SPOKEN[scheme], folder) as store:
        for name, value in store.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("FACESCALE_CACHE", str(folder / "cache"))
        FILE_SYSTEMS[scheme].clear_instance_cache()
        yield Stored(scheme, store)
        FILE_SYSTEMS[scheme].clear_instance_cache()
