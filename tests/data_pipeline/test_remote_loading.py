"""Training from a server or object storage gives the batches that training from a disk gives."""

from contextlib import closing
from itertools import islice

import pytest
import torch

from data_pipeline.adopt import adopt
from data_pipeline.augment import Augmentation
from data_pipeline.errors import DataError
from data_pipeline.loader import Loader
from data_pipeline.plan import Plan
from tests.data_pipeline.faces import dataset_of, jpeg
from tests.data_pipeline.pictures import contents
from tests.data_pipeline.stores.machine import FILE_SYSTEMS, machine_with
from tests.data_pipeline.stores.server import SECRET
from tests.data_pipeline.web import serving


def steps(dataset, count, *, start=0):
    plan = Plan(dataset.shard_sizes, micro_batches=2, micro_batch_size=4, seed=1, shuffle_window=2)
    loader = Loader(
        dataset,
        plan,
        range(2),
        image_size=32,
        augmentation=Augmentation(),
        start_step=start,
        quarantine={},
        bad_sample_budget=0,
    )
    with closing(loader):
        return list(islice(loader, count))


@pytest.fixture
def local(tmp_path):
    made = [jpeg(seed) for seed in range(60)]
    return dataset_of(tmp_path / "faces", made, [k % 5 for k in range(60)], shard_bytes=12_000)


@pytest.fixture
def web(tmp_path, local, monkeypatch):
    """A server with the dataset, on a machine that trusts it and has a cache."""
    with serving(tmp_path) as served:
        served.files = {f"/{name}": content for name, content in contents(local.path).items()}
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "certificate.pem"))
        monkeypatch.setenv("FACESCALE_PRIVATE_HOSTS", "localhost")
        monkeypatch.setenv("FACESCALE_CACHE", str(tmp_path / "cache"))
        yield served


def assert_same_batches(local, there):
    for mine, other in zip(steps(local, 20), steps(there, 20), strict=True):
        assert mine.digests == other.digests
        for a, b in zip(mine.batches, other.batches, strict=True):
            assert torch.equal(a.image, b.image)
            assert torch.equal(a.label, b.label)


@pytest.mark.parametrize("scheme", FILE_SYSTEMS)
def test_batches_from_object_storage_are_the_same(tmp_path, local, scheme, monkeypatch):
    with machine_with(scheme, tmp_path, monkeypatch) as place:
        for name, content in contents(local.path).items():
            place.put(f"faces/{name}", content)
        there = adopt(place.address("faces/index.json"), tmp_path / "there")
        assert_same_batches(local, there)
        reads = [place.store.reads(f"bucket/faces/{shard.name}.tar") for shard in there.shards]
    assert {len(read) for read in reads} == {1}
    told = b"".join(contents(tmp_path / "there").values())
    assert SECRET.encode() not in told


def test_batches_are_the_same_and_every_tar_is_asked_for_once(tmp_path, local, web):
    there = adopt(web.address("/index.json"), tmp_path / "there")
    assert_same_batches(local, there)
    steps(there, 3, start=11)
    tars = [path for path, _ in web.asked if path.endswith(".tar")]
    assert len(tars) == len(set(tars)) == len(local.shards)


def test_a_server_that_loses_a_tar_stops_the_run_with_its_address(tmp_path, local, web):
    there = adopt(web.address("/index.json"), tmp_path / "there")
    for shard in local.shards:
        del web.files[f"/{shard.name}.tar"]
    with pytest.raises(DataError, match=r"https://localhost:\d+/shard-\d+.tar cannot be read"):
        steps(there, 1)
