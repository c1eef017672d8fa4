"""The files of deploy/, parsed."""

import functools
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).parents[2]
DEPLOY = REPOSITORY / "deploy"


@functools.cache
def documents(path: str) -> list[Any]:
    """All documents of a YAML file under deploy/."""
    return list(yaml.safe_load_all((DEPLOY / path).read_text(encoding="utf-8")))


def document(path: str) -> Any:
    """The only document of a YAML file under deploy/."""
    (only,) = documents(path)
    return only


def kind(name: str) -> Any:
    """The only Kubernetes object of this kind in rayjob.yaml."""
    (only,) = (d for d in documents("kuberay/rayjob.yaml") if d["kind"] == name)
    return only


@functools.cache
def instructions(path: str = "docker/Dockerfile") -> list[tuple[str, str]]:
    """A Dockerfile as (instruction, rest), lines joined and comments dropped."""
    text = (DEPLOY / path).read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ").splitlines()
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in joined)]
