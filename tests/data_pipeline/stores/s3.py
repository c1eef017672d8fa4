"""S3 as `s3fs` speaks it, with the bucket in the path."""

from pathlib import Path
from xml.sax.saxutils import escape

from tests.data_pipeline.stores.server import SECRET, STAMP, Asked, Dialect, Listed

KEY_ID = "KEYOFTHETESTS"
CODES = {403: "AccessDenied", 404: "NoSuchKey", 416: "InvalidRange", 503: "SlowDown"}


class S3(Dialect):
    """Answers ListObjectsV2, HeadObject and GetObject."""

    @classmethod
    def environment(cls, port: int, folder: Path) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": KEY_ID,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": str(folder / "none"),
            "AWS_SHARED_CREDENTIALS_FILE": str(folder / "none"),
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def understood(self) -> Asked | None:
        path, query = self.path_parts()
        if "list-type" in query:
            after = int(query.get("continuation-token", 0))
            return Asked("list", f"{path.strip('/')}/{query.get('prefix', '')}", after=after)
        what = "look" if self.command == "HEAD" else "read"
        return Asked(what, path[1:], self.range_asked())

    def is_let_in(self) -> bool:
        return f"Credential={KEY_ID}/" in self.headers.get("Authorization", "")

    def listing(self, page: Listed) -> tuple[str, bytes]:
        objects = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{size}</Size><ETag>&quot;{size}&quot;</ETag>"
            "<LastModified>2026-11-22T10:00:00.000Z</LastModified></Contents>"
            for key, size in page.objects
        )
        folders = "".join(
            f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>"
            for name in page.folders
        )
        more = f"<NextContinuationToken>{page.next}</NextContinuationToken>" if page.next else ""
        return "application/xml", (
            '<?xml version="1.0" encoding="UTF-8"?>'
            '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<Name>{page.bucket}</Name><Prefix>{escape(page.prefix)}</Prefix>"
            f"<KeyCount>{len(page.objects) + len(page.folders)}</KeyCount>"
            f"<IsTruncated>{'true' if more else 'false'}</IsTruncated>"
            f"{more}{objects}{folders}</ListBucketResult>"
        ).encode()

    def facts(self, name: str, content: bytes) -> tuple[dict[str, str], bytes]:
        return {
            "Content-Length": str(len(content)),
            "ETag": f'"{len(content)}"',
            "Last-Modified": STAMP,
            "Accept-Ranges": "bytes",
        }, b""

    def fault(self, status: int) -> tuple[dict[str, str], bytes]:
        code = CODES.get(status, "InternalError")
        body = f"<Error><Code>{code}</Code><Message>{SECRET}</Message></Error>"
        return {"Content-Type": "application/xml"}, body.encode()
