"""Before any rank starts: does every node see the run folder, the data and the same facescale?

A node that mounts another disk at the same path looks right until training hangs or two halves of
a checkpoint land in two places; a marker file tells.
"""

import secrets
import socket
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from cluster.errors import ClusterError
from cluster.workers import installed_version
from trainer.config import RunConfig

NODE_TIMEOUT_S = 120.0
"""A node's first task imports facescale from what may be a cold network disk."""


def needed(config: RunConfig) -> list[Path]:
    """The data folders that every worker reads."""
    return [Path(path) for path in (*config.data.folders, *(e.path for e in config.verify))]


def examine(marker: Path, content: str, data: Sequence[Path], version: str) -> list[str]:
    """What is wrong on this node, a line each; runs there, as a task."""
    problems = []
    if installed_version() != version:
        problems.append(
            f"has facescale {installed_version()}, the job was submitted with {version}"
        )
    try:
        seen = marker.read_text(encoding="ascii")
    except OSError as error:
        seen = ""
        problems.append(f"does not see the run folder {marker.parent}: {error.strerror}")
    if seen and seen != content:
        problems.append(f"has another folder at {marker.parent}")
    problems += [
        f"does not see the data in {folder}"
        for folder in data
        if not (folder / "index.json").is_file()
    ]
    return [f"node {socket.gethostname()} {problem}" for problem in problems]


def check_nodes(config: RunConfig, folder: Path, version: str) -> None:
    """Run `examine` on every node that can hold a worker.

    Raises:
        ClusterError: with the problems of all nodes in one line.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    marker, content = folder / f".visible-{secrets.token_hex(4)}", secrets.token_hex(16)
    marker.write_text(content, encoding="ascii")
    remote: Any = ray.remote(num_cpus=0, max_retries=0)(examine)
    try:
        tasks = {
            node["NodeID"]: remote.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            ).remote(marker, content, needed(config), version)
            for node in ray.nodes()
            if can_hold(node["Resources"], config) and node["Alive"]
        }
        problems = _gather(tasks, lambda task: ray.get(task, timeout=NODE_TIMEOUT_S))
    finally:
        marker.unlink()
    if problems:
        raise ClusterError("; ".join(problems))


def _gather(tasks: dict[str, Any], get: Callable[[Any], Iterable[str]]) -> list[str]:
    from ray.exceptions import RayError

    problems: list[str] = []
    for node, task in tasks.items():
        try:
            problems += get(task)
        except RayError as error:
            lines = str(error).strip().splitlines()
            problems.append(
                f"node {node[:8]} cannot run facescale with {sys.executable}: {lines[-1]}"
            )
    return problems


def can_hold(resources: dict[str, float], config: RunConfig) -> bool:
    """Whether one worker fits on a node that has these in all."""
    return (
        resources.get("CPU", 0) >= config.cluster.cpus_per_worker
        and resources.get("GPU", 0) >= config.cluster.gpus_per_worker
    )
