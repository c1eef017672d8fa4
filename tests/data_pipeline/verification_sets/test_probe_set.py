import json

import pytest

from data_pipeline.errors import DataError
from data_pipeline.pack import pack
from data_pipeline.shards import ShardReader
from data_pipeline.verification_sets.probe_set import ProbeSet, pack_megaface
from tests.data_pipeline.pictures import jpeg, people

PROBES = ["Ann Lee/Ann Lee_1.png", "Ann Lee/Ann Lee_2.png", "Bob/Bob_7.jpg"]
DISTRACTORS = ["10/10@N00/3_0.jpg", "10/10@N00/4_0.jpg", "77/8@N01/3_0.jpg"]


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "megaface"
    names = [f"facescrub_images/{name}" for name in PROBES]
    names += [f"megaface_images/{name}" for name in DISTRACTORS]
    for seed, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(jpeg(seed))
    (folder / "facescrub_lst").write_text("\n".join(PROBES) + "\n")
    (folder / "megaface_lst").write_text("\n".join(DISTRACTORS) + "\n")
    (folder / "facescrub_noises.txt").write_text("# wrong\nAnn Lee_2.png\nCeline_1.png\n")
    (folder / "megaface_noises.txt").write_text("0.99\t77/8@N01/3_0.jpg\n")
    return folder


def contents_of(dataset, samples):
    reader = ShardReader(dataset, max_open=1)
    contents = [reader.read(int(sample)).content for sample in samples]
    reader.close()
    return contents


def check(packed):
    assert contents_of(packed.dataset, packed.probe) == [jpeg(0), jpeg(1), jpeg(2)]
    assert contents_of(packed.dataset, packed.distractor) == [jpeg(3), jpeg(4), jpeg(5)]
    assert packed.probe_noise.tolist() == [False, True, False]
    assert packed.distractor_noise.tolist() == [False, False, True]
    ann, ann_again, bob = packed.probe_identity
    assert ann == ann_again != bob
    assert packed.dataset.num_identities == 5  # two persons, three strangers


def test_probes_and_distractors_are_packed_with_what_is_known_to_be_wrong(tmp_path, folder):
    check(pack_megaface(folder, tmp_path / "set", workers=2))
    check(ProbeSet.open(tmp_path / "set"))


def test_the_lists_of_the_published_kit_are_read_too(tmp_path, folder):
    (folder / "facescrub_lst").unlink()
    (folder / "megaface_lst").unlink()
    ids = ["Ann Lee", "Ann Lee", "Bob"]
    for name, paths in (
        ("facescrub_features_list.json", PROBES),
        ("megaface_features_list.json_1000000_1", DISTRACTORS),
    ):
        (folder / name).write_text(json.dumps({"id": ids, "path": paths}))
    check(pack_megaface(folder, tmp_path / "set"))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("facescrub_lst", "Ann_1.png\n", "'Ann_1.png' has fewer than 2 parts"),
        ("megaface_lst", "10/3_0.jpg\n", "'10/3_0.jpg' has fewer than 3 parts"),
        ("facescrub_lst", "Bob/Bob_7.jpg\nx/Bob/Bob_7.jpg\n", "name an image twice"),
        ("facescrub_lst", "../secret.jpg\n", "leads out of the root"),
        ("facescrub_lst", "Bob/Bob_8.jpg\n", r"Bob_8.jpg: cannot be read: No such file"),
        ("facescrub_lst", "", "is empty"),
    ],
)
def test_damaged_lists_are_refused_and_nothing_is_left(tmp_path, folder, name, text, message):
    (folder / name).write_text(text)
    with pytest.raises(DataError, match=message):
        pack_megaface(folder, tmp_path / "set")
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("text", ["[]", "{", '{"path": 3}', '{"path": [1]}', "[" * 100_000])
def test_damaged_json_is_refused_in_one_line(tmp_path, folder, text):
    (folder / "facescrub_lst").unlink()
    (folder / "facescrub_features_list.json").write_text(text)
    with pytest.raises(DataError, match="is no list of MegaFace's") as caught:
        pack_megaface(folder, tmp_path / "set")
    assert "\n" not in str(caught.value)


def test_missing_lists_are_named(tmp_path, folder):
    (folder / "megaface_noises.txt").unlink()
    with pytest.raises(DataError, match=r"cannot read .*megaface_noises.txt"):
        pack_megaface(folder, tmp_path / "set")
    (folder / "facescrub_lst").unlink()
    with pytest.raises(DataError, match=r"holds neither facescrub_lst nor facescrub_features_list"):
        pack_megaface(folder, tmp_path / "set")


def test_another_kind_of_dataset_is_refused(tmp_path):
    pack(people({"ann": 2}), tmp_path / "faces")
    with pytest.raises(DataError, match=r"has no probes.parquet; it is another kind"):
        ProbeSet.open(tmp_path / "faces")
