"""Tars on a web server are checked where they lie, with and without an index."""

import pytest

from data_pipeline.adopt import adopt
from data_pipeline.checking.check import check
from data_pipeline.checking.repair import repair
from data_pipeline.checking.report import DatasetReport
from data_pipeline.errors import DataError
from tests.data_pipeline.checking.broken import found, packed
from tests.data_pipeline.pictures import contents
from tests.data_pipeline.web import serving


@pytest.fixture
def web(tmp_path, monkeypatch):
    """A server with a dataset, on a machine that trusts it and has a cache."""
    with serving(tmp_path) as served:
        local = packed(tmp_path / "packed")
        served.files = {f"/{name}": content for name, content in contents(local.path).items()}
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "certificate.pem"))
        monkeypatch.setenv("FACESCALE_PRIVATE_HOSTS", "localhost")
        monkeypatch.setenv("FACESCALE_CACHE", str(tmp_path / "cache"))
        yield served


def test_the_tars_of_a_dataset_come_by_way_of_the_cache(tmp_path, web):
    there = adopt(web.address("/index.json"), tmp_path / "there")
    assert found(there.path) == {}
    name = f"/{there.shards[1].name}.tar"
    web.files[name] = web.files[name][:-1000] + b"x" * 1000
    del web.files[f"/{there.shards[2].name}.tar"]
    for cached in (tmp_path / "cache").rglob("*"):
        if cached.is_file():
            cached.unlink()
    report = check(str(there.path))
    assert report.findings.counts == {"unreadable_file": 2}
    assert isinstance(report, DatasetReport)
    with pytest.raises(DataError, match="--to FOLDER"):
        repair(report)


def test_a_tar_without_an_index_is_read_as_it_comes(web):
    address = web.address("/shard-000000.tar")
    report = check(str(address))
    assert (report.form, report.files, report.errors) == ("tars", 1, 0)
    web.files[address.path] = web.files[address.path][:3000]
    assert check(str(address)).findings.counts["damaged_tar"] == 1
