import json

import numpy as np
import pyarrow.parquet
import pytest

from data_pipeline.errors import DataError
from data_pipeline.index import file_of
from data_pipeline.pack import pack
from data_pipeline.shards import ShardReader
from data_pipeline.verification_sets.ijb import read_ijb
from data_pipeline.verification_sets.template_set import TemplateSet, pack_templates
from data_pipeline.verification_sets.ytf import read_ytf
from tests.data_pipeline.pictures import jpeg, people

POINTS = "30.5 51.5 65.5 51.5 48 71.7 33.5 92.3 62.7 92.2"
META = {
    "ijbc_face_tid_mid.txt": "1.jpg 7 100\n2.jpg 7 100\n3.jpg 7 101\n4.jpg 3 102\n5.jpg 20 103\n",
    "ijbc_name_5pts_score.txt": "".join(f"{i}.jpg {POINTS} 0.{i}\n" for i in range(1, 6)),
    "ijbc_template_pair_label.txt": "7 3 1\n3 20 0\n7 20 0\n",
    "ijbc_1N_gallery_G1.csv": "TEMPLATE_ID,SUBJECT_ID,FILENAME\n7,500,a\n7,500,c\n20,501,d\n",
    "ijbc_1N_probe_mixed.csv": "TEMPLATE_ID,SUBJECT_ID\n3,500\n",
}
SPLITS = """split number, pair number, first name, second name, is same
1, 1, Ann/0, Ann/1, 1
1, 2, Ann/0, Bob/4, 0
2, 1, Bob/4, Ann/1, 0
"""


@pytest.fixture
def meta(tmp_path):
    folder = tmp_path / "meta"
    folder.mkdir()
    for name, text in META.items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def crops(tmp_path):
    folder = tmp_path / "loose_crop"
    folder.mkdir()
    for i in range(1, 6):
        (folder / f"{i}.jpg").write_bytes(jpeg(i))
    return folder


@pytest.fixture
def videos(tmp_path):
    for seed, video in enumerate(("Ann/0", "Ann/1", "Bob/4")):
        (tmp_path / "videos" / video).mkdir(parents=True)
        for k in range(2 + seed):
            (tmp_path / "videos" / video / f"{k}.jpg").write_bytes(jpeg(10 * seed + k))
        (tmp_path / "videos" / video / "notes.txt").write_text("no frame")
    (tmp_path / "splits.txt").write_text(SPLITS)
    return tmp_path / "videos"


def test_the_meta_files_of_ijb_become_templates_with_media_scores_pairs_and_roles(meta):
    protocol = read_ijb(meta)
    assert protocol.names == ["3", "7", "20"]
    assert protocol.image.tolist() == [f"{i}.jpg" for i in range(1, 6)]
    assert protocol.template.tolist() == [1, 1, 1, 0, 2]
    assert protocol.media.tolist() == [100, 100, 101, 102, 103]
    assert protocol.weight.tolist() == np.array([0.1, 0.2, 0.3, 0.4, 0.5], np.float32).tolist()
    pairs = zip(protocol.first, protocol.second, protocol.same, strict=True)
    assert list(pairs) == [(1, 0, True), (0, 2, False), (1, 2, False)]
    roles = {
        name: (role.template.tolist(), role.subject.tolist())
        for name, role in protocol.roles.items()
    }
    assert roles == {"gallery_G1": ([1, 2], [500, 501]), "probe_mixed": ([0], [500])}


def test_a_packed_set_shows_the_images_of_each_template(tmp_path, meta, crops):
    pack_templates(read_ijb(meta), crops, tmp_path / "set")
    templates = TemplateSet.open(tmp_path / "set")
    reader = ShardReader(templates.dataset, max_open=1)
    shown = [reader.read(int(sample)).content for sample in templates.sample]
    reader.close()
    assert shown == [jpeg(i) for i in range(1, 6)]
    protocol = read_ijb(meta)
    for name in ("template", "media", "weight", "first", "second", "same", "fold"):
        assert np.array_equal(getattr(templates, name), getattr(protocol, name)), name
    assert templates.names == protocol.names
    assert templates.roles["probe_mixed"].subject.tolist() == [500]
    templates.dataset.verify()


def test_an_image_of_two_templates_is_packed_once(tmp_path, meta, crops):
    for name, text in META.items():
        if name.endswith("mid.txt") or name.endswith("score.txt"):
            (meta / name).write_text(text.replace("5.jpg", "1.jpg"))
    templates = pack_templates(read_ijb(meta), crops, tmp_path / "set")
    assert templates.dataset.num_samples == 4
    assert templates.sample[0] == templates.sample[4]
    assert templates.template[0] != templates.template[4]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("ijbc_face_tid_mid.txt", "1.jpg x 100\n", "is not the table it should be: .*'x'"),
        ("ijbc_face_tid_mid.txt", "1.jpg 7\n", "is not the table it should be"),
        ("ijbc_face_tid_mid.txt", "", "is not the table it should be"),
        ("ijbc_name_5pts_score.txt", f"1.jpg {POINTS} 0.5\n", "do not list the same images"),
        ("ijbc_template_pair_label.txt", "7 3 2\n", "a label is neither 0 nor 1"),
        ("ijbc_template_pair_label.txt", "7 4 1\n", "names template 4, which has no images"),
        ("ijbc_template_pair_label.txt", "7 21 1\n", "names template 21, which has no images"),
        ("ijbc_1N_gallery_G1.csv", "T,S\n7,1\n7,2\n", "gives a template to two subjects"),
    ],
)
def test_meta_files_that_are_damaged_or_disagree_are_refused_in_one_line(meta, name, text, message):
    (meta / name).write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        read_ijb(meta)
    assert "\n" not in str(caught.value)


def test_missing_and_mixed_meta_files_are_refused(meta):
    (meta / "ijbb_face_tid_mid.txt").write_text("1.jpg 7 100\n")
    with pytest.raises(DataError, match=r"holds 2 files like \*_face_tid_mid.txt, not one"):
        read_ijb(meta)
    (meta / "ijbb_face_tid_mid.txt").unlink()
    (meta / "ijbc_template_pair_label.txt").unlink()
    with pytest.raises(DataError, match=r"holds 0 files like \*_template_pair_label.txt"):
        read_ijb(meta)


def test_a_missing_image_fails_the_set_and_leaves_nothing(tmp_path, meta, crops):
    (crops / "3.jpg").unlink()
    with pytest.raises(DataError, match=r"3.jpg: cannot be read: No such file"):
        pack_templates(read_ijb(meta), crops, tmp_path / "set")
    assert not (tmp_path / "set").exists()
    with pytest.raises(DataError, match=r"the folder of images .*none does not exist"):
        pack_templates(read_ijb(meta), tmp_path / "none", tmp_path / "set")


def test_videos_are_templates_of_all_their_frames_and_splits_are_folds(tmp_path, videos):
    protocol = read_ytf(tmp_path / "splits.txt", videos)
    assert protocol.names == ["Ann/0", "Ann/1", "Bob/4"]
    assert protocol.image.tolist()[:3] == ["Ann/0/0.jpg", "Ann/0/1.jpg", "Ann/1/0.jpg"]
    assert protocol.template.tolist() == [0, 0, 1, 1, 1, 2, 2, 2, 2]
    assert protocol.media.tolist() == protocol.template.tolist()
    pairs = zip(protocol.first, protocol.second, protocol.same, protocol.fold, strict=True)
    assert list(pairs) == [(0, 1, True, 0), (0, 2, False, 0), (2, 1, False, 1)]
    templates = pack_templates(protocol, videos, tmp_path / "set", workers=2)
    assert templates.dataset.num_samples == 9
    assert templates.fold.tolist() == [0, 0, 1]
    assert templates.roles == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "has no column 'split number' in its first line"),
        (SPLITS.splitlines()[0], "names no pairs"),
        (SPLITS + "1, 2, Ann/0, Bob/4, 2\n", "line 5: expected a split, two names and 1 or 0"),
        (SPLITS + "1, 2, Ann/0\n", "line 5: expected a split, two names and 1 or 0"),
        (SPLITS + "x, 2, Ann/0, Ann/1, 1\n", "line 5: expected a split, two names and 1 or 0"),
        (SPLITS + "1, 2, Ann/0, Eve/0, 0\n", "there is no folder 'Eve/0' of frames"),
        (SPLITS + "1, 2, Ann/0, ../secret, 0\n", r"there is no folder '../secret' of frames"),
        (SPLITS + "1, 2, Ann/0, /etc, 0\n", "there is no folder '/etc' of frames"),
        (SPLITS + "1, 2, Ann/0, out, 0\n", "there is no folder 'out' of frames"),
        (SPLITS + "1, 2, Ann/0, empty, 0\n", "the folder 'empty' in .* holds no frames"),
    ],
)
def test_a_damaged_list_of_videos_is_refused_in_one_line(tmp_path, videos, text, message):
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "1.jpg").write_bytes(jpeg(1))
    (videos / "out").symlink_to(tmp_path / "secret")
    (videos / "empty").mkdir()
    (tmp_path / "splits.txt").write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        read_ytf(tmp_path / "splits.txt", videos)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("template_images.parquet", {"sample": [0, 1, 2, 3, 5]}),
        ("template_images.parquet", {"template": [0, 1, 2, 3, 1]}),
        ("template_pairs.parquet", {"first": [0, 1, -1]}),
        ("template_roles.parquet", {"template": [0, 1, 3]}),
    ],
)
def test_tables_that_name_what_does_not_exist_are_refused(tmp_path, meta, crops, name, change):
    path = pack_templates(read_ijb(meta), crops, tmp_path / "set").dataset.path
    columns = pyarrow.parquet.read_table(path / name).to_pydict() | change
    pyarrow.parquet.write_table(pyarrow.table(columns), path / name)
    file = file_of(path / name)
    index = json.loads((path / "index.json").read_text())
    index["extras"][name] = {"bytes": file.bytes, "sha256": file.sha256}
    (path / "index.json").write_text(json.dumps(index))
    with pytest.raises(DataError, match="name templates or samples that do not exist"):
        TemplateSet.open(path)


def test_another_kind_of_dataset_is_refused(tmp_path):
    pack(people({"ann": 2}), tmp_path / "faces")
    with pytest.raises(DataError, match=r"has no template_images.parquet; it is another kind"):
        TemplateSet.open(tmp_path / "faces")
