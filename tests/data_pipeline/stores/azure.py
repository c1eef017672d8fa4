"""Azure's blob storage as `adlfs` speaks it, with the account in the path as in its emulator."""

from pathlib import Path
from xml.sax.saxutils import escape

from tests.data_pipeline.stores.server import SECRET, STAMP, Asked, Dialect, Listed

ACCOUNT = "tests"
CODES = {403: "AuthorizationFailure", 404: "BlobNotFound", 416: "InvalidRange", 503: "ServerBusy"}


class Azure(Dialect):
    """Answers List Blobs, Get Blob Properties and Get Blob."""

    @classmethod
    def environment(cls, port: int, folder: Path) -> dict[str, str]:
        return {
            "AZURE_STORAGE_CONNECTION_STRING": (
                f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={SECRET};"
                f"BlobEndpoint=http://127.0.0.1:{port}/{ACCOUNT};"
            )
        }

    def understood(self) -> Asked | None:
        path, query = self.path_parts()
        name = path.removeprefix(f"/{ACCOUNT}/")
        if query.get("comp") == "list":
            after = int(query.get("marker") or 0)
            return Asked("list", f"{name.strip('/')}/{query.get('prefix', '')}", after=after)
        what = "look" if self.command == "HEAD" else "read"
        return Asked(what, name, self.range_asked("x-ms-range"))

    def is_let_in(self) -> bool:
        return self.headers.get("Authorization", "").startswith(f"SharedKey {ACCOUNT}:")

    def listing(self, page: Listed) -> tuple[str, bytes]:
        objects = "".join(
            f"<Blob><Name>{escape(key)}</Name><Properties><Last-Modified>{STAMP}</Last-Modified>"
            f"<Etag>{size}</Etag><Content-Length>{size}</Content-Length>"
            "<BlobType>BlockBlob</BlobType></Properties></Blob>"
            for key, size in page.objects
        )
        folders = "".join(
            f"<BlobPrefix><Name>{escape(name)}</Name></BlobPrefix>" for name in page.folders
        )
        server = f"http://127.0.0.1:{self.store.port}/{ACCOUNT}"
        return "application/xml", (
            '<?xml version="1.0" encoding="utf-8"?>'
            f'<EnumerationResults ServiceEndpoint="{server}" ContainerName="{page.bucket}">'
            f"<Prefix>{escape(page.prefix)}</Prefix><Delimiter>/</Delimiter>"
            f"<Blobs>{objects}{folders}</Blobs><NextMarker>{page.next}</NextMarker>"
            "</EnumerationResults>"
        ).encode()

    def facts(self, name: str, content: bytes) -> tuple[dict[str, str], bytes]:
        return {
            "Content-Length": str(len(content)),
            "Content-Type": "application/octet-stream",
            "ETag": f'"{len(content)}"',
            "Last-Modified": STAMP,
            "x-ms-blob-type": "BlockBlob",
            "x-ms-version": "2025-01-05",
        }, b""

    def fault(self, status: int) -> tuple[dict[str, str], bytes]:
        code = CODES.get(status, "InternalError")
        body = f"<Error><Code>{code}</Code><Message>{SECRET}</Message></Error>"
        return {"Content-Type": "application/xml", "x-ms-error-code": code}, body.encode()
