"""Google Cloud Storage, over its JSON interface.

`gcsfs` would by default ask over gRPC what kind of bucket it has before it: a minute and more where
only HTTPS leads out, and of use for writing alone.
"""

import inspect
from typing import Any, NoReturn

import aiohttp
from gcsfs.core import GCSFileSystem

from data_pipeline.object_stores import RedirectedError


class Gs(GCSFileSystem):
    """Asks once; whoever reads tries again."""

    _request = inspect.unwrap(GCSFileSystem._request)  # of the decorator that asks six times


async def _refuse(*_: Any) -> NoReturn:
    raise RedirectedError


_DIRECT = aiohttp.TraceConfig()
_DIRECT.on_request_redirect.append(_refuse)


def open_gs() -> GCSFileSystem:
    """The file system of `gs://`, with Google's default credentials, or else with none."""
    return Gs(
        access="read_only", use_listings_cache=False, session_kwargs={"trace_configs": [_DIRECT]}
    )
