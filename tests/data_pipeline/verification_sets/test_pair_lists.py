import numpy as np
import pytest

from data_pipeline.errors import DataError
from data_pipeline.shards import ShardReader
from data_pipeline.verification_sets.pair_lists import pack_pair_list, read_pair_list
from tests.data_pipeline.pictures import jpeg


def pairs_of(listed):
    """(first path, second path, same, fold) of each pair."""
    return [
        (listed.images[first], listed.images[second], same, fold)
        for first, second, same, fold in zip(
            listed.first, listed.second, listed.same.tolist(), listed.fold.tolist(), strict=True
        )
    ]


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def write_cfp(root, *, folds=10):
    """CFP's protocol with one same and one different pair a fold in each part."""
    protocol = root / "Protocol"
    for kind, pose in (("F", "frontal"), ("P", "profile")):
        lines = (
            f"{10 * person + k} ../Data/Images/{person:03d}/{pose}/{k:02d}.jpg\n"
            for person in (1, 2)
            for k in (1, 2)
        )
        write(protocol / f"Pair_list_{kind}.txt", "".join(lines))
    for part in ("FF", "FP"):
        for fold in range(1, folds + 1):
            write(protocol / "Split" / part / f"{fold:02d}" / "same.txt", "11,12\n")
            write(protocol / "Split" / part / f"{fold:02d}" / "diff.txt", "21,11\n")
    return protocol


@pytest.mark.parametrize(("form", "pose"), [("cfp-ff", "frontal"), ("cfp-fp", "profile")])
def test_cfp_pairs_a_number_of_frontal_faces_with_one_of_either_list(tmp_path, form, pose):
    listed = read_pair_list(write_cfp(tmp_path), form)
    first, second = pairs_of(listed)[:2]
    assert first == ("Data/Images/001/frontal/01.jpg", f"Data/Images/001/{pose}/02.jpg", True, 0)
    assert second == ("Data/Images/002/frontal/01.jpg", f"Data/Images/001/{pose}/01.jpg", False, 0)
    assert listed.fold.tolist() == np.repeat(np.arange(10), 2).tolist()


def test_calfw_and_cplfw_pair_two_lines_and_0_means_different_persons(tmp_path):
    text = "Ann_0001.jpg 3\nAnn_0002.jpg 3\nAnn_0001.jpg 0\nBob B_0001.jpg 0\n"
    for form in ("calfw", "cplfw"):
        listed = read_pair_list(write(tmp_path / "pairs.txt", text), form)
        assert pairs_of(listed) == [
            ("Ann_0001.jpg", "Ann_0002.jpg", True, 0),
            ("Ann_0001.jpg", "Bob B_0001.jpg", False, 0),
        ]


def test_sllfw_pairs_two_lines_of_one_or_of_two_persons(tmp_path):
    text = "Ann/Ann_0001.jpg\nAnn/Ann_0002.jpg\nAnn/Ann_0001.jpg\nBob/Bob_0001.jpg\n"
    assert pairs_of(read_pair_list(write(tmp_path / "pairs.txt", text), "sllfw")) == [
        ("Ann/Ann_0001.jpg", "Ann/Ann_0002.jpg", True, 0),
        ("Ann/Ann_0001.jpg", "Bob/Bob_0001.jpg", False, 0),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "1 a/0.jpg a/1.jpg\n0 a/2.jpg a/1.jpg\n",
        "a/0.jpg a/1.jpg 1\r\na/2.jpg a/1.jpg -1\r\n",
        "1\ta/0.jpg\ta/1.jpg\n\n-1\ta/2.jpg\ta/1.jpg",
    ],
)
def test_flagged_pairs_have_their_flag_first_or_last(tmp_path, text):
    assert pairs_of(read_pair_list(write(tmp_path / "ann.txt", text), "flagged")) == [
        ("a/0.jpg", "a/1.jpg", True, 0),
        ("a/2.jpg", "a/1.jpg", False, 0),
    ]


def test_a_list_is_packed_with_each_image_once_and_its_pairs_in_order(tmp_path):
    images = {f"{name}.jpg": jpeg(seed) for seed, name in enumerate("abcd")}
    for name, content in images.items():
        (tmp_path / name).write_bytes(content)
    text = "1 a.jpg b.jpg\n0 a.jpg c.jpg\n1 c.jpg d.jpg\n0 b.jpg d.jpg\n"
    pairs = pack_pair_list(
        write(tmp_path / "ann.txt", text), "flagged", tmp_path, tmp_path / "set", workers=2
    )
    assert pairs.dataset.num_samples == 4
    assert pairs.dataset.num_identities == 2
    reader = ShardReader(pairs.dataset, max_open=1)
    shown = [
        tuple(reader.read(int(sample)).content for sample in pair)
        for pair in zip(pairs.first, pairs.second, strict=True)
    ]
    reader.close()
    names = [line.split()[1:] for line in text.splitlines()]
    assert shown == [(images[first], images[second]) for first, second in names]
    assert pairs.same.tolist() == [True, False, True, False]
    assert pairs.fold.tolist() == [0, 0, 1, 1]


def test_a_list_that_contradicts_itself_keeps_every_flag(tmp_path):
    for seed, name in enumerate("abc"):
        (tmp_path / f"{name}.jpg").write_bytes(jpeg(seed))
    text = "1 a.jpg b.jpg\n1 b.jpg c.jpg\n0 a.jpg c.jpg\n"
    pairs = pack_pair_list(write(tmp_path / "ann.txt", text), "flagged", tmp_path, tmp_path / "set")
    assert pairs.same.tolist() == [True, True, False]


@pytest.mark.parametrize(
    ("form", "text", "message"),
    [
        ("calfw", "a.jpg 1\nb.jpg 1\nc.jpg 1\n", "has an odd number of lines"),
        ("calfw", "a.jpg 1\nb.jpg 2\n", "line 1: expected two lines `path number`"),
        ("calfw", "a.jpg 1\nb.jpg x\n", "line 1: expected two lines `path number`"),
        ("cplfw", "a.jpg\nb.jpg\n", "line 1: expected two lines `path number`"),
        ("sllfw", "a/b.jpg\n\nb.jpg\n", "line 1: expected two lines `person/image`"),
        ("flagged", "1 a b\n2 a b\n", "line 2: expected `flag path path`"),
        ("flagged", "1 a\n", "line 1: expected `flag path path`"),
        ("flagged", "1 a b c\n", "line 1: expected `flag path path`"),
        ("flagged", " \n", "is empty"),
    ],
)
def test_a_line_of_another_form_is_named(tmp_path, form, text, message):
    with pytest.raises(DataError, match=message) as caught:
        read_pair_list(write(tmp_path / "pairs.txt", text), form)
    assert "\n" not in str(caught.value)


def test_damage_to_cfps_protocol_is_named_with_its_file(tmp_path):
    protocol = write_cfp(tmp_path, folds=9)
    with pytest.raises(DataError, match=r"cannot read .*FF/10/same.txt: No such file"):
        read_pair_list(protocol, "cfp-ff")
    write(protocol / "Split" / "FF" / "03" / "diff.txt", "11,99\n")
    with pytest.raises(DataError, match=r"03/diff.txt, line 1: expected `number,number`"):
        read_pair_list(protocol, "cfp-ff")
    write(protocol / "Pair_list_P.txt", "x y\n")
    with pytest.raises(DataError, match=r"Pair_list_P.txt, line 1: expected `number path`"):
        read_pair_list(protocol, "cfp-ff")


@pytest.mark.parametrize("path", ["../secret.jpg", "/secret.jpg", "a/../../secret.jpg"])
def test_images_outside_of_their_folder_are_refused(tmp_path, path):
    (tmp_path / "secret.jpg").write_bytes(jpeg(1))
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").write_bytes(jpeg(2))
    pairs = write(tmp_path / "ann.txt", f"0 {path} a.jpg\n")
    with pytest.raises(DataError, match="leads out of the root"):
        pack_pair_list(pairs, "flagged", tmp_path / "images", tmp_path / "set")
    assert not (tmp_path / "set").exists()


def test_missing_images_and_folders_are_named(tmp_path):
    pairs = write(tmp_path / "ann.txt", "0 a.jpg b.jpg\n")
    with pytest.raises(DataError, match=r"the folder of images .*none does not exist"):
        pack_pair_list(pairs, "flagged", tmp_path / "none", tmp_path / "set")
    with pytest.raises(DataError, match=r"a.jpg: cannot be read: No such file"):
        pack_pair_list(pairs, "flagged", tmp_path, tmp_path / "set")
