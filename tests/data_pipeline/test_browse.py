"""Looking at a dataset finds what plain Python finds, and shows what training is fed."""

import io
from collections import Counter, defaultdict

import numpy as np
import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from data_pipeline.browse import Album
from data_pipeline.browse_images import Pictures
from data_pipeline.browse_names import Names
from data_pipeline.errors import DataError
from data_pipeline.index import Dataset
from data_pipeline.pack import pack
from data_pipeline.shards import BadSampleError
from tests.data_pipeline.faces import dataset_of, flip_byte, jpeg
from tests.data_pipeline.pictures import people

LABELS = [3, 0, 3, 4, 3, 3, 0, 3, 4, 3, 9, 3, 6, 3, 3]  # 9 does not exist; 1, 2, 5 have nobody


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    contents = [jpeg(seed) for seed in range(len(LABELS))]
    folder = tmp_path_factory.mktemp("browse") / "faces"
    made = dataset_of(folder, contents, LABELS, num_identities=7, shard_bytes=4_000)
    assert len(made.shards) >= 3
    return made


@pytest.fixture(scope="module")
def album(dataset):
    return Album(dataset)


def samples_by_label():
    found = defaultdict(list)
    for sample, label in enumerate(LABELS):
        found[label].append(sample)
    return found


def test_the_images_of_an_identity_are_those_with_its_label(album):
    for label in range(7):
        assert album.samples(label).tolist() == samples_by_label()[label]
        assert album.images[label] == len(samples_by_label()[label])
    firsts = album.first_samples(np.arange(7))
    assert firsts == [min(samples_by_label()[label], default=None) for label in range(7)]
    assert album.nobodys == 1


@pytest.mark.parametrize("at_least", [0, 1, 2, 100])
@pytest.mark.parametrize("at_most", [None, 0, 1, 2])
def test_identities_are_chosen_and_ordered_by_their_number_of_images(album, at_least, at_most):
    images = {label: len(samples_by_label()[label]) for label in range(7)}
    most = max(images.values()) if at_most is None else at_most
    chosen = [label for label in images if at_least <= images[label] <= most]
    bounds = {"at_least": at_least, "at_most": at_most}
    assert album.labels("label", **bounds).tolist() == chosen
    by_most = sorted(chosen, key=lambda label: (-images[label], label))
    assert album.labels("most", **bounds).tolist() == by_most
    by_fewest = sorted(chosen, key=lambda label: (images[label], label))
    assert album.labels("fewest", **bounds).tolist() == by_fewest


def test_the_histogram_counts_every_identity_and_image_once(album):
    assert [tuple(found) for found in album.histogram()] == [
        (0, 0, 3, 0),
        (1, 1, 1, 1),
        (2, 2, 2, 4),
        (9, 16, 1, 9),
    ]


@pytest.mark.parametrize("images", [[1], [5], [1, 1, 1], [0, 4], list(range(40))])
def test_bins_double_and_hold_what_they_say(tmp_path, images):
    labels = [label for label, count in enumerate(images) for _ in range(count)]
    contents = [jpeg(0)] * len(labels)
    made = dataset_of(tmp_path / "faces", contents, labels, num_identities=len(images))
    bins = Album(made).histogram()
    for found in bins:
        inside = [count for count in images if found.at_least <= count <= found.at_most]
        assert (found.identities, found.images) == (len(inside), sum(inside))
    assert sum(found.identities for found in bins) == len(images)


def test_the_long_tail_starts_at_the_most_and_ends_at_the_fewest(album):
    rank, images = album.long_tail(points=50)
    assert rank.tolist() == list(range(1, 8)), "few identities: each is a point"
    assert images.tolist() == sorted(Counter(dict.fromkeys(range(7), 0) | _counts()).values())[::-1]


def _counts():
    return {label: len(samples) for label, samples in samples_by_label().items() if label < 7}


def test_a_picture_is_encoded_anew_and_says_why_it_cannot_be(tmp_path):
    large = io.BytesIO()
    exif = Image.Exif()
    exif[0x010F] = "a camera's owner"
    exif[0x0112] = 6  # lies on its side
    Image.open(io.BytesIO(jpeg(0, height=40, width=300))).save(large, "JPEG", exif=exif)
    contents = [large.getvalue(), jpeg(1), b"no image"]
    made = dataset_of(tmp_path / "faces", contents, [0, 1, 2], num_identities=3)
    pictures = Pictures(made)
    content = pictures.thumbnail(0, side=100)
    assert b"owner" in large.getvalue()
    assert b"owner" not in content
    assert Image.open(io.BytesIO(content)).size == (13, 100)
    assert Image.open(io.BytesIO(pictures.thumbnail(1, side=100))).size == (32, 32)
    assert pictures.read(1).stored_bytes == len(contents[1])
    with pytest.raises((BadSampleError, DataError)):
        pictures.thumbnail(2, side=100)
    flip_byte(made, 1)
    pictures.close()
    with pytest.raises(BadSampleError) as caught:
        pictures.thumbnail(1, side=100)
    assert caught.value.reason == "crc"


def named(folder, names, *, rows=2):
    """A dataset whose identities have these names, stored in pieces of so many rows."""
    dataset_of(folder, [jpeg(0)] * len(names), range(len(names)), num_identities=len(names))
    table = pyarrow.table({"label": range(len(names)), "name": names, "images": [1] * len(names)})
    parquet.write_table(table, folder / "identities.parquet", row_group_size=rows)
    index = (folder / "index.json").read_text()
    size = (folder / "identities.parquet").stat().st_size
    entry = f'"extras": {{"identities.parquet": {{"bytes": {size}, "sha256": ""}}}}'
    (folder / "index.json").write_text(index.replace('"extras": {}', entry))
    return Dataset.open(folder)


NAMES = ["Ann", "bob", "Änne", "ANNA", "", "a%b_c"]


def test_names_are_looked_up_across_the_pieces_of_the_file(tmp_path):
    names = Names(named(tmp_path / "faces", NAMES))
    assert names.of(np.array([5, 0, 3, 0, 4])) == ["a%b_c", "Ann", "ANNA", "Ann", ""]
    assert names.of(np.empty(0, np.int64)) == []


def test_a_search_finds_parts_of_names_in_any_case_and_takes_them_literally(tmp_path):
    names = Names(named(tmp_path / "faces", NAMES))
    assert names.search("ann", limit=10).tolist() == [0, 3]
    assert names.search("nn", limit=2).tolist() == [0, 2]
    assert names.search("%", limit=10).tolist() == [5]
    assert names.search(".", limit=10).tolist() == []


def test_names_that_do_not_fit_the_dataset_are_refused(tmp_path):
    made = dataset_of(tmp_path / "without", [jpeg(0)], [0], num_identities=1)
    with pytest.raises(DataError, match="do without them"):
        Names(made)
    fewer = named(tmp_path / "fewer", NAMES)
    table = pyarrow.table({"name": ["Ann"]})
    parquet.write_table(table, fewer.path / "identities.parquet")
    with pytest.raises(DataError, match="1 rows for 6 identities"):
        Names(fewer)
    parquet.write_table(pyarrow.table({"name": [1]}), fewer.path / "identities.parquet")
    with pytest.raises(DataError, match="no text"):
        Names(fewer)
    (fewer.path / "identities.parquet").write_bytes(b"PAR1 no table PAR1")
    with pytest.raises(DataError, match="damaged"):
        Names(fewer)


def test_packed_names_are_those_of_the_source(tmp_path):
    made = pack(people({"ann": 2, "bob": 1, "cleo": 3}), tmp_path / "packed")
    names, album = Names(made), Album(made)
    found = dict(zip(names.of(np.arange(3)), album.images.tolist(), strict=True))
    assert found == {"ann": 2, "bob": 1, "cleo": 3}
