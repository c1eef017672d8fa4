"""`facescale data check` on tars in object storage: what it prints, exits with and repairs."""

import io
import json
import tarfile

import pytest

from cluster import cli
from tests.data_pipeline.checking.broken import sample, write_tar
from tests.data_pipeline.stores.machine import machine_with
from tests.data_pipeline.stores.server import SECRET


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """Three tars of three samples each."""
    with machine_with("az", tmp_path, monkeypatch) as place:
        for number in range(3):
            members = [part for key in "abc" for part in sample(f"{key}{number}")]
            tar = write_tar(tmp_path / f"{number}.tar", members)
            place.put(f"tars/{number}.tar", tar.read_bytes())
        yield place


@pytest.fixture
def run(capsys):
    def check(*arguments):
        with pytest.raises(SystemExit) as caught:
            cli.main(["data", "check", *map(str, arguments)])
        printed = capsys.readouterr()
        assert SECRET not in printed.out + printed.err
        return caught.value.code, printed.out, printed.err

    return check


def test_sound_tars_exit_with_0(run, stored):
    code, out, err = run(stored.address("tars/"), "--workers", "2")
    assert (code, out, err) == (0, "az://bucket/tars/: 9 samples, 0 errors, 0 warnings\n", "")


def test_a_forbidden_tar_is_told_with_the_damage_of_the_others(run, stored, tmp_path):
    content = stored.store.objects["bucket/tars/1.tar"]
    stored.put("tars/1.tar", content[:3000])
    stored.store.faults["bucket/tars/2.tar"] = [403] * 9
    page = tmp_path / "page.html"
    code, out, _ = run(stored.address("tars/"), "--json", "--page", page)
    (checked,) = json.loads(out)["checked"]
    assert code == 1
    assert {"damaged_tar", "unreadable_file"} <= {told["kind"] for told in checked["findings"]}
    assert "may not be read with the credentials of this machine" in page.read_text()
    assert SECRET not in page.read_text()
    assert page.stat().st_mode & 0o777 == 0o600


def test_a_cut_tar_is_copied_as_far_as_it_is_sound_and_the_others_stay(run, stored, tmp_path):
    content = stored.store.objects["bucket/tars/1.tar"]
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        header = tar.getmembers()[-1].offset  # a label's
    stored.put("tars/1.tar", content[: header + 100])
    code, _, _ = run(stored.address("tars/"), "--fix", "--to", tmp_path / "sound")
    lines = (tmp_path / "sound" / "tars.txt").read_text().splitlines()
    assert code == 0
    assert lines == ["az://bucket/tars/0.tar", "tar-000001.tar", "az://bucket/tars/2.tar"]
    code, out, _ = run(tmp_path / "sound" / "tars.txt")
    assert code == 0
    assert ": 8 samples, 0 errors" in out


@pytest.mark.parametrize("address", ["az://bucket/tars/", "az://bucket/nothing/", "az://no/a.tar"])
def test_what_cannot_be_listed_or_found_is_one_line(run, stored, address):
    stored.store.faults["bucket/tars"] = [403] * 9
    code, out, err = run(address)
    assert code == 1
    told = err or out.splitlines()[-1]
    assert "may not be read" in told or "is not there" in told
    assert err.count("\n") <= 1
