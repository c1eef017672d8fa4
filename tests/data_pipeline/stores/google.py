"""Google's storage as `gcsfs` speaks it: its JSON interface, and a service account's tokens."""

import json
from pathlib import Path
from urllib.parse import quote, urlsplit

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.data_pipeline.stores.server import SECRET, Asked, Dialect, Listed

BASE = "/storage/v1/b/"
DOWNLOAD = "/download" + BASE


class Google(Dialect):
    """Answers `objects.list`, `objects.get` and downloads, after giving out a token."""

    @classmethod
    def environment(cls, port: int, folder: Path) -> dict[str, str]:
        server = f"http://127.0.0.1:{port}"
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        account = {
            "type": "service_account",
            "project_id": "tests",
            "private_key_id": "1",
            "private_key": key.decode(),
            "client_email": "reader@tests.example",
            "client_id": "1",
            "token_uri": f"{server}/token",
        }
        (folder / "account.json").write_text(json.dumps(account))
        return {
            "STORAGE_EMULATOR_HOST": server,
            "GOOGLE_APPLICATION_CREDENTIALS": str(folder / "account.json"),
        }

    def do_POST(self) -> None:
        """A service account asks for a token."""
        self.rfile.read(int(self.headers["Content-Length"]))
        token = {"access_token": SECRET, "expires_in": 3600, "token_type": "Bearer"}
        self.send(200, {"Content-Type": "application/json"}, json.dumps(token).encode())

    def understood(self) -> Asked | None:
        path, query = self.path_parts()
        path, raw = urlsplit(self.path).path, path
        bucket, _, rest = raw.removeprefix("/download").removeprefix(BASE).partition("/")
        key = rest.removeprefix("o").removeprefix("/")
        if rest == "o":
            after = int(query.get("pageToken") or 0)
            return Asked("list", f"{bucket}/{query.get('prefix', '')}", after=after)
        if path.startswith(DOWNLOAD) or query.get("alt") == "media":
            return Asked("read", f"{bucket}/{key}", self.range_asked())
        return Asked("look", f"{bucket}/{key}")

    def is_let_in(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {SECRET}"

    def listing(self, page: Listed) -> tuple[str, bytes]:
        answer: dict[str, object] = {
            "kind": "storage#objects",
            "items": [self._resource(page.bucket, key, size) for key, size in page.objects],
            "prefixes": list(page.folders),
        }
        if page.next:
            answer["nextPageToken"] = page.next
        return "application/json", json.dumps(answer).encode()

    def facts(self, name: str, content: bytes) -> tuple[dict[str, str], bytes]:
        bucket, _, key = name.partition("/")
        told = self._resource(bucket, key, len(content))
        return {"Content-Type": "application/json"}, json.dumps(told).encode()

    def _resource(self, bucket: str, key: str, size: int) -> dict[str, str]:
        server = f"http://127.0.0.1:{self.store.port}"
        return {
            "kind": "storage#object",
            "name": key,
            "bucket": bucket,
            "size": str(size),
            "generation": "1",
            "metageneration": "1",
            "updated": "2026-11-22T10:00:00.000Z",
            "timeCreated": "2026-11-22T10:00:00.000Z",
            "mediaLink": f"{server}{DOWNLOAD}{bucket}/o/{quote(key, safe='')}?alt=media",
        }

    def fault(self, status: int) -> tuple[dict[str, str], bytes]:
        error = {"error": {"code": status, "message": f"no: {SECRET}"}}
        return {"Content-Type": "application/json"}, json.dumps(error).encode()
