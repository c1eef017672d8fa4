"""What a user installs: the built wheel in an empty environment, a job from another folder."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]


def call(*command: str | Path, cwd: Path, environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        check=False,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` folder of an environment that has nothing but the wheel and what it asks for."""
    folder = tmp_path_factory.mktemp("wheel")
    call(sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", folder, ROOT, cwd=folder)
    [wheel] = folder.glob("*.whl")
    bin_ = folder / "venv" / "bin"
    links = os.environ.get("PIP_FIND_LINKS")
    wanted = [wheel, "--constraint", ROOT / "constraints.txt"]
    wanted += ["--find-links", links] if links else []
    if uv := shutil.which("uv"):
        call(uv, "venv", "--python", sys.executable, folder / "venv", cwd=folder)
        call(uv, "pip", "install", "--python", bin_ / "python", *wanted, cwd=folder)
    else:
        call(sys.executable, "-m", "venv", folder / "venv", cwd=folder)
        call(bin_ / "python", "-m", "pip", "install", *wanted, cwd=folder)
    return bin_


@pytest.fixture
def environment(tmp_path: Path, installed: Path) -> Iterator[dict[str, str]]:
    """A user's environment: none of this process's Python settings, an own state folder."""
    kept = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "LANG")}
    user = kept | {"FACESCALE_STATE": str(tmp_path / "state")}
    yield user
    call(installed / "facescale", "cluster", "down", "--now", cwd=tmp_path, environment=user)


def test_the_wheel_runs_a_job_of_two_workers_from_another_folder(
    installed: Path, environment: dict[str, str], tmp_path: Path
):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    facescale = installed / "facescale"

    def say(*arguments: str) -> str:
        return call(facescale, *arguments, cwd=folder, environment=environment)

    say("data", "synth", "faces", "--identities", "8", "--images", "3", "--size", "32")
    tree = {
        "name": "from-a-wheel",
        "steps": 4,
        "data": {"path": "faces", "image_size": 32},
        "backbone": {"name": "mobilefacenet", "embedding_dim": 16},
        "batch": {"micro_batches": 2, "micro_batch_size": 4},
        "cluster": {"workers": 2},
        "every": {"log": 1, "save": 2},
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(tree))
    say("submit", "run.yaml", "--json")
    say("wait", "from-a-wheel", "--timeout", "300")
    status = json.loads(say("status", "from-a-wheel", "--json"))
    assert (status["state"], status["step"]) == ("finished", 4)
    assert (folder / "runs/from-a-wheel/report.html").is_file()
    assert (folder / "runs/from-a-wheel/checkpoints/step-000000004/manifest.json").is_file()
