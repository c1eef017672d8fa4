"""What a storage library or a network does wrong is tried again, or told without its text."""

import io
import sys

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from data_pipeline import remote as remote_module
from data_pipeline.addresses import Address
from data_pipeline.errors import DataError
from data_pipeline.object_stores import LIBRARIES
from data_pipeline.patience import TRIES
from data_pipeline.remote import Remote
from tests.data_pipeline.web import serving

CONTENT = bytes(range(256)) * 40
STORED = Address.parse("s3://bucket/faces/a.tar")


class Failing(MemoryFileSystem):
    """Object storage that fails as told: one fault for each opening."""

    cachable = False
    faults: list[BaseException]

    def _open(
        self, path, mode="rb", block_size=None, autocommit=True, cache_options=None, **others
    ):
        if mode == "rb" and self.faults:
            raise self.faults.pop(0)
        return super()._open(path, mode, block_size, autocommit, cache_options, **others)


@pytest.fixture
def store():
    files = Failing()
    files.faults = []
    files.pipe_file("/bucket/faces/a.tar", CONTENT)
    files.pipe_file("/bucket/faces/b.tar", b"b")
    files.pipe_file("/bucket/faces/readme.txt", b"c")
    yield files
    files.rm("/bucket", recursive=True)


@pytest.fixture
def waits():
    return []


@pytest.fixture
def remote(store, waits):
    return Remote(filesystem=lambda scheme: {"s3": store}[scheme], sleep=waits.append)


def read(remote, address, *, start=0):
    with remote.open(address, start=start) as file:
        return b"".join(iter(lambda: file.read(1000), b""))


def test_object_storage_is_read_from_any_place_on(remote):
    assert read(remote, STORED) == CONTENT
    assert read(remote, STORED, start=9_999) == CONTENT[9_999:]


def test_a_folder_of_object_storage_lists_its_tars(remote):
    found = remote.tars_below(Address.parse("s3://bucket/faces/"))
    assert [str(a) for a in found] == ["s3://bucket/faces/a.tar", "s3://bucket/faces/b.tar"]
    with pytest.raises(DataError, match="is not there"):
        remote.tars_below(Address.parse("s3://bucket/nothing/"))
    with pytest.raises(DataError, match="write its tars' addresses into a file"):
        remote.tars_below(Address.parse("https://example.org/faces/"))


def test_a_failing_store_is_asked_again_after_longer_and_longer_waits(remote, store, waits):
    store.faults = [TimeoutError(), ConnectionError(), RuntimeError("secret")]
    assert read(remote, STORED) == CONTENT
    assert waits == [1.0, 2.0, 4.0]


def test_a_store_that_goes_on_failing_is_an_error_that_tells_no_secret(remote, store, waits):
    store.faults = [RuntimeError("https://x/?signature=secret")] * TRIES
    with pytest.raises(
        DataError, match=r"after 6 tries \(RuntimeError\); check the netw"
    ) as caught:
        read(remote, STORED)
    assert "secret" not in str(caught.value)
    assert len(waits) == TRIES - 1


def test_while_a_network_is_down_only_the_first_file_is_waited_for(remote, store, waits):
    store.faults = [ConnectionError()] * (TRIES + 2)
    messages = [r"after 6 tries \(Conn", r"cannot be read either \(Conn", r"be read either"]
    for message in messages:
        with pytest.raises(DataError, match=message):
            read(remote, STORED)
    assert len(waits) == TRIES - 1
    assert read(remote, STORED) == CONTENT
    store.faults = [ConnectionError()]
    assert read(remote, STORED) == CONTENT, "patient again"


@pytest.mark.parametrize(
    ("fault", "message"),
    [(FileNotFoundError(), "a.tar is not there"), (PermissionError("key"), "may not be read")],
)
def test_what_another_try_cannot_mend_is_told_at_once(remote, store, waits, fault, message):
    store.faults = [fault]
    with pytest.raises(DataError, match=message):
        read(remote, STORED)
    assert waits == []


def test_a_read_that_breaks_off_goes_on_where_it_broke_off(tmp_path, waits):
    with serving(tmp_path) as web:
        web.files["/a.tar"] = CONTENT
        web.cut_after = [5_000, 300]
        web.statuses["/a.tar"] = [503]
        remote = Remote(private_hosts=["localhost"], context=web.trusting, sleep=waits.append)
        assert read(remote, web.address("/a.tar")) == CONTENT
        starts = [asked for _, asked in web.asked]
    assert starts == [None, None, "bytes=5000-", "bytes=5300-"]
    assert waits == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(("scheme", "library"), LIBRARIES.items())
def test_a_missing_library_is_named_with_the_way_to_get_it(scheme, library, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.setitem(sys.modules, f"{library}.core", None)
    monkeypatch.delitem(sys.modules, f"data_pipeline.object_stores.{scheme}", raising=False)
    with pytest.raises(DataError, match=rf"needs the package {library}.*facescale\[{scheme}\]"):
        read(Remote(), Address.parse(f"{scheme}://bucket/a.tar"))


def test_a_file_of_this_machine_is_read_too_but_nothing_else(tmp_path, waits):
    (tmp_path / "a.tar").write_bytes(CONTENT)
    remote = Remote(sleep=waits.append)
    assert read(remote, Address.of_file(tmp_path / "a.tar"), start=7) == CONTENT[7:]
    with pytest.raises(DataError, match="is not there"):
        read(remote, Address.of_file(tmp_path))


def test_private_hosts_are_named_by_the_machine(tmp_path, monkeypatch):
    asked = {}

    def open_https(_, **options):
        asked.update(options)
        return io.BytesIO(b"content")

    monkeypatch.setattr(remote_module, "open_https", open_https)
    made = Remote.of_node({"FACESCALE_PRIVATE_HOSTS": "minio.local, 10.0.0.7,"})
    assert read(made, Address.parse("https://minio.local/a.tar")) == b"content"
    assert asked["private_hosts"] == ("minio.local", "10.0.0.7")
