import pickle

import pyarrow
import pyarrow.parquet
import pytest

from data_pipeline.errors import DataError
from data_pipeline.pack import pack
from data_pipeline.sources import for_workers
from data_pipeline.sources.folder import FolderSource
from data_pipeline.sources.lists import ListSource
from data_pipeline.sources.opening import open_source
from tests.data_pipeline.pictures import MemorySource, contents, jpeg, write_folder

FACES = {("ann", "1.jpg"): jpeg(1), ("ann", "2.jpg"): jpeg(2), ("bob", "x, y.jpg"): jpeg(3)}
ROWS = [("ann", "ann/1.jpg"), ("ann", "ann/2.jpg"), ("bob", "bob/x, y.jpg")]


@pytest.fixture
def root(tmp_path):
    return write_folder(tmp_path / "root", FACES)


def listed(root, text, *, name="list.csv"):
    (root / name).write_text(text, encoding="utf-8")
    return list(ListSource.open(root / name))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.csv", 'ann/1.jpg,ann\nann/2.jpg,ann\n"bob/x, y.jpg",bob\n'),
        ("list.csv", 'path,label\nann/1.jpg,ann\nann/2.jpg,ann\n"bob/x, y.jpg",bob\n'),
        ("list.csv", 'Label,size,PATH\nann,1,ann/1.jpg\nann,,ann/2.jpg\nbob,3,"bob/x, y.jpg"\n'),
        ("list.csv", '\ufeffpath,label\r\nann/1.jpg,ann\r\nann/2.jpg,ann\r\n"bob/x, y.jpg",bob'),
        ("list.tsv", "ann/1.jpg\tann\nann/2.jpg\tann\n\nbob/x, y.jpg\tbob\n"),
        ("list.txt", "label\tpath\nann\tann/1.jpg\nann\tann/2.jpg\nbob\tbob/x, y.jpg\n"),
    ],
)
def test_text_with_and_without_titles_quotes_and_tabs_names_the_same_images(root, name, text):
    assert listed(root, text, name=name) == ROWS


@pytest.mark.parametrize("label_type", [pyarrow.string(), pyarrow.large_string()])
def test_parquet_names_them_too_in_any_order_of_columns(root, label_type):
    table = {
        "label": pyarrow.array([label for label, _ in ROWS], label_type),
        "more": [1, 2, 3],
        "path": [path for _, path in ROWS],
    }
    pyarrow.parquet.write_table(pyarrow.table(table), root / "list.parquet")
    assert list(ListSource.open(root / "list.parquet")) == ROWS


def test_labels_are_text_as_it_stands_and_numbers_of_parquet_their_digits(root):
    assert listed(root, "a.jpg,007\nb.jpg,7\n") == [("007", "a.jpg"), ("7", "b.jpg")]
    table = pyarrow.table({"path": ["a.jpg"], "label": [7]})
    pyarrow.parquet.write_table(table, root / "list.parquet")
    assert list(ListSource.open(root / "list.parquet")) == [("7", "a.jpg")]


def test_a_list_packs_to_the_bytes_of_a_source_with_the_same_names(tmp_path, root):
    (root / "list.csv").write_text("path,label\n" + "".join(f'"{p}",{l}\n' for l, p in ROWS))
    pack(open_source(root / "list.csv"), tmp_path / "list", workers=2)
    same = {(label, path): FACES[label, path.split("/")[1]] for label, path in ROWS}
    pack(MemorySource(same), tmp_path / "memory")
    a, b = contents(tmp_path / "list"), contents(tmp_path / "memory")
    assert a["shard-000000.tar"] == b["shard-000000.tar"]
    assert a["identities.parquet"] == b["identities.parquet"]


def test_the_root_may_be_elsewhere(tmp_path, root):
    (tmp_path / "list.csv").write_text("1.jpg,ann\n")
    source = ListSource.open(tmp_path / "list.csv", root=root / "ann")
    assert source.read("ann", "1.jpg") == FACES["ann", "1.jpg"]


def test_what_workers_get_reads_but_carries_no_listing(root):
    (root / "list.csv").write_text("".join(f"ann/1.jpg,{i}\n" for i in range(20_000)))
    sent = pickle.dumps(for_workers(ListSource.open(root / "list.csv")))
    assert len(sent) < 2000
    assert pickle.loads(sent).read("0", "ann/1.jpg") == FACES["ann", "1.jpg"]


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../../x", "..", "a/..", ".", "./", "/"])
def test_paths_that_leave_the_root_are_refused_when_listed_and_when_read(root, path):
    with pytest.raises(DataError, match="leads out of the root"):
        listed(root, f"{path},ann\n")
    (root / "good.csv").write_text("ann/1.jpg,ann\n")
    source = ListSource.open(root / "good.csv")
    with pytest.raises(DataError, match="leads out of the list's root"):
        source.read("ann", path)


def test_links_that_leave_the_root_make_an_image_unreadable_others_do_not(tmp_path, root):
    (tmp_path / "secret").write_bytes(b"secret")
    (root / "out.jpg").symlink_to(tmp_path / "secret")
    (root / "folder").symlink_to(tmp_path)
    (root / "in.jpg").symlink_to(root / "ann" / "1.jpg")
    (root / "list.csv").write_text("out.jpg,a\nfolder/secret,a\nin.jpg,a\n")
    source = ListSource.open(root / "list.csv")
    for name in ("out.jpg", "folder/secret"):
        with pytest.raises(DataError, match="leads out"):
            source.read("a", name)
    assert source.read("a", "in.jpg") == FACES["ann", "1.jpg"]


def test_folders_are_not_images(root):
    (root / "list.csv").write_text("ann,a\n")
    with pytest.raises((DataError, OSError)):
        ListSource.open(root / "list.csv").read("a", "ann")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "its first line has 0 columns"),
        ("a.jpg\n", "its first line has 1 columns; give two"),
        ("a.jpg,b,c\n", "its first line has 3 columns; give two"),
        ("path,label\n", "names no images"),
        ("path,path,label\na,b,c\n", "its first line has 3 columns"),
        ("a.jpg,b\nc.jpg\n", "is not a list of paths and labels: .*Expected 2 columns, got 1"),
        ("a.jpg,b\nc.jpg,\n", "an entry has no label"),
        ("a.jpg,b\n,c\n", "an entry has no path"),
        ('a.jpg,"b\n', "a label holds a control character; is a quote not closed"),
        ("a.jpg,b\x00c\n", "a label holds a control character"),
    ],
)
def test_a_damaged_list_is_refused_in_one_line(root, text, message):
    with pytest.raises(DataError, match=message) as caught:
        listed(root, text)
    assert "\n" not in str(caught.value)


def test_text_that_is_not_utf_8_is_refused(root):
    (root / "list.csv").write_bytes(b"a.jpg,\xff\xfe\n")
    with pytest.raises(DataError, match=r"is not a list of paths and labels: .*UTF8"):
        ListSource.open(root / "list.csv")


def test_parquet_that_lacks_a_column_or_holds_nothing_for_it_is_refused(root):
    for columns, message in (
        ({"path": ["a"]}, "has no column 'label'"),
        ({"path": ["a", None], "label": ["b", "c"]}, "an entry has no path"),
        ({"path": ["a"], "label": [[1, 2]]}, "is not a list of paths and labels"),
    ):
        pyarrow.parquet.write_table(pyarrow.table(columns), root / "list.parquet")
        with pytest.raises(DataError, match=message):
            ListSource.open(root / "list.parquet")
    (root / "list.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(DataError, match="is not a list of paths and labels"):
        ListSource.open(root / "list.parquet")


def test_missing_lists_and_roots_are_named(tmp_path, root):
    with pytest.raises(DataError, match=r"cannot read the list .*none.csv: No such file"):
        ListSource.open(root / "none.csv")
    with pytest.raises(DataError, match=r"the root .*none of the list .* is not a folder"):
        ListSource.open(tmp_path / "list.csv", root=tmp_path / "none")


def test_a_path_opens_as_the_kind_of_source_it_looks_like(root):
    (root / "list.csv").write_text("ann/1.jpg,ann\n")
    assert isinstance(open_source(root / "list.csv"), ListSource)
    assert isinstance(open_source(root), FolderSource)
    with pytest.raises(DataError, match=r"set.rec does not exist"):
        open_source(root / "set.rec")
