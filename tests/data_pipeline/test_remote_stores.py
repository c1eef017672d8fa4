"""What holds for every object storage, read with its own library from a server on loopback."""

import logging
import os
import traceback

import pytest

from data_pipeline import remote as remote_module
from data_pipeline.cache import ShardCache
from data_pipeline.errors import DataError
from data_pipeline.index_file import File, sha256_of
from data_pipeline.patience import TRIES
from data_pipeline.remote import Remote
from tests.data_pipeline.stores.machine import FILE_SYSTEMS, machine_with
from tests.data_pipeline.stores.server import SECRET

CONTENT = bytes(range(256)) * 40


@pytest.fixture(params=FILE_SYSTEMS)
def stored(request, tmp_path, monkeypatch):
    with machine_with(request.param, tmp_path, monkeypatch) as place:
        place.put("faces/a.tar", CONTENT)
        place.put("faces/b.tar", b"b")
        place.put("faces/c d+e.tar", b"c")
        place.put("faces/readme.txt", b"d")
        place.put("faces/more/x.tar", b"e")
        place.put("faces2/y.tar", b"f")
        yield place


@pytest.fixture
def waits():
    return []


@pytest.fixture
def remote(waits):
    return Remote(sleep=waits.append)


def read(remote, address, *, start=0):
    with remote.open(address, start=start) as file:
        return b"".join(iter(lambda: file.read(1000), b""))


def test_an_object_is_read_from_any_place_on_in_large_pieces(stored, remote, waits, monkeypatch):
    monkeypatch.setattr(remote_module, "BLOCK_BYTES", 4000)
    for start in (0, 1, 9_999, len(CONTENT)):
        stored.store.asked.clear()
        assert read(remote, stored.address("faces/a.tar"), start=start) == CONTENT[start:]
        asked = sorted(stored.store.reads("bucket/faces/a.tar"))
        assert sum(last + 1 - first for first, last in asked) <= len(CONTENT) - start + 4000
        assert len(asked) <= 4
        assert all(first >= start for first, _ in asked)
    assert waits == []


def test_odd_characters_in_a_name_are_kept(stored, remote):
    assert read(remote, stored.address("faces/c d+e.tar")) == b"c"


def test_a_folder_lists_its_own_tars_over_several_pages_and_anew_each_time(stored, remote):
    names = ["a.tar", "b.tar", "c d+e.tar"]
    assert [tar.name for tar in remote.tars_below(stored.address("faces/"))] == names
    assert [tar.name for tar in remote.tars_below(stored.address("faces"))] == names
    stored.put("faces/d.tar", b"g")
    assert [tar.name for tar in remote.tars_below(stored.address("faces/"))] == [*names, "d.tar"]
    stored.put("texts/a.txt", b"h")
    with pytest.raises(DataError, match=r"holds no .tar files"):
        remote.tars_below(stored.address("texts/"))


def test_what_is_not_there_is_told_at_once(stored, remote, waits):
    with pytest.raises(DataError, match=r"://bucket/faces/z.tar is not there$"):
        read(remote, stored.address("faces/z.tar"))
    with pytest.raises(DataError, match=r"://bucket/nothing/ is not there$"):
        remote.tars_below(stored.address("nothing/"))
    assert waits == []


@pytest.mark.parametrize("status", [401, 403])
def test_what_may_not_be_read_is_told_at_once(stored, remote, waits, status):
    stored.store.faults |= {"bucket/faces/b.tar": [status] * 9, "bucket/faces": [status] * 9}
    stored.store.faults["bucket/faces/"] = [status] * 9
    for ask in (
        lambda: read(remote, stored.address("faces/b.tar")),
        lambda: remote.tars_below(stored.address("faces/")),
    ):
        with pytest.raises(DataError, match="may not be read with the credentials of this machine"):
            ask()
    assert waits == []


def test_an_object_may_be_read_by_who_may_not_list(stored, remote):
    stored.store.faults |= {name: [403] * 9 for name in ("bucket/faces/a.tar/", "bucket/faces/")}
    assert read(remote, stored.address("faces/a.tar")) == CONTENT


def test_a_storage_that_is_busy_is_asked_again(stored, remote, waits):
    stored.store.faults["bucket/faces/a.tar"] = [503, 500]
    assert read(remote, stored.address("faces/a.tar")) == CONTENT
    # gcsfs may look twice at once, and meet both refusals in one try.
    assert waits in ([1.0], [1.0, 2.0]) if stored.scheme == "gs" else waits == [1.0, 2.0]
    waits.clear()
    stored.store.faults |= {"bucket/faces/": [503], "bucket/faces": [503]}
    assert len(remote.tars_below(stored.address("faces/"))) == 3
    assert waits[:1] == [1.0]


def test_a_storage_that_stays_away_is_an_error_in_a_minute(stored, remote, waits):
    stored.store.faults["bucket/faces/a.tar"] = [503] * 99
    with pytest.raises(DataError, match=r"after 6 tries \(the storage answers 503\); check the"):
        read(remote, stored.address("faces/a.tar"))
    assert len(waits) == TRIES - 1
    assert sum(waits) < 60


def test_an_answer_that_breaks_off_is_asked_for_again(stored, remote):
    stored.store.cut_after = [5_000]
    assert read(remote, stored.address("faces/a.tar")) == CONTENT


def test_no_redirect_is_followed(stored, remote, waits):
    inside = "latest/meta-data/credentials"
    to = f"http://127.0.0.1:{stored.store.port}/{inside}"
    stored.store.redirects |= {"bucket/faces/a.tar": to, "bucket/faces/": to, "bucket/faces": to}
    with pytest.raises(DataError, match=r"faces/a.tar is redirected to another address, which is"):
        read(remote, stored.address("faces/a.tar"))
    with pytest.raises(DataError, match=r"faces/ is redirected to another address, which is not"):
        remote.tars_below(stored.address("faces/"))
    assert not any(inside in asked.name for asked in stored.store.asked)
    assert waits == []


def test_the_server_s_words_and_the_credentials_are_told_nowhere(stored, remote, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    with pytest.raises(DataError) as missing:
        read(remote, stored.address("faces/z.tar"))
    for status in (400, 403, 503):
        stored.store.faults["bucket/faces/a.tar"] = [status] * 99
        with pytest.raises(DataError) as caught:
            read(remote, stored.address("faces/a.tar"))
        for told in (missing, caught):
            assert "\n" not in str(told.value)
            assert SECRET not in "".join(traceback.format_exception(told.value))
    assert SECRET not in caplog.text
    assert not any(capfd.readouterr())


def test_who_has_no_right_credentials_is_not_let_in(tmp_path, monkeypatch, remote):
    with machine_with("s3", tmp_path, monkeypatch) as place:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "SOMEBODYELSE")
        address = place.put("a.tar", CONTENT)
        with pytest.raises(DataError, match="may not be read with the credentials"):
            read(remote, address)


def test_a_machine_without_an_account_says_which_settings_are_missing(
    tmp_path, monkeypatch, remote, waits
):
    with machine_with("az", tmp_path, monkeypatch) as place:
        monkeypatch.delenv("AZURE_STORAGE_CONNECTION_STRING")
        with pytest.raises(DataError, match=r"az:// cannot be set up .*AZURE_STORAGE_CONNECTION"):
            read(remote, place.address("a.tar"))
    assert waits == []


def test_a_tar_comes_into_the_cache_once_and_only_if_it_is_the_one_indexed(stored, tmp_path):
    (tmp_path / "a.tar").write_bytes(CONTENT)
    tar = File(bytes=len(CONTENT), sha256=sha256_of(tmp_path / "a.tar"))
    cache = ShardCache.of_node()
    for _ in range(2):
        handle = cache.open(stored.address("faces/a.tar"), tar)
        assert os.pread(handle, len(CONTENT) + 1, 0) == CONTENT
        os.close(handle)
    assert len(stored.store.reads("bucket/faces/a.tar")) == 1
    for content in (CONTENT[:-1], b"", CONTENT[:-1] + b"x"):
        address = stored.put("faces/short.tar", content)
        with pytest.raises(DataError, match=r"short.tar is not the tar that was indexed"):
            cache.open(address, File(bytes=tar.bytes, sha256="0" * 64))
