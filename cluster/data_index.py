"""`facescale data index`: a dataset out of WebDataset tars that exist already."""

from pathlib import Path

from tyro.conf import Positional

from cluster.console import errors_in_one_line, show
from cluster.errors import Exit


@errors_in_one_line
def index(
    source: Positional[str],
    dest: Positional[Path],
    /,
    *,
    max_unreadable: float = 0.01,
    workers: int = 1,
    json: bool = False,
) -> int:
    """Index WebDataset tars where they lie, without copying them.

    The dataset can be trained on like a packed one. Tars of object storage (s3://, gs://, az://)
    and web servers (https://) are fetched when they are read, into the cache that FACESCALE_CACHE
    and FACESCALE_CACHE_GIB describe.

    A dataset that `pack` wrote and that was stored elsewhere is named by its index, e.g.
    s3://bucket/faces/index.json; then only its small files are copied.

    Args:
        source: a folder of tars, here or in object storage, or a file with an address a line, or
            the address of an index.json
        dest: the dataset to write: a new folder, or the folder of the tars itself
        max_unreadable: the largest share of samples that may have to be left out
        workers: processes that read tars
        json: print the result as JSON
    """
    from data_pipeline.addresses import Address, is_address
    from data_pipeline.adopt import adopt
    from data_pipeline.index import INDEX, describe
    from data_pipeline.reindex import reindex, tars_of

    if is_address(source) and Address.parse(source).name == INDEX:
        dataset = adopt(Address.parse(source), dest, show_progress=True)
    else:
        dataset = reindex(
            tars_of(source),
            dest,
            max_unreadable=max_unreadable,
            workers=workers,
            show_progress=True,
        )
    show(describe(dataset), as_json=json)
    return Exit.OK
