"""Calibrations as files."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.trainer.planning.numbers import constants, machine
from trainer.errors import RunError
from trainer.planning.constants import BackboneCost, default_path, earlier, load, merged, save
from trainer.planning.devices import SHEETS, device
from trainer.planning.yardstick import Yardstick

BACKBONE = BackboneCost(
    name="mobilefacenet",
    image_size=112,
    embedding_dim=128,
    precision="bf16",
    recompute=False,
    forward_s=1e-3,
    backward_s=2e-3,
    optimizer_s=1e-2,
)


def test_a_calibration_reads_back_equal(tmp_path: Path):
    kept = machine(
        constants(
            backbones=(BACKBONE,),
            loader_images_per_s=9e3,
            yardstick=Yardstick(operations_per_s=1e9, bytes_per_s=2e9),
        )
    )
    save(kept, tmp_path / "new" / "machine.json")
    assert load(tmp_path / "new" / "machine.json") == kept
    assert [each.name for each in (tmp_path / "new").iterdir()] == ["machine.json"]


def test_a_missing_a_damaged_and_an_older_calibration_are_refused_in_one_line(tmp_path: Path):
    path = tmp_path / "machine.json"
    with pytest.raises(RunError, match="--calibrate"):
        load(path)
    path.write_text('{"name": "half')
    with pytest.raises(RunError, match="no calibration"):
        load(path)
    save(replace(machine(), format=0), path)
    with pytest.raises(RunError, match="another version") as refused:
        load(path)
    assert "\n" not in str(refused.value)


def test_a_new_calibration_replaces_an_older_version_but_nothing_else(tmp_path: Path):
    path = tmp_path / "machine.json"
    assert earlier(path) is None
    path.write_text('{"format": 1, "name": "of long ago"}')
    assert earlier(path) is None
    save(machine(), path)
    assert earlier(path) == machine()
    for other in ("name: a run\n", '{"name": "something else"}', "[1]", '{"format": 3}'):
        path.write_text(other)
        with pytest.raises(RunError, match="would be overwritten"):
            earlier(path)


def test_calibrations_are_kept_in_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_path() == tmp_path / "facescale" / "machine.json"


def test_a_new_calibration_keeps_other_backbones_and_setups():
    other = replace(BACKBONE, name="vargfacenet")
    before = machine(constants(backbones=(BACKBONE, other)), constants(ranks=2))
    newer = replace(BACKBONE, forward_s=5e-3)
    joined = merged(machine(constants(backbones=(newer,), step_s=1.0)), before)
    assert joined.setups[0].step_s == 1.0
    assert joined.setups[0].backbones == (newer, other)
    assert [each.ranks for each in joined.setups] == [1, 2]


def test_the_setup_closest_to_the_run_is_used():
    kept = machine(constants(threads=2), constants(ranks=2), constants(ranks=2, threads=4))
    assert kept.setup(1, 1).threads == 2
    assert kept.setup(2, 1).threads == 1
    assert kept.setup(1000, 3) == kept.setups[2]


@pytest.mark.parametrize("name", [sheet.name for sheet in SHEETS])
def test_no_data_sheet_claims_to_be_measured(name: str):
    found = device(name)
    assert not found.measured
    assert "not measured by us" in found.source
    assert not found.on_cpu


def test_an_unknown_device_is_refused_with_all_names():
    with pytest.raises(RunError, match="h200, h100, a100"):
        device("abacus")
