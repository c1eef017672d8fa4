"""Only a few forms of address are opened, and none that carries a secret."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.addresses import Address, is_address, redacted
from data_pipeline.errors import DataError


@pytest.mark.parametrize(
    "text",
    [
        "file:///data/a.tar",
        "file:///data/with%20blank.tar",
        "s3://my-bucket/faces/train-0001.tar",
        "gs://b/a.tar",
        "az://container/a.tar",
        "https://example.org/faces/a.tar",
        "https://example.org:8443/a.tar",
        "https://[2606:4700::1111]:443/a.tar",
    ],
)
def test_an_allowed_address_comes_back_as_it_was_written(text):
    assert str(Address.parse(text)) == text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("http://example.org/a.tar", "addresses begin with"),
        ("ftp://example.org/a.tar", "addresses begin with"),
        ("pipe:curl https://example.org/a.tar", "addresses begin with"),
        ("simplecache::s3://bucket/a.tar", "addresses begin with"),
        ("zip://a.jpg::s3://bucket/a.zip", "addresses begin with"),
        ("s3://bucket/a.zip::file:///etc/passwd", "chained"),
        ("s3://bucket::x/a.tar", "chained"),
        ("memory://a.tar", "addresses begin with"),
        ("/plain/path.tar", "addresses begin with"),
        ("file://host/a.tar", "absolute path"),
        ("https://user:secret@example.org/a.tar", "name or password"),
        ("s3://KEY:secret@bucket/a.tar", "name or password"),
        ("https://example.org/a.tar?X-Amz-Signature=secret", "signature"),
        ("https://example.org/a.tar#secret", "characters"),
        ("https:///a.tar", "no server"),
        ("https://ex ample.org/a.tar", "no server"),
        ("s3:///a.tar", "no server"),
        ("s3://bucket/../other/a.tar", "`..`"),
        ("file:///data/%2e%2e/a.tar", "`..`"),
        ("s3://bucket/a\nb.tar", "characters"),
        ("s3://bucket/a\u202eb.tar", "characters"),
        ("", "addresses begin with"),
    ],
)
def test_anything_else_is_refused_in_one_line_without_its_secrets(text, reason):
    with pytest.raises(DataError) as caught:
        Address.parse(text)
    assert reason in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.text())
def test_any_text_is_an_address_that_keeps_its_form_or_a_data_error(text):
    try:
        address = Address.parse(text)
    except DataError:
        return
    assert Address.parse(str(address)) == address


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1)))
def test_the_address_of_a_file_leads_back_to_it(parts):
    path = Path("/", *(part for part in parts if part not in (".", "..")))
    try:
        address = Address.of_file(path)
    except DataError:
        assert not str(path).isprintable()
        return
    assert address.file == path


def test_paths_are_not_taken_for_addresses_but_pipes_and_chains_are():
    assert not is_address("tars/a.tar")
    assert not is_address("/tars/a.tar")
    assert is_address("pipe:cat a.tar")
    assert is_address("zip://a::file:///b")


def test_a_file_beside_another_has_the_same_host_and_folder():
    address = Address.parse("s3://bucket/faces/a.tar")
    assert str(address.beside("index.json")) == "s3://bucket/faces/index.json"
    assert address.name == "a.tar"


def test_redaction_keeps_the_place_and_drops_the_secrets():
    told = redacted("https://me:pass@example.org/a.tar?signature=abc\nmore")
    assert "example.org/a.tar" in told
    assert not any(secret in told for secret in ("me:", "pass", "abc", "more", "\n"))
