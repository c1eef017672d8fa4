"""Ray's job server over its REST interface: submit, look, stop, read the driver's output.

Spoken directly (docs.ray.io, "Ray Jobs REST API") and not through ray.job_submission, which takes
2 s to import, sets no timeout, and takes the token from this process's environment only.
"""

import json
import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cluster.errors import ClusterError, Unreachable

TIMEOUT_S = 20.0
"""A loaded head node answers within seconds; a dead one never."""

RayStatus = Literal["PENDING", "RUNNING", "STOPPED", "SUCCEEDED", "FAILED"]


@dataclass(frozen=True, kw_only=True)
class Job:
    """What Ray knows of one submission."""

    submission_id: str
    status: RayStatus
    message: str
    exit_code: int | None
    """Of the driver, once it has ended."""


class Jobs:
    """The job server at one address, with the token that opens it."""

    def __init__(self, address: str, *, token: str | None) -> None:
        if not address.startswith(("http://", "https://")):
            raise ClusterError(
                f"cluster.address is {address!r}; it must be http://HOST:PORT of Ray's dashboard"
            )
        self.address = address.rstrip("/")
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        # no proxy: a cluster is on the network of its users, and loopback never behind one
        self._open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open

    def version(self) -> str:
        """Ray's version; the cheapest request that needs the token."""
        return self._ask("GET", "/api/version")["ray_version"]

    def submit(self, entrypoint: str, *, submission_id: str, metadata: Mapping[str, str]) -> None:
        """Start a job; Ray refuses an id that it knows already."""
        body = {
            "entrypoint": entrypoint,
            "submission_id": submission_id,
            "runtime_env": {},  # no upload, no package, no variable: what is installed there runs
            "metadata": dict(metadata),
        }
        self._ask("POST", "/api/jobs/", body)

    def get(self, submission_id: str) -> Job | None:
        """One job, or None where the cluster does not know it (any more)."""
        try:
            return _job(self._ask("GET", f"/api/jobs/{submission_id}"))
        except _NotFound:
            return None

    def known(self) -> list[Job]:
        """All submissions the cluster remembers."""
        return [_job(tree) for tree in self._ask("GET", "/api/jobs/") if tree.get("submission_id")]

    def stop(self, submission_id: str) -> None:
        """Kill the driver and, with it, its workers."""
        self._ask("POST", f"/api/jobs/{submission_id}/stop")

    def logs(self, submission_id: str) -> str:
        """All the driver has printed."""
        return self._ask("GET", f"/api/jobs/{submission_id}/logs")["logs"]

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        request = urllib.request.Request(
            self.address + path,
            method=method,
            headers=self._headers | {"Content-Type": "application/json"},
            data=None if body is None else json.dumps(body).encode(),
        )
        try:
            with self._open(request, timeout=TIMEOUT_S) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            with error:  # it holds the connection
                raise self._explained(error) from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise Unreachable(f"no Ray job server answers at {self.address}: {reason}") from None

    def _explained(self, error: urllib.error.HTTPError) -> ClusterError:
        if error.code in (401, 403):
            return Unreachable(
                f"{self.address} does not accept the token; set RAY_AUTH_TOKEN_PATH to the file"
                " that holds the cluster's"
            )
        text = error.read().decode("utf-8", errors="replace").strip().splitlines()
        said = text[-1] if text else error.reason
        if error.code == 404:
            return _NotFound(f"{self.address}: {said}")
        return ClusterError(f"{self.address} answered {error.code}: {said}")


class _NotFound(ClusterError):
    """No such job."""


def _job(tree: dict[str, Any]) -> Job:
    return Job(
        submission_id=tree["submission_id"],
        status=tree["status"],
        message=tree.get("message") or "",
        exit_code=tree.get("driver_exit_code"),
    )


def token_of_environment() -> str | None:
    """The token of a cluster that somebody else runs: RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH."""
    if token := os.environ.get("RAY_AUTH_TOKEN"):
        return token
    if path := os.environ.get("RAY_AUTH_TOKEN_PATH"):
        try:
            return Path(path).read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ClusterError(f"RAY_AUTH_TOKEN_PATH={path} cannot be read: {error}") from None
    return None
