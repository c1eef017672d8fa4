import io
import os
import pickle
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_pipeline.errors import DataError
from data_pipeline.pairs import PairSet
from data_pipeline.shards import ShardReader
from data_pipeline.verification_sets import bin_file
from data_pipeline.verification_sets.bin_file import pack_bin, read_bin
from tests.data_pipeline.pictures import encoded, jpeg, pixels

IMAGES = [jpeg(seed) for seed in (1, 2, 1, 3, 4, 5, 6, 2)]  # two of them come twice
SAME = [True, True, False, False]


def written(tmp_path: Path, held: object, *, protocol: int = 4) -> Path:
    path = tmp_path / "set.bin"
    path.write_bytes(pickle.dumps(held, protocol=protocol))
    return path


def images_of(path, scratch):
    scratch.mkdir(exist_ok=True)
    read = read_bin(path, scratch)
    content = read.images.read_bytes()
    ends = read.ends.tolist()
    return [content[a:b] for a, b in pairwise(ends)], read.same.tolist()


FORMS = {
    "bytes": lambda image: image,
    "an array": lambda image: np.frombuffer(image, np.uint8),
    "a column": lambda image: np.frombuffer(image, np.uint8).reshape(-1, 1),
}
FLAGS = {
    "a list": SAME,
    "numpy's": [np.bool_(flag) for flag in SAME],
    "an array": np.array(SAME),
    "numbers": [int(flag) for flag in SAME],
    "a tuple": tuple(SAME),
}


@pytest.mark.parametrize("protocol", [0, 2, 3, 4, 5])
def test_images_and_flags_in_every_form_and_protocol_are_read(tmp_path, protocol):
    forms = list(FORMS.values())
    images = [forms[i % len(forms)](image) for i, image in enumerate(IMAGES)]
    flags = list(FLAGS.values())[protocol % len(FLAGS)]
    path = written(tmp_path, (images, flags), protocol=protocol)
    assert images_of(path, tmp_path / "scratch") == (IMAGES, SAME)


@pytest.mark.parametrize("flags", FLAGS.values(), ids=FLAGS)
def test_flags_in_every_form_are_read(tmp_path, flags):
    path = written(tmp_path, (IMAGES, flags))
    assert images_of(path, tmp_path / "scratch")[1] == SAME


def test_a_pickle_of_python_2_is_read(tmp_path):
    # As Python 2 wrote `pickle.dump(([a, b], [True]))` with protocol 0 and with 2.
    text = b"((lp0\nS'\\xff\\xd8a'\np1\naS'b'\np2\na(lp3\nI01\natp4\n."
    binary = b"\x80\x02]q\x01(U\x03\xff\xd8aU\x01be]q\x02\x88a\x86q\x03."
    for content in (text, binary):
        (tmp_path / "set.bin").write_bytes(content)
        assert images_of(tmp_path / "set.bin", tmp_path) == ([b"\xff\xd8a", b"b"], [True])


def test_pixels_become_an_image_file_with_the_same_pixels(tmp_path):
    path = written(tmp_path, ([pixels(1), pixels(2)[:, :8].copy()], [False]))
    (first, second), _ = images_of(path, tmp_path / "scratch")
    for content, expected in ((first, pixels(1)), (second, pixels(2)[:, :8])):
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(content))), expected)


def test_a_set_is_packed_with_each_image_once_and_its_pairs_in_order(tmp_path):
    pairs = pack_bin(written(tmp_path, (IMAGES, SAME)), tmp_path / "set", workers=2)
    assert pairs.dataset.num_samples == 6
    reader = ShardReader(pairs.dataset, max_open=1)
    shown = [
        reader.read(int(sample)).content
        for pair in zip(pairs.first, pairs.second, strict=True)
        for sample in pair
    ]
    reader.close()
    assert shown == IMAGES
    assert pairs.same.tolist() == SAME
    assert pairs.fold.tolist() == [0, 1, 2, 3]
    assert PairSet.open(tmp_path / "set").dataset.source["images_in_pairs"] == 8


def test_folds_are_the_contiguous_tenths_of_insightface(tmp_path):
    images = [jpeg(seed, 4) for seed in range(50)]
    pairs = pack_bin(written(tmp_path, (images, [True] * 25)), tmp_path / "set")
    # sklearn.model_selection.KFold(10, shuffle=False) over 25 pairs: five of three, five of two.
    assert pairs.fold.tolist() == np.repeat(np.arange(10), [3] * 5 + [2] * 5).tolist()


def test_a_set_that_contradicts_itself_keeps_every_flag(tmp_path):
    a, b, c = (jpeg(seed) for seed in range(3))
    pairs = pack_bin(written(tmp_path, ([a, b, b, c, a, c], [1, 1, 0])), tmp_path / "set")
    assert pairs.same.tolist() == [True, True, False]
    assert pairs.dataset.num_samples == 6


def test_an_unreadable_image_fails_the_set_and_leaves_nothing(tmp_path):
    path = written(tmp_path, ([jpeg(1), b"no image"], [True]))
    with pytest.raises(DataError, match=r"1 of 2 images cannot be read"):
        pack_bin(path, tmp_path / "set")
    assert [file.name for file in tmp_path.iterdir()] == ["set.bin"]


class Runs:
    """Unpickled by `pickle.load`, it would call the function."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    "harmful",
    [
        Runs(os.system, "touch harmed"),
        Runs(exec, "open('harmed', 'w')"),
        Runs(subprocess.check_output, ["touch", "harmed"]),
        Runs(getattr, "", "join"),
        Runs(np.load, "x"),
        Runs(np.frombuffer, b"x"),
    ],
)
def test_nothing_that_a_pickle_names_is_called(tmp_path, harmful, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = written(tmp_path, ([harmful, b""], [True]))
    with pytest.raises(DataError, match=r"UnpicklingError: it names .* which is not let in"):
        images_of(path, tmp_path / "scratch")
    assert not (tmp_path / "harmed").exists()


def memo_of_two_billion() -> bytes:
    return b"\x80\x04K\x01r\xff\xff\xff\x7f."


def deep() -> bytes:
    return b"(" * 100_000 + b"l" * 100_000 + b"."


def claims_much() -> bytes:
    return b"\x80\x04\x8e" + (1 << 40).to_bytes(8, "little") + b"few"


def grows() -> bytes:
    """Doubles a tuple's content 40 times when it is written out; small as references."""
    return b"\x80\x04]" + b"2\x86" * 40 + b"."


@pytest.mark.parametrize("content", [memo_of_two_billion(), deep(), claims_much(), grows()])
def test_a_pickle_that_asks_for_much_is_refused(tmp_path, content):
    (tmp_path / "set.bin").write_bytes(content)
    with pytest.raises(DataError, match="is no verification set that can be read"):
        images_of(tmp_path / "set.bin", tmp_path)


@pytest.mark.parametrize(
    ("held", "message"),
    [
        ("text", "it is not a pair of images and flags"),
        (([], []), "holds no pairs"),
        (([b"a"], [True]), "it holds 1 images for 1 pairs"),
        (({}, [True]), "its images are not a list"),
        (([b"a", b"b"], 3), "its flags are not a list"),
        (([b"a", b"b"], [2]), "a flag that is neither yes nor no"),
        (([b"a", b"b"], [None]), "a flag that is neither yes nor no"),
        (([b"a", "b"], [True]), "something else where bytes belong"),
        (([b"a", np.zeros(3)], [True]), "an image that is no array of bytes"),
        (([b"a", np.zeros((2, 2), np.uint8)], [True]), r"an image of shape \[2, 2\]"),
        (([b"a", b"b"], np.array([3], np.uint8)), "a number of a kind that is not let in"),
    ],
)
def test_what_is_no_set_is_refused_in_one_line(tmp_path, held, message):
    with pytest.raises(DataError, match=message) as caught:
        images_of(written(tmp_path, held), tmp_path / "scratch")
    assert "\n" not in str(caught.value)


def test_a_cut_a_foreign_and_a_missing_file_are_refused(tmp_path):
    path = written(tmp_path, (IMAGES, SAME))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"set.bin is no verification set that can be read"):
        images_of(path, tmp_path / "scratch")
    path.write_bytes(encoded(pixels(1)))
    with pytest.raises(DataError, match=r"set.bin is no verification set that can be read"):
        images_of(path, tmp_path / "scratch")
    with pytest.raises(DataError, match=r"cannot read .*none.bin: No such file"):
        pack_bin(tmp_path / "none.bin", tmp_path / "set")


def test_the_reader_that_dies_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(bin_file, "_READER", tmp_path / "reader.py")
    (tmp_path / "reader.py").write_text("import sys; sys.exit('killed')")
    with pytest.raises(DataError, match="its reader ended with status 1: killed"):
        images_of(written(tmp_path, (IMAGES, SAME)), tmp_path / "scratch")


def test_the_reader_needs_the_standard_library_alone():
    reader = Path(bin_file.__file__).with_name("bin_reader.py")
    code = f"import runpy, sys; runpy.run_path({str(reader)!r}); print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, check=True, text=True
    ).stdout.split()
    assert not {"numpy", "torch", "PIL", "data_pipeline"} & set(loaded)
