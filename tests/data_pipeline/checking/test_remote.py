"""Tars on a web server or in object storage are checked where they lie, indexed or not."""

import io
import tarfile

import pytest

from data_pipeline.adopt import adopt
from data_pipeline.checking.check import check
from data_pipeline.checking.repair import repair
from data_pipeline.checking.report import DatasetReport
from data_pipeline.errors import DataError
from data_pipeline.remote import Remote
from tests.data_pipeline.checking.broken import found, packed, sample, write_tar
from tests.data_pipeline.pictures import contents
from tests.data_pipeline.stores.machine import FILE_SYSTEMS, machine_with
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


@pytest.fixture(params=FILE_SYSTEMS)
def stored(request, tmp_path, monkeypatch):
    """Object storage with a dataset, and three foreign tars of which one has more than files."""
    with machine_with(request.param, tmp_path, monkeypatch) as place:
        for name, content in contents(packed(tmp_path / "packed").path).items():
            place.put(f"packed/{name}", content)
        for number in range(3):
            members = sample(f"a{number}") + sample(f"b{number}", "2")
            tar = write_tar(tmp_path / f"{number}.tar", members)
            if number == 1:
                add_what_is_no_file(tar)
            place.put(f"tars/{number}.tar", tar.read_bytes())
        yield place


def add_what_is_no_file(path):
    with tarfile.open(path, "a") as tar:
        for name, kind in (
            ("null", tarfile.CHRTYPE),
            ("disk", tarfile.BLKTYPE),
            ("pipe", tarfile.FIFOTYPE),
            ("link", tarfile.SYMTYPE),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd" if kind == tarfile.SYMTYPE else ""
            tar.addfile(info, io.BytesIO())


def details(report, kind):
    return [f"{told.where} {told.detail}" for told in report.findings.named[kind]]


def test_tars_in_object_storage_are_checked_in_worker_processes_too(stored):
    folder = str(stored.address("tars/"))
    for workers in (1, 2):
        report = check(folder, workers=workers)
        assert (report.files, report.samples, report.errors) == (3, 6, 0)
        assert report.findings.counts == {"devices": 3, "links": 1}


def test_what_cannot_be_read_is_a_finding_and_the_others_are_checked(stored):
    folder = str(stored.address("tars/"))
    stored.store.faults["bucket/tars/0.tar"] = [403] * 9
    content = stored.store.objects["bucket/tars/2.tar"]
    stored.put("tars/2.tar", content[: len(content) // 2])
    report = check(folder)
    counts = report.findings.counts
    assert (counts["unreadable_file"], counts["damaged_tar"], counts["devices"]) == (1, 1, 3)
    (told,) = details(report, "unreadable_file")
    assert told.startswith("0.tar ")
    assert told.endswith("may not be read with the credentials of this machine")


def test_a_listed_tar_that_is_not_there_is_a_finding_too(stored, tmp_path):
    places = [stored.address(f"tars/{number}.tar") for number in (0, 7)]
    (tmp_path / "tars.txt").write_text("".join(f"{place}\n" for place in places))
    report = check(str(tmp_path / "tars.txt"))
    assert (report.samples, report.findings.counts) == (2, {"unreadable_file": 1})
    assert details(report, "unreadable_file") == [f"7.tar {places[1]} is not there"]


def test_a_storage_that_is_away_costs_its_waits_once(stored):
    stored.store.faults |= {f"bucket/tars/{number}.tar": [503] * 99 for number in range(3)}
    waits = []
    report = check(str(stored.address("tars/")), remote=Remote(sleep=waits.append))
    assert report.findings.counts["unreadable_file"] == 3
    assert sum(waits) < 60


def test_a_folder_that_may_not_be_listed_is_refused_in_one_line(stored):
    stored.store.faults |= {name: [403] * 9 for name in ("bucket/tars", "bucket/tars/")}
    with pytest.raises(DataError, match=r"bucket/tars/ may not be read with the cred.*[^\n]$"):
        check(str(stored.address("tars/")))


def test_a_dataset_in_object_storage_is_checked_by_way_of_the_cache(stored, tmp_path):
    there = adopt(stored.address("packed/index.json"), tmp_path / "there")
    assert found(there.path) == {}
    for cached in (tmp_path / "cache").rglob("*"):
        if cached.is_file():
            cached.unlink()
    names = [f"bucket/packed/{shard.name}.tar" for shard in there.shards]
    stored.store.objects[names[0]] = stored.store.objects[names[0]][:-1024]
    stored.store.faults[names[1]] = [403] * 9
    del stored.store.objects[names[2]]
    report = check(str(there.path))
    assert report.findings.counts == {"unreadable_file": 3}
    short, forbidden, missing = details(report, "unreadable_file")
    assert "is not the tar that was indexed" in short
    assert "may not be read" in forbidden
    assert missing.endswith("is not there")
