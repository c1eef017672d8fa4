"""A tar of object storage arrives once, whole and right, however many ask and whoever is killed."""

import hashlib
import logging
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from data_pipeline.addresses import Address
from data_pipeline.cache import PIECE, ShardCache, Stopped
from data_pipeline.errors import DataError
from data_pipeline.index import File
from data_pipeline.remote import Remote
from tests.data_pipeline.web import serving

MIB = 1 << 20


class Store(MemoryFileSystem):
    """Object storage that counts what is read of it."""

    cachable = False
    store: dict
    opened: list

    def _open(
        self, path, mode="rb", block_size=None, autocommit=True, cache_options=None, **others
    ):
        if mode == "rb":
            self.opened.append(path)
        return super()._open(path, mode, block_size, autocommit, cache_options, **others)


@pytest.fixture
def store():
    files = Store()
    files.opened = []
    yield files
    if files.exists("/bucket"):
        files.rm("/bucket", recursive=True)


def put(store, name, content):
    store.pipe_file(f"/bucket/{name}", content)
    return Address.parse(f"s3://bucket/{name}"), described(content)


def described(content):
    return File(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


def cache_of(folder, store, *, max_bytes=64 * MIB):
    remote = Remote(filesystem=lambda _: store, sleep=lambda _: None)
    return ShardCache(folder, max_bytes=max_bytes, remote=remote)


def read(cache, address, tar):
    handle = cache.open(address, tar)
    try:
        return os.pread(handle, tar.bytes + 1, 0)
    finally:
        os.close(handle)


def tars_in(folder):
    return sorted(path.name.partition(".")[0] for path in folder.glob("*.tar"))


def test_a_tar_is_fetched_once_and_then_read_from_here(tmp_path, store):
    address, tar = put(store, "a.tar", b"faces" * 1000)
    for cache in (cache_of(tmp_path / "c", store), cache_of(tmp_path / "c", store)):
        assert read(cache, address, tar) == b"faces" * 1000
        assert read(cache, address, tar) == b"faces" * 1000
    assert len(store.opened) == 1


def test_the_cache_is_for_its_user_alone(tmp_path, store):
    address, tar = put(store, "a.tar", b"faces")
    read(cache_of(tmp_path / "c", store), address, tar)
    assert (tmp_path / "c").stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o077 for path in (tmp_path / "c").iterdir()} == {0}


def test_one_tar_under_two_addresses_is_one_file(tmp_path, store):
    first, tar = put(store, "a.tar", b"faces")
    second, _ = put(store, "b.tar", b"faces")
    cache = cache_of(tmp_path / "c", store)
    assert read(cache, first, tar) == read(cache, second, tar) == b"faces"
    assert len(store.opened) == 1


@pytest.mark.parametrize("content", [b"fakes", b"face", b"facesX", b""])
def test_what_arrives_and_is_not_what_was_indexed_is_refused_and_not_kept(tmp_path, store, content):
    address, _ = put(store, "a.tar", content)
    cache = cache_of(tmp_path / "c", store)
    if content.startswith(b"faces"):  # it only grew, and the indexed part is what it was
        assert read(cache, address, described(b"faces")) == b"faces"
        return
    with pytest.raises(DataError, match=r"a.tar is not the tar that was indexed"):
        cache.open(address, described(b"faces"))
    assert tars_in(tmp_path / "c") == []


def test_a_digest_that_is_none_never_becomes_a_file_name(tmp_path, store):
    address, _ = put(store, "a.tar", b"faces")
    with pytest.raises(DataError, match="is no sha256"):
        cache_of(tmp_path / "c", store).open(address, File(bytes=5, sha256="../../outside"))


def test_the_tars_opened_longest_ago_make_room(tmp_path, store):
    put_tars = [put(store, f"{k}.tar", bytes([k]) * MIB) for k in range(4)]
    cache = cache_of(tmp_path / "c", store, max_bytes=3 * MIB)
    for k in (0, 1, 2, 0, 3):
        assert read(cache, *put_tars[k]) == bytes([k]) * MIB
    assert tars_in(tmp_path / "c") == sorted(put_tars[k][1].sha256 for k in (0, 2, 3))


def test_a_tar_that_somebody_has_open_goes_last_and_stays_readable(tmp_path, store, caplog):
    put_tars = [put(store, f"{k}.tar", bytes([k]) * MIB) for k in range(3)]
    cache = cache_of(tmp_path / "c", store, max_bytes=2 * MIB)
    oldest = cache.open(*put_tars[0])
    read(cache, *put_tars[1])
    second = cache.open(*put_tars[2])
    assert tars_in(tmp_path / "c") == sorted(put_tars[k][1].sha256 for k in (0, 2))
    with caplog.at_level(logging.WARNING):
        read(cache, *put_tars[1])
    assert "too small" in caplog.text
    assert os.pread(oldest, 1, MIB - 1) == bytes([0])
    os.close(oldest)
    os.close(second)


def test_other_files_in_the_folder_are_never_deleted(tmp_path, store):
    (tmp_path / "c").mkdir()
    (tmp_path / "c/mine.tar").write_bytes(bytes(3 * MIB))
    cache = cache_of(tmp_path / "c", store, max_bytes=MIB)
    for k in range(3):
        read(cache, *put(store, f"{k}.tar", bytes([k]) * MIB))
    assert (tmp_path / "c/mine.tar").exists()


def test_a_tar_larger_than_the_cache_says_which_bound_to_raise(tmp_path, store):
    address, tar = put(store, "a.tar", bytes(2 * MIB))
    with pytest.raises(DataError, match="more than the whole cache; set a larger FACESCALE_CACHE"):
        cache_of(tmp_path / "c", store, max_bytes=MIB).open(address, tar)


def test_a_tar_that_lost_its_end_on_this_disk_is_fetched_again(tmp_path, store):
    address, tar = put(store, "a.tar", b"faces" * 1000)
    cache = cache_of(tmp_path / "c", store)
    read(cache, address, tar)
    os.truncate(tmp_path / "c" / f"{tar.sha256}.tar", 10)
    assert read(cache, address, tar) == b"faces" * 1000


@pytest.mark.parametrize("damaged", [False, True])
def test_what_came_before_an_interruption_is_kept_unless_it_is_wrong(tmp_path, damaged):
    content = os.urandom(2 * PIECE + 100)
    tar = described(content)
    (tmp_path / "c").mkdir()
    part = tmp_path / "c" / f"{tar.sha256}.{tar.bytes}.part"
    part.write_bytes(bytes(PIECE + 7) if damaged else content[: PIECE + 7])
    with serving(tmp_path) as web:
        web.files["/a.tar"] = content
        remote = Remote(private_hosts=["localhost"], context=web.trusting)
        cache = ShardCache(tmp_path / "c", max_bytes=64 * MIB, remote=remote)
        assert read(cache, web.address("/a.tar"), tar) == content
        ranges = [asked for _, asked in web.asked]
    assert ranges == [f"bytes={PIECE + 7}-", *([None] if damaged else [])]


def test_a_part_that_was_complete_is_not_fetched_again(tmp_path, store):
    address, tar = put(store, "a.tar", b"faces" * 1000)
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / f"{tar.sha256}.{tar.bytes}.part").write_bytes(b"faces" * 1000)
    assert read(cache_of(tmp_path / "c", store), address, tar) == b"faces" * 1000
    assert store.opened == []


def test_stopping_gives_up_between_two_pieces_and_keeps_them(tmp_path, store):
    content = os.urandom(3 * PIECE)
    address, tar = put(store, "a.tar", content)
    cache = cache_of(tmp_path / "c", store)
    asked = iter([False, True])
    with pytest.raises(Stopped):
        cache.open(address, tar, stopping=lambda: next(asked))
    assert (tmp_path / "c" / f"{tar.sha256}.{tar.bytes}.part").stat().st_size == PIECE
    assert read(cache, address, tar) == content


def test_many_threads_that_ask_at_once_fetch_each_tar_once(tmp_path, store):
    put_tars = [put(store, f"{k}.tar", bytes([k]) * MIB) for k in range(3)]
    wrong = []

    def ask(number):
        cache = cache_of(tmp_path / "c", store)
        for k in (number % 3, (number + 1) % 3, (number + 2) % 3):
            wrong.extend({k} if read(cache, *put_tars[k]) != bytes([k]) * MIB else ())

    threads = [threading.Thread(target=ask, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(store.opened) == 3


def test_threads_in_a_cache_that_is_too_small_still_get_what_they_ask_for(tmp_path, store):
    put_tars = [put(store, f"{k}.tar", bytes([k]) * MIB) for k in range(4)]
    wrong = []

    def ask(number):
        cache = cache_of(tmp_path / "c", store, max_bytes=MIB + 1)
        for k in range(8):
            which = (k * (number + 1)) % 4
            content = read(cache, *put_tars[which])
            wrong.extend({which} if content != bytes([which]) * MIB else ())

    threads = [threading.Thread(target=ask, args=(k,)) for k in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    last = put(store, "last.tar", bytes([9]) * MIB)
    read(cache_of(tmp_path / "c", store, max_bytes=MIB + 1), *last)
    assert tars_in(tmp_path / "c") == [last[1].sha256]


KILLED = """
import sys
from pathlib import Path
from data_pipeline.addresses import Address
from data_pipeline.cache import ShardCache
from data_pipeline.index import File

class Slow:
    def open(self, address, *, start):
        return self
    def __enter__(self):
        return self
    def __exit__(self, *_):
        pass
    def read(self, size):
        print("reading", flush=True)
        sys.stdin.read(1)
        return b"x" * min(size, 1000)

cache = ShardCache(Path(sys.argv[1]), max_bytes=1 << 26, remote=Slow())
cache.open(Address.parse("s3://bucket/a.tar"), File(bytes=5000, sha256=sys.argv[2]))
"""


def test_a_process_killed_while_fetching_leaves_a_part_that_the_next_one_completes(tmp_path, store):
    content = b"x" * 5000
    address, tar = put(store, "a.tar", content)
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path / "c"), tar.sha256],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        for _ in range(3):
            assert process.stdout.readline() == b"reading\n"
            process.stdin.write(b".")
            process.stdin.flush()
        assert process.stdout.readline() == b"reading\n"  # three thousand bytes are written
        process.send_signal(signal.SIGKILL)
    assert tars_in(tmp_path / "c") == []
    (part,) = (tmp_path / "c").glob("*.part")
    assert part.stat().st_size == 3000
    assert read(cache_of(tmp_path / "c", store), address, tar) == content
    assert not list((tmp_path / "c").glob("*.part"))


def test_the_machine_says_where_and_how_large_the_cache_is(tmp_path):
    made = ShardCache.of_node({"FACESCALE_CACHE": str(tmp_path / "c"), "FACESCALE_CACHE_GIB": "2"})
    assert (tmp_path / "c").is_dir()
    assert made._max_bytes == 2 << 30
    ShardCache.of_node({"XDG_CACHE_HOME": str(tmp_path / "x")})
    assert (tmp_path / "x/facescale/tars").is_dir()
    with pytest.raises(DataError, match="FACESCALE_CACHE_GIB is 'much'"):
        ShardCache.of_node({"FACESCALE_CACHE_GIB": "much"})


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be made"):
        ShardCache.of_node({"FACESCALE_CACHE": str(tmp_path / "file/c")})
