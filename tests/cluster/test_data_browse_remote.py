"""A dataset whose tars lie in object storage is shown like another, and what is not there too."""

import logging

import pytest

from data_pipeline import patience
from data_pipeline.adopt import adopt
from data_pipeline.pack import pack
from data_pipeline.patience import TRIES
from tests.cluster.visitor import Page, Visitor
from tests.data_pipeline.pictures import contents, people
from tests.data_pipeline.stores.machine import FILE_SYSTEMS, machine_with
from tests.data_pipeline.stores.server import SECRET


def adopted(place, tmp_path):
    """A dataset in the storage, its small files here; at least four shards."""
    packed = pack(people({"ann": 9, "bob": 9}), tmp_path / "packed", shard_bytes=10_000)
    for name, content in contents(packed.path).items():
        place.put(f"faces/{name}", content)
    there = adopt(place.address("faces/index.json"), tmp_path / "there")
    assert len(there.shards) >= 4
    return there


@pytest.mark.parametrize("scheme", FILE_SYSTEMS)
def test_faces_come_by_way_of_the_cache_and_each_tar_once(scheme, tmp_path, monkeypatch):
    with machine_with(scheme, tmp_path, monkeypatch) as place:
        there = adopted(place, tmp_path)
        for _ in range(2):
            visitor = Visitor(there.path)
            for sample in range(there.num_samples):
                assert visitor.get(f"thumbnail/{sample}").content_type == "image/jpeg"
            assert visitor.get("view/0").content_type == "image/png"
            visitor.site.close()
        for shard in there.shards:
            assert len(place.store.reads(f"bucket/faces/{shard.name}.tar")) == 1


def test_what_cannot_be_fetched_is_shown_as_such_and_the_rest_as_it_is(
    tmp_path, monkeypatch, caplog
):
    caplog.set_level(logging.DEBUG)
    with machine_with("gs", tmp_path, monkeypatch) as place:
        there = adopted(place, tmp_path)
        names = [f"bucket/faces/{shard.name}.tar" for shard in there.shards]
        place.store.faults[names[0]] = [403] * 99
        del place.store.objects[names[1]]
        place.store.objects[names[2]] = place.store.objects[names[2]][:-1024]
        visitor = Visitor(there.path)
        for shard in there.shards[:3]:
            for path in ("thumbnail", "view"):
                answer = visitor.get(f"{path}/{shard.first_sample}")
                assert (answer.status, answer.content_type) == (200, "image/svg+xml")
                assert b"its shard cannot be read" in answer.body
            page = visitor.get(f"face/{shard.first_sample}")
            assert page.status == 200
            assert "its shard cannot be read" in Page(page.body.decode()).text
            assert SECRET not in page.body.decode()
        sound = there.shards[3].first_sample
        assert visitor.get(f"thumbnail/{sound}").content_type == "image/jpeg"
        assert visitor.get(f"view/{sound}").content_type == "image/png"
        visitor.site.close()
    assert SECRET not in caplog.text


def test_a_storage_that_is_away_is_waited_for_once(tmp_path, monkeypatch):
    monkeypatch.setattr(patience, "FIRST_WAIT_S", 0)
    with machine_with("az", tmp_path, monkeypatch) as place:
        there = adopted(place, tmp_path)
        names = [f"bucket/faces/{shard.name}.tar" for shard in there.shards]
        place.store.faults |= {name: [503] * 99 for name in names}
        visitor = Visitor(there.path)
        for sample in range(there.num_samples):
            assert b"its shard cannot be read" in visitor.get(f"thumbnail/{sample}").body
        visitor.site.close()
        asked = [asked for asked in place.store.asked if asked.name in names]
    assert len(asked) == TRIES + there.num_samples - 1
