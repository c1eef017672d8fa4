"""What the pages show: everything of a dataset by number, names only where they were asked for."""

import io
import re
import shutil
import tracemalloc
from collections import Counter
from dataclasses import replace

import numpy as np
import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from cluster.browse.identities import PAGE
from cluster.browse.site import COMMON
from data_pipeline.index import IDENTITIES, INDEX, file_of, index_text
from data_pipeline.pack import pack
from data_pipeline.pairs import pack_drawn_pairs
from data_pipeline.presets import PRESETS
from data_pipeline.reindex import reindex, tars_of
from tests.cluster.visitor import Page, Visitor
from tests.data_pipeline.faces import dataset_of, flip_byte
from tests.data_pipeline.pictures import MemorySource, jpeg, people

EVIL = '"><script src=//evil></script><b onclick=1>\u202eana'


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Sixty people: one with a hundred images, one with a hostile name."""
    counts = {f"person {n}": 1 + n % 2 for n in range(58)} | {EVIL: 3, "crowd": 100}
    return pack(people(counts), tmp_path_factory.mktemp("browse") / "faces")


@pytest.fixture
def visitor(dataset):
    made = Visitor(dataset.path)
    yield made
    made.site.close()


@pytest.fixture
def with_names(dataset):
    made = Visitor(dataset.path, with_names=True)
    yield made
    made.site.close()


def crawl(visitor):
    """Pages that links lead to from the first page on, up to eight of a kind."""
    waiting, seen, kinds, pages = [visitor.door.root], set(), Counter(), {}
    while waiting:
        address = waiting.pop(0)
        kind = re.split("[/?]", address.removeprefix(visitor.door.root))[0]
        if address in seen or kinds[kind] == 8:
            continue
        seen.add(address)
        kinds[kind] += 1
        answer = visitor.ask(address)
        assert answer.status == 200, address
        pages[address] = answer.body.decode()
        waiting += [a for a in Page(pages[address]).every("a", "href") if not a.startswith("#")]
    assert {"", "identities", "identity", "face"} <= set(kinds)
    return pages


def test_no_page_has_a_script_or_anything_from_elsewhere(visitor):
    for address, text in crawl(visitor).items():
        page = Page(text)
        names = {name for name, _ in page.elements}
        assert not names & {"script", "style", "iframe", "object", "base"}, address
        for name, attributes in page.elements:
            assert not [key for key in attributes if key.startswith("on") or key == "style"]
            for key in ("href", "src", "action"):
                target = attributes.get(key)
                assert target is None or target.startswith((visitor.door.root, "#")), (name, target)


def test_every_picture_has_words_and_every_field_a_label(visitor):
    for address, text in crawl(visitor).items():
        page = Page(text)
        pictures = [attributes for name, attributes in page.elements if name == "img"]
        assert all(attributes.get("alt") for attributes in pictures), address
        fields = len(re.findall("<(?:input|select)", text))
        assert fields == len(re.findall("<label>[^<]+<(?:input|select)", text)), address
        assert sum(name == "h1" for name, _ in page.elements) == 1


def test_no_page_tells_a_name_unless_asked(visitor, dataset):
    for text in crawl(visitor).values():
        assert "person " not in text
        assert "crowd" not in text
        assert "evil" not in text
    for path in ("identities?search=person", "face/5?preset=x", "nothing", "identity/99"):
        assert "person 1" not in visitor.get(path).body.decode()


def test_names_are_shown_escaped_when_asked(with_names):
    texts = "".join(crawl(with_names).values())
    assert "<script" not in texts
    assert "<bdi>person 1</bdi>" in texts
    assert "&lt;script src=//evil&gt;" in texts, "and kept from turning the text around it"


def test_the_folder_of_a_dataset_is_shown_escaped(dataset, tmp_path):
    folder = tmp_path / "<script src=x><b>"
    shutil.copytree(dataset.path, folder)
    visitor = Visitor(folder)
    for text in crawl(visitor).values():
        assert "<script" not in text
        assert "&lt;script src=x&gt;" in text
    visitor.site.close()


def test_names_are_found_by_part_and_identities_by_number(visitor, with_names):
    names = with_names.shown.names.of(np.arange(60))
    wanted = [label for label, name in enumerate(names) if "person 1" in name.lower()]
    assert with_names.identities("identities?search=PERSON+1") == wanted
    assert with_names.identities("identities?search=%3Cscript") == [names.index(EVIL)]
    both = with_names.identities("identities?search=7")
    assert both[0] == 7, "the number comes first"
    assert set(both[1:]) == {label for label, n in enumerate(names) if "7" in n} - {7}
    assert visitor.identities("identities?search=person") == []
    assert "names are not shown" in visitor.page("identities?search=person").text


@pytest.mark.parametrize(
    ("query", "target"),
    [
        ("search=7", "identity/7"),
        ("search=7&as=identity", "identity/7"),
        ("search=7&as=image", "face/7"),
        ("search=+ann+", "identities?search=ann"),
        ("search=", "identities"),
    ],
)
def test_searching_leads_to_the_page_of_a_number_or_a_name(visitor, query, target):
    answer = visitor.get(f"find?{query}")
    assert answer.status == 303
    assert dict(answer.headers)["Location"] == f"{visitor.door.root}{target}"


def test_pages_of_identities_follow_each_other_without_gaps(visitor):
    for order in ("label", "most", "fewest"):
        both = [visitor.identities(f"identities?order={order}&page={page}") for page in (1, 2)]
        assert [len(part) for part in both] == [PAGE, 60 - PAGE]
        assert sorted(both[0] + both[1]) == list(range(60))
        images = visitor.shown.album.images[both[0] + both[1]].tolist()
        if order != "label":
            assert images == sorted(images, reverse=order == "most")
    assert visitor.identities("identities?page=999") == visitor.identities("identities?page=2")
    chosen = visitor.identities("identities?at_least=3&at_most=100&order=fewest")
    assert visitor.shown.album.images[chosen].tolist() == [3, 100]


def test_an_identity_shows_all_its_images_page_by_page(visitor):
    many = int(visitor.shown.album.images.argmax())
    found = []
    for page in (1, 2, 3):
        sources = visitor.page(f"identity/{many}?page={page}").every("img", "src")
        found += [int(source.rpartition("/")[2]) for source in sources]
    assert found == visitor.shown.album.samples(many).tolist()


def test_pictures_are_made_anew_and_views_are_as_large_as_the_network_asks(visitor):
    thumbnail, view = visitor.get("thumbnail/3"), visitor.get("view/3?preset=strong&epoch=2&seed=1")
    assert thumbnail.content_type == "image/jpeg"
    assert Image.open(io.BytesIO(thumbnail.body)).size == (16, 16)
    assert view.content_type == "image/png"
    assert Image.open(io.BytesIO(view.body)).size == (16, 16)


def test_the_page_of_an_image_shows_a_dozen_epochs_and_every_preset(visitor):
    sources = visitor.page("face/3?preset=strong&epoch=5&seed=2").every("img", "src")
    views = [source for source in sources if "/view/3" in source]
    epochs = [f"preset=strong&epoch={epoch}&seed=2" for epoch in range(5, 17)]
    assert [source.partition("?")[2] for source in views[:12]] == epochs
    assert len(views) == 12 + len(PRESETS)
    assert all("epoch=5&seed=2" in source for source in views[12:])


@pytest.mark.parametrize(
    "path",
    [
        *("identity/60", "identity/-1", "identity/x", "identity/", "identity/1/2", "identity/²"),
        *("face/999999", "thumbnail/1.jpg", "thumbnail/..", "thumbnail/../../etc/passwd"),
        *("view/%30", "pairs", "x", "identities/", "find?search=99", "find?search=x&as=image"),
        "thumbnail/" + "9" * 5000,
    ],
)
def test_what_does_not_exist_is_not_found(visitor, path):
    assert visitor.get(path).status == 404


@pytest.mark.parametrize(
    "path",
    [
        *("identities?page=0", "identities?page=x", "identities?page=-1", "identities?page=1e3"),
        *(
            "identities?order=name",
            "identities?page=1&page=2",
            "identities?at_most=9999999999999999999",
        ),
        *("face/1?preset=x", "face/1?epoch=1000000001", "face/1?seed=-1", "view/1?epoch=x"),
        *("find?as=x", "identities?search=" + "a" * 101, "identities?search=%ff"),
        "identities?" + "&".join(f"a{n}=1" for n in range(100)),
    ],
)
def test_what_is_asked_wrongly_is_explained(visitor, path):
    answer = visitor.get(path)
    assert answer.status == 400
    text = Page(answer.body.decode()).text
    assert " must " in text or "The address has" in text


def test_damaged_images_are_shown_as_such_and_the_others_as_they_are(tmp_path):
    made = pack(people({"ann": 3, "bob": 2}), tmp_path / "faces")
    flip_byte(made, 2)
    visitor = Visitor(made.path)
    for path in ("thumbnail/2", "view/2"):
        answer = visitor.get(path)
        assert (answer.status, answer.content_type) == (200, "image/svg+xml")
        assert b"its bytes changed" in answer.body
    assert "its bytes changed" in visitor.page("face/2").text
    assert visitor.get("thumbnail/1").content_type == "image/jpeg"
    visitor.site.close()


def test_a_dataset_that_is_damaged_meanwhile_is_said_to_be(tmp_path):
    made = pack(people({"ann": 3, "bob": 2}), tmp_path / "faces")
    visitor = Visitor(made.path)
    records = made.path / f"{made.shards[0].name}.members"
    records.write_bytes(bytes(records.stat().st_size))
    answer = visitor.get("face/2")
    assert answer.status == 500
    assert "is damaged" in Page(answer.body.decode()).text
    assert b"its shard cannot be read" in visitor.get("thumbnail/2").body
    visitor.site.close()


def test_tars_that_were_indexed_where_they_lie_are_shown_too(tmp_path):
    made = pack(people({"ann": 3, "bob": 2}), tmp_path / "faces")
    (tmp_path / "tars").mkdir()
    for shard in made.shards:
        (made.path / f"{shard.name}.tar").rename(tmp_path / "tars" / f"{shard.name}.tar")
    reindex(tars_of(str(tmp_path / "tars")), tmp_path / "indexed")
    visitor = Visitor(tmp_path / "indexed")
    assert len(crawl(visitor)) > 5
    for sample in range(5):
        assert visitor.get(f"thumbnail/{sample}").content_type == "image/jpeg"
        assert visitor.get(f"view/{sample}").content_type == "image/png"
    visitor.site.close()


def test_the_pairs_of_a_verification_set_stand_side_by_side(tmp_path):
    images = {(f"p{n % 12}", f"{n}.jpg"): jpeg(n) for n in range(60)}
    pairs = pack_drawn_pairs(MemorySource(images), tmp_path / "pairs", num_pairs=40, folds=2)
    visitor = Visitor(pairs.dataset.path)
    found = []
    for page in (1, 2):
        sources = visitor.page(f"pairs?page={page}").every("img", "src")
        found += [int(source.rpartition("/")[2]) for source in sources]
    assert found == np.stack([pairs.first, pairs.second], axis=1).ravel().tolist()
    same = visitor.page("pairs?kind=same&fold=1")
    assert len(same.every("img", "src")) == 2 * int((pairs.same & (pairs.fold == 1)).sum())
    assert "one person" in same.text
    assert visitor.page().text.count("A verification set.") == 1
    visitor.site.close()


def test_answers_are_kept_nowhere_and_embedded_nowhere():
    headers = dict(COMMON)
    assert headers["Cache-Control"] == "no-store"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["X-Content-Type-Options"] == "nosniff"
    policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))
    assert policy == {
        "default-src": "'none'",
        "img-src": "'self'",
        "style-src": "'self'",
        "form-action": "'self'",
        "base-uri": "'none'",
        "frame-ancestors": "'none'",
    }


def many(folder, identities):
    """A dataset of so many identities with an image each, most of whose tar is a hole."""
    made = dataset_of(folder, [jpeg(0)], [0], num_identities=1)
    (shard,) = made.shards
    records = np.repeat(made.members(0), identities)
    records["label"] = np.arange(identities)
    (folder / f"{shard.name}.members").write_bytes(records.tobytes())
    names = pyarrow.table({"name": [f"person {n}" for n in range(identities)]})
    parquet.write_table(names, folder / IDENTITIES, row_group_size=1 << 16)
    shard = replace(shard, samples=identities, members=file_of(folder / f"{shard.name}.members"))
    (folder / INDEX).write_text(
        index_text(
            replace(
                made,
                num_samples=identities,
                num_identities=identities,
                shards=(shard,),
                extras={IDENTITIES: file_of(folder / IDENTITIES)},
            )
        )
    )
    return folder


def test_of_very_many_identities_only_a_page_becomes_objects(tmp_path):
    identities = 300_000
    path = many(tmp_path / "faces", identities)
    tracemalloc.start()
    visitor = Visitor(path, with_names=True)
    opened, peak = tracemalloc.get_traced_memory()
    assert opened < 24 * identities, "numbers of samples and images, and a little"
    for page in ("", "identities?order=fewest&page=999999", "identities?search=person+29999"):
        tracemalloc.reset_peak()
        assert len(visitor.page(page).every("img", "src")) > 10
        peak = tracemalloc.get_traced_memory()[1] - opened
        # two orders and masks of 8 bytes each; a name as an object alone would take 60
        assert peak < 50 * identities, page
    tracemalloc.stop()
    visitor.site.close()
