from pathlib import Path

import pytest
import yaml

from trainer import config
from trainer.config import RunConfig
from trainer.config_margin import ArcFaceConfig
from trainer.errors import RunFileError

SMALLEST = {"name": "first", "steps": 10, "data": {"path": "faces"}}


def write(folder: Path, tree: object) -> Path:
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def test_smallest_run_file_has_a_default_for_everything_else(tmp_path: Path):
    run = config.load(write(tmp_path, SMALLEST))
    assert run.backbone.name == "mobilefacenet"
    assert run.batch.size == 256


def test_paths_are_made_absolute_against_the_run_file(tmp_path: Path):
    tree = SMALLEST | {"verify": [{"name": "pairs", "path": "../pairs"}]}
    run = config.load(write(tmp_path, tree))
    assert run.data.path == str(tmp_path / "faces")
    assert run.verify[0].path == str(tmp_path.parent / "pairs")
    assert run.folder == tmp_path / "runs" / "first"


@pytest.mark.parametrize(
    "change",
    ["data.path=https://me:secret@example.org/faces", "data.path=s3://bucket/x?sig=secret"],
)
def test_an_address_in_place_of_a_folder_is_refused_without_its_secrets(tmp_path: Path, change):
    with pytest.raises(RunFileError, match=r"is an address.*facescale data index") as caught:
        config.load(write(tmp_path, SMALLEST), [change])
    assert "secret" not in str(caught.value)


def test_dump_reads_back_to_an_equal_tree(tmp_path: Path):
    tree = SMALLEST | {"head": {"margin": {"name": "arcface", "gradient": "straight_through"}}}
    run = config.load(write(tmp_path, tree))
    kept = tmp_path / "kept.yaml"
    kept.write_text(config.dump(run))
    assert config.load(kept) == run


def test_changes_are_applied_below_their_path_and_keep_what_the_file_says(tmp_path: Path):
    path = write(tmp_path, SMALLEST | {"head": {"scale": 30}})
    run = config.load(path, ["steps=7", "head.margin={name: arcface}", "head.momentum=0.5"])
    assert run.steps == 7
    assert run.head.scale == 30
    assert run.head.momentum == 0.5
    assert run.head.margin == ArcFaceConfig()


@pytest.mark.parametrize(
    ("tree", "told"),
    [
        ({"stpes": 3}, "stpes: Unexpected keyword argument"),
        ({"head": {"num_clases": 3}}, "head.num_clases: Unexpected keyword argument"),
        ({"head": {"margin": {"name": "cosface", "margin": 2}}}, "head.margin.cosface.margin: "),
        ({"data": {"path": "x", "image_size": 8}}, "data.image_size: "),
        ({"steps": 0}, "steps: Input should be greater than 0 (got 0)"),
        ({"name": "../evil"}, "name: String should match pattern"),
        ({"name": "a" * 64}, "name: String should match pattern"),
        ({"backbone": {"name": "resnet"}}, "backbone.name: "),
        ({"cluster": {"workers": 5}}, "cluster.workers is 5 but there are only"),
        ({"schedule": {"warmup_steps": 10}}, "warmup_steps = 10 leaves nothing"),
        ({"optimizer": {"learning_rate": float("nan")}}, "optimizer.learning_rate: "),
    ],
)
def test_what_is_wrong_is_told_with_its_full_path(tmp_path: Path, tree: dict, told: str):
    path = write(tmp_path, SMALLEST | tree)
    with pytest.raises(RunFileError) as caught:
        config.load(path)
    assert f"{path}: " in str(caught.value)
    assert told in str(caught.value)


def test_all_errors_are_told_at_once_a_line_each(tmp_path: Path):
    with pytest.raises(RunFileError) as caught:
        config.load(write(tmp_path, {"name": "x", "steps": -1, "nonsense": 1}))
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert any("data: Field required" in line for line in lines)


@pytest.mark.parametrize("text", ["[1, 2", "- a\n- b", "", "name: !!python/object:os.system {}"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(RunFileError, match=r"run\.yaml"):
        config.load(path)


@pytest.mark.parametrize("change", ["steps", "=3", "head..scale=3", "name.below=1", "steps=[1"])
def test_a_change_that_makes_no_sense_is_refused(tmp_path: Path, change: str):
    with pytest.raises(RunFileError):
        config.load(write(tmp_path, SMALLEST), [change])


def test_a_missing_run_file_is_told(tmp_path: Path):
    with pytest.raises(RunFileError, match="cannot be read"):
        config.load(tmp_path / "nowhere.yaml")


def test_a_tree_cannot_be_changed_after_it_is_built():
    run = config.from_tree(SMALLEST, source="test")
    assert isinstance(run, RunConfig)
    with pytest.raises(AttributeError):
        run.steps = 3  # pyright: ignore[reportAttributeAccessIssue]
