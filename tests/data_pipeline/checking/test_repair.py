"""A repair gives up what cannot be used and nothing else; a kill at any moment loses nothing."""

import os
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet

from data_pipeline.checking import repair as repairing
from data_pipeline.checking.repair import SCRATCH, repair
from data_pipeline.checking.report import DatasetReport
from data_pipeline.errors import DataError
from data_pipeline.index import IDENTITIES, INDEX, Dataset
from data_pipeline.pack import pack
from data_pipeline.pairs import pack_drawn_pairs
from data_pipeline.reindex import reindex, tars_of
from data_pipeline.shards import ShardReader
from tests.data_pipeline.checking.broken import (
    PEOPLE,
    SHARD_BYTES,
    found,
    packed,
    report_of,
    rewrite_records,
    sample,
    write_tar,
)
from tests.data_pipeline.faces import dataset_of, flip_byte
from tests.data_pipeline.pictures import contents, jpeg, people


@pytest.fixture
def dataset(tmp_path):
    return packed(tmp_path / "packed")


def repaired(path: Path, *, max_lost: float = 0.5) -> repairing.Repaired:
    report = report_of(path)
    assert isinstance(report, DatasetReport)
    return repair(report, max_lost=max_lost)


def faces(dataset: Dataset) -> list[tuple[bytes, int]]:
    reader = ShardReader(dataset, max_open=2)
    read: list[tuple[bytes, int]] = [reader.read(number) for number in range(dataset.num_samples)]
    reader.close()
    return read


def test_a_sound_dataset_is_left_as_it_is(dataset):
    before = contents(dataset.path)
    done = repaired(dataset.path, max_lost=0.0)
    assert (done.restored, done.shortened, done.samples_lost) == (0, 0, 0)
    assert contents(dataset.path) == before


def header(dataset: Dataset) -> None:
    with (dataset.path / "shard-000001.tar").open("r+b") as tar:
        tar.seek(dataset.members(1)["offset"][2].item() - 512)
        tar.write(b"\xff" * 512)


def label(dataset: Dataset) -> None:
    with (dataset.path / "shard-000001.tar").open("r+b") as tar:
        tar.seek(512)
        tar.write(b"99")


DAMAGES = {
    "the end of a tar": lambda d: os.truncate(d.path / "shard-000001.tar", d.shards[1].bytes - 90),
    "a header": header,
    "a label": label,
    "a missing idx": lambda d: (d.path / "shard-000001.idx").unlink(),
    "a stale idx": lambda d: (d.path / "shard-000001.idx").write_text("v1.2 0\n"),
    "missing records": lambda d: (d.path / "shard-000001.members").unlink(),
    "damaged records": lambda d: (d.path / "shard-000001.members").write_bytes(b"x" * 24),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_shard_whose_images_are_sound_is_restored_to_the_byte(dataset, damage):
    before = contents(dataset.path)
    DAMAGES[damage](dataset)
    assert contents(dataset.path) != before
    done = repaired(dataset.path, max_lost=0.0)
    assert (done.restored, done.shortened, done.samples_lost) == (1, 0, 0)
    assert contents(dataset.path) == before


def test_samples_that_cannot_be_used_go_and_all_others_stay_as_they_were(dataset):
    before, old = faces(dataset), contents(dataset.path)
    lost = (1, 8, 9)
    for number in lost:
        flip_byte(dataset, number)
    done = repaired(dataset.path)
    assert (done.restored, done.shortened, done.samples_lost) == (0, 2, 3)
    assert found(dataset.path) == {}
    mended = Dataset.open(dataset.path)
    assert faces(mended) == [face for number, face in enumerate(before) if number not in lost]
    assert mended.source["lost_in_repair"] == 3
    new = contents(dataset.path)
    changed = {"shard-000000", "shard-000001"}
    for name, content in old.items():
        stem = name.partition(".")[0]
        if stem in changed:
            assert name not in new
        elif name not in (INDEX, IDENTITIES):
            assert new[name] == content
    assert [shard.name for shard in mended.shards[:2]] == [f"{name}-r1" for name in sorted(changed)]
    counted = parquet.read_table(dataset.path / IDENTITIES)["images"].to_numpy()
    np.testing.assert_array_equal(counted, mended.images_per_identity())


def test_samples_keep_their_keys_so_that_none_comes_twice(dataset):
    flip_byte(dataset, 2)
    repaired(dataset.path)
    flip_byte(Dataset.open(dataset.path), 3)
    repaired(dataset.path)
    mended = Dataset.open(dataset.path)
    assert mended.shards[0].name == "shard-000000-r2"
    idx = (dataset.path / "shard-000000-r2.idx").read_text().splitlines()[1:]
    assert [line.split()[3] for line in idx][:3] == [f"{n:09d}.cls" for n in (0, 1, 3)]
    assert found(dataset.path) == {}


def test_a_cut_tar_keeps_what_lies_before_the_cut(dataset):
    before, first = faces(dataset), dataset.shards[0].samples
    os.truncate(dataset.path / "shard-000000.tar", dataset.members(0)["offset"][2].item())
    done = repaired(dataset.path)
    assert done.samples_lost == first - 2
    assert faces(Dataset.open(dataset.path)) == before[:2] + before[first:]


def test_a_shard_that_is_gone_goes_from_the_index_where_that_is_allowed(dataset):
    before, first = faces(dataset), dataset.shards[0].samples
    (dataset.path / "shard-000000.tar").unlink()
    with pytest.raises(DataError, match=r"would lose \d+ of 24 samples, more than the allowed"):
        repaired(dataset.path, max_lost=0.1)
    assert repaired(dataset.path).shortened == 1
    assert faces(Dataset.open(dataset.path)) == before[first:]
    assert found(dataset.path) == {}


def test_a_dataset_without_a_sound_sample_is_refused_whatever_is_allowed(dataset):
    for shard in dataset.shards:
        (dataset.path / f"{shard.name}.tar").unlink()
    with pytest.raises(DataError, match=r"no sample of .* can be used"):
        repaired(dataset.path, max_lost=1.0)


def test_labels_that_do_not_exist_go_with_their_samples(dataset):
    def relabel(records):
        records["label"][:2] = (-1, 2**40)

    rewrite_records(dataset, 2, relabel)
    assert repaired(dataset.path).samples_lost == 2
    assert found(dataset.path) == {}


def test_undecodable_images_go(tmp_path):
    images = [jpeg(seed) for seed in range(9)]
    images[3] = images[3][:200]
    made = dataset_of(tmp_path / "faces", images, [0] * 9, num_identities=1, image_size=(16, 16))
    assert repaired(made.path).samples_lost == 1
    assert faces(Dataset.open(made.path)) == [(c, 0) for i, c in enumerate(images) if i != 3]


def test_an_identity_that_loses_all_its_images_keeps_its_label(tmp_path):
    made = pack(people({"ann": 9, "bob": 1}), tmp_path / "packed")
    (lonely,) = np.flatnonzero(made.labels() == made.identity_names().index("bob"))
    flip_byte(made, int(lonely))
    repaired(made.path)
    report = report_of(made.path)
    assert report.findings.counts == {"empty_identity": 1}
    assert Dataset.open(made.path).identity_names() == made.identity_names()


def test_the_list_of_duplicates_is_numbered_anew(tmp_path):
    source = people(PEOPLE)
    images = dict(source.images)
    images["ann", "again.jpg"] = images["ann", "0.jpg"]
    images["bob", "again.jpg"] = images["bob", "0.jpg"]
    made = pack(replace(source, images=images), tmp_path / "packed", shard_bytes=SHARD_BYTES)
    table = parquet.read_table(made.path / "duplicates.parquet")
    pairs = list(zip(table["first_sample"].to_pylist(), table["second_sample"].to_pylist()))  # noqa: B905
    assert len(pairs) == 2
    gone = sorted({0, 1, 2, 3} - {number for pair in pairs for number in pair})[0]
    flip_byte(made, gone)
    flip_byte(made, pairs[0][1])
    repaired(made.path)
    left = sorted((gone, pairs[0][1]))
    table = parquet.read_table(made.path / "duplicates.parquet")

    def moved(number: int) -> int | None:
        return None if number in left else number - sum(other < number for other in left)

    assert table["first_sample"].to_pylist() == [moved(first) for first, _ in pairs]
    assert table["second_sample"].to_pylist() == [moved(second) for _, second in pairs]
    assert found(made.path) == {}


def test_the_counts_of_identities_are_mended_but_names_cannot_be(dataset):
    before = contents(dataset.path)
    path = dataset.path / IDENTITIES
    table = parquet.read_table(path)
    parquet.write_table(table.set_column(2, "images", [[7, 8, 9]]), path)
    repaired(dataset.path)
    assert found(dataset.path) == {}
    assert parquet.read_table(path).equals(table)
    path.unlink()
    with pytest.raises(DataError, match="nothing else has the names"):
        repaired(dataset.path)
    path.write_bytes(before[IDENTITIES])


def test_a_verification_set_never_loses_a_face_but_is_restored(tmp_path):
    made = pack_drawn_pairs(people(PEOPLE), tmp_path / "pairs", num_pairs=20, folds=1).dataset
    before = contents(made.path)
    (made.path / "shard-000000.idx").unlink()
    repaired(made.path)
    assert contents(made.path) == before
    flip_byte(made, 0)
    damaged = contents(made.path)
    with pytest.raises(DataError, match="would be another test"):
        repaired(made.path)
    assert contents(made.path) == damaged


def test_a_shard_of_which_nothing_is_right_is_refused(dataset):
    flip_byte(dataset, 0)
    (dataset.path / "shard-000000.members").unlink()
    before = contents(dataset.path)
    with pytest.raises(DataError, match="both its tar and its records are damaged"):
        repaired(dataset.path)
    assert contents(dataset.path) == before


def test_tars_that_are_not_ours_are_refused(tmp_path):
    write_tar(tmp_path / "tars/t.tar", [*sample("a"), *sample("b", content=b"\xff\xd8 rubbish")])
    made = reindex(tars_of(str(tmp_path / "tars")), tmp_path / "tars", max_unreadable=0.5)
    flip_byte(made, 0)
    before = contents(tmp_path / "tars")
    with pytest.raises(DataError, match="--to FOLDER"):
        repaired(tmp_path / "tars")
    assert contents(tmp_path / "tars") == before


def test_two_repairs_at_once_are_refused(dataset):
    flip_byte(dataset, 0)
    report = report_of(dataset.path)
    assert isinstance(report, DatasetReport)
    held = repairing.lock(dataset.path)
    with pytest.raises(DataError, match="another process"):
        repair(report)
    os.close(held)


def test_what_changed_since_the_check_is_not_sealed(dataset):
    flip_byte(dataset, 0)
    report = report_of(dataset.path)
    assert isinstance(report, DatasetReport)
    flip_byte(dataset, 1)
    before = contents(dataset.path)
    with pytest.raises(DataError, match="changed since it was checked"):
        repair(report, max_lost=0.5)
    assert contents(dataset.path) == before
    repaired(dataset.path)
    with pytest.raises(DataError, match="changed since it was checked"):
        repair(report, max_lost=0.5)


class Killed(BaseException):
    """The process ends here; nothing that would follow happens."""


def test_a_kill_at_any_moment_leaves_what_the_same_command_completes(tmp_path, monkeypatch):
    """Every rename and removal of a repair is once the last thing that happens."""
    rename, unlink = Path.rename, Path.unlink
    stopped = 0
    for moment in count(1):
        dataset = packed(tmp_path / f"packed-{moment}")
        before = faces(dataset)
        flip_byte(dataset, 1)
        flip_byte(dataset, 8)
        left = [moment]

        def stops(function, left=left):
            def run(path, *arguments, **options):
                if SCRATCH in str(path) or "shard-" in path.name:
                    left[0] -= 1
                    if not left[0]:
                        raise Killed
                return function(path, *arguments, **options)

            return run

        with monkeypatch.context() as patched:
            patched.setattr(Path, "rename", stops(rename))
            patched.setattr(Path, "unlink", stops(unlink))
            try:
                repaired(dataset.path)
            except Killed:
                stopped += 1
        if left[0] > 0:
            break
        sound = [face for number, face in enumerate(before) if number not in (1, 8)]
        if found(dataset.path).keys() - {"stray_file"}:
            repaired(dataset.path)
        assert faces(Dataset.open(dataset.path)) == sound
        assert not (dataset.path / SCRATCH).exists()
    assert stopped > 10
