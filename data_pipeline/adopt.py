"""A dataset that lies in object storage or on a web server, read from there.

Its small files (index, records of the members, identities, pairs) are copied into a folder of this
machine and compared with their sha256; its tars stay, each with its address in the new index.
"""

import hashlib
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from data_pipeline.addresses import Address
from data_pipeline.errors import DataError
from data_pipeline.index import INDEX, Dataset, File, Shard, index_text
from data_pipeline.index_file import read_index
from data_pipeline.partial import committed_folder
from data_pipeline.remote import Remote

REQUESTS_AT_ONCE = 16  # small files wait for the network, not for the processor
MOST_INDEX_BYTES = 1 << 30  # 42 million samples: some 3 MB
PIECE = 1 << 20


def adopt(
    index: Address, dest: Path | str, *, remote: Remote | None = None, show_progress: bool = False
) -> Dataset:
    """Make the folder `dest` for the dataset whose `index.json` has the address `index`.

    Raises:
        DataError: the index cannot be read or is none, a file is not what it says, or one of its
            tars lies on the machine that it was made on.
    """
    remote = remote or Remote.of_node()
    dest = Path(dest)
    with committed_folder(dest) as folder:
        content = _upto(MOST_INDEX_BYTES, index, remote)
        if len(content) > MOST_INDEX_BYTES:
            raise DataError(f"{index} is larger than any index")
        (folder / INDEX).write_bytes(content)
        there = Dataset(path=folder, **read_index(folder))
        shards = tuple(_at_home(shard, index) for shard in there.shards)
        here = replace(there, shards=shards)
        with (
            ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool,
            tqdm(
                desc="copying",
                total=len(here.files()),
                unit=" files",
                file=sys.stderr,
                disable=None if show_progress else True,  # None: only on a terminal
            ) as bar,
        ):
            jobs = [
                pool.submit(_copy, index.beside(name), folder / name, file, remote)
                for name, file in here.files().items()
            ]
            try:
                for job in jobs:
                    job.result()
                    bar.update()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        (folder / INDEX).write_text(index_text(here), encoding="utf-8")
    return Dataset.open(dest)


def _at_home(shard: Shard, index: Address) -> Shard:
    """The shard with the address of its tar."""
    if shard.tar_name is not None:
        return replace(shard, location=str(index.beside(shard.tar_name)))
    if Address.parse(str(shard.location)).is_local:
        raise DataError(
            f"{index}: {shard.name} lies at {shard.location}, on the machine that indexed it; "
            "index its tars where they are stored"
        )
    return shard


def _copy(address: Address, path: Path, file: File, remote: Remote) -> None:
    content = _upto(file.bytes, address, remote)
    if len(content) != file.bytes or hashlib.sha256(content).hexdigest() != file.sha256:
        raise DataError(
            f"{address} is damaged: its sha256 is not the one in {INDEX}; store the dataset again"
        )
    path.write_bytes(content)


def _upto(limit: int, address: Address, remote: Remote) -> bytes:
    """A file's content; one byte more than `limit` where there is more."""
    pieces: list[bytes] = []
    missing = limit + 1
    with remote.open(address) as stream:
        while missing and (piece := stream.read(min(PIECE, missing))):
            pieces.append(piece)
            missing -= len(piece)
    return b"".join(pieces)
