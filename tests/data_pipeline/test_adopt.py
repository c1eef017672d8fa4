"""A dataset on a web server is used from there; only its small files are copied."""

import json

import pytest

from data_pipeline.adopt import adopt
from data_pipeline.cache import ShardCache
from data_pipeline.errors import DataError
from data_pipeline.index import Dataset
from data_pipeline.pack import pack
from data_pipeline.remote import Remote
from data_pipeline.shards import ShardReader
from data_pipeline.tar_files import TarFiles
from tests.data_pipeline.pictures import contents, people
from tests.data_pipeline.web import serving


@pytest.fixture
def packed(tmp_path):
    return pack(people({"ann": 4, "bob": 4, "eve": 1}), tmp_path / "packed", shard_bytes=8_000)


@pytest.fixture
def web(tmp_path, packed):
    with serving(tmp_path) as served:
        served.files = {f"/faces/{k}": content for k, content in contents(packed.path).items()}
        yield served


@pytest.fixture
def remote(web):
    return Remote(private_hosts=["localhost"], context=web.trusting, sleep=lambda _: None)


def faces(dataset, cache=None):
    reader = ShardReader(dataset, max_open=2, tars=TarFiles(dataset, cache=cache))
    found = [reader.read(sample) for sample in range(dataset.num_samples)]
    reader.close()
    return found


def test_its_faces_and_names_are_those_that_were_packed(tmp_path, packed, web, remote):
    there = adopt(web.address("/faces/index.json"), tmp_path / "there", remote=remote)
    assert not list((tmp_path / "there").glob("*.tar"))
    assert there.identity_names() == packed.identity_names()
    assert there.labels().tolist() == packed.labels().tolist()
    assert there.source == packed.source
    cache = ShardCache(tmp_path / "cache", max_bytes=1 << 26, remote=remote)
    assert faces(there, cache) == faces(packed)
    assert Dataset.open(there.path).verify() is None


@pytest.mark.parametrize("name", ["shard-000001.members", "shard-000000.idx", "identities.parquet"])
def test_a_small_file_that_differs_from_the_index_is_refused(tmp_path, web, remote, name):
    web.files[f"/faces/{name}"] = web.files[f"/faces/{name}"][:-1] + b"?"
    with pytest.raises(DataError, match=f"{name} is damaged"):
        adopt(web.address("/faces/index.json"), tmp_path / "there", remote=remote)
    assert not list(tmp_path.glob("there*"))


def test_a_file_that_is_missing_there_is_named(tmp_path, web, remote):
    del web.files["/faces/shard-000001.members"]
    with pytest.raises(DataError, match=r"faces/shard-000001.members cannot be read .*404"):
        adopt(web.address("/faces/index.json"), tmp_path / "there", remote=remote)


def test_an_index_that_names_files_of_its_machine_is_refused(tmp_path, web, remote):
    index = json.loads(web.files["/faces/index.json"])
    index["shards"][0]["location"] = "file:///etc/passwd"
    web.files["/faces/index.json"] = json.dumps(index).encode()
    with pytest.raises(DataError, match=r"lies at file:///etc/passwd, on the machine"):
        adopt(web.address("/faces/index.json"), tmp_path / "there", remote=remote)


def test_an_address_without_an_index_is_refused(tmp_path, web, remote):
    web.files["/faces/index.json"] = b"<html>"
    with pytest.raises(DataError, match=r"index.json is cut or damaged"):
        adopt(web.address("/faces/index.json"), tmp_path / "there", remote=remote)
