"""S3, and what speaks its protocol (`AWS_ENDPOINT_URL_S3` says where)."""

from typing import Any

from aiobotocore.httpsession import AIOHTTPSession
from s3fs import S3FileSystem


class S3(S3FileSystem):
    """Asks once; whoever reads tries again."""

    retries = 1


class _Session:
    """aiohttp's session, with answers as they come: botocore looks after regions by itself."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def request(self, method: str, **options: Any) -> Any:
        """As aiohttp's, with no redirect followed."""
        return self._session.request(method, **options, allow_redirects=False)


class _Sessions(AIOHTTPSession):
    async def _get_session(self, proxy_url: str | None) -> Any:
        return _Session(await super()._get_session(proxy_url))


def open_s3() -> S3FileSystem:
    """The file system of `s3://`, with the credentials that boto3 would find."""
    return S3(
        use_listings_cache=False,
        config_kwargs={"http_session_cls": _Sessions, "retries": {"total_max_attempts": 1}},
    )
