"""`facescale data index` as a user meets it."""

import json
from pathlib import Path

import pytest

from cluster import cli
from data_pipeline.pack import pack
from tests.data_pipeline.pictures import people


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        cli.main(["data", "index", *map(str, arguments)])
    printed = capsys.readouterr()
    code = caught.value.code
    assert isinstance(code, int)
    return code, printed.out, printed.err


def test_tars_are_indexed_and_described(tmp_path: Path, capsys):
    packed = pack(people({"ann": 3, "bob": 2}), tmp_path / "packed")
    code, out, err = run(capsys, packed.path, tmp_path / "index", "--json")
    said = json.loads(out)
    assert (code, err) == (0, "")
    assert (said["samples"], said["identities"], said["shards"]) == (5, 2, 1)
    assert (tmp_path / "index/index.json").is_file()


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("pipe:cat /etc/passwd", "is not opened"),
        ("https://me:secret@example.org/index.json", "name or password"),
        ("https://localhost:9/index.json", "not public"),
        ("nowhere", "does not exist"),
    ],
)
def test_what_cannot_be_indexed_is_one_line_without_secrets(tmp_path: Path, capsys, source, reason):
    code, out, err = run(capsys, source, tmp_path / "index")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert reason in err
    assert "secret" not in err
    assert not list(tmp_path.iterdir())
