"""The manifest: nothing in it changes unnoticed, and it says what a resume depends on."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sharded_fc import native_code
from trainer import manifest
from trainer.manifest import DamagedError, Manifest
from trainer.tensor_file import FileFacts


def example(**changes) -> Manifest:
    plain = Manifest(
        step=12,
        samples_seen=768,
        config={"name": "a-run", "optimizer": {"learning_rate": 0.1, "name": "sgd"}},
        data={"bad_samples": {"7": "truncated"}},
        optimizer="sgd",
        head={"num_classes": 5, "sub_centres": 2, "step": 12, "t": 0.1 + 0.2},
        partitions={"head-00000-of-00001.safetensors": (0, 5)},
        world_size=2,
        files={"a.bin": FileFacts(bytes=4, sha256="0" * 64)},
        **manifest.surroundings(),
    )
    return replace(plain, **changes)


def test_a_manifest_reads_back_equal(tmp_path: Path):
    manifest.write(tmp_path, example())
    assert manifest.read(tmp_path) == example()


def test_no_flipped_bit_changes_what_is_read(tmp_path: Path):
    manifest.write(tmp_path, example())
    path = tmp_path / manifest.NAME
    content = path.read_bytes()
    refused = 0
    for place in range(len(content)):
        flipped = bytearray(content)
        flipped[place] ^= 1 << (place % 8)
        path.write_bytes(flipped)
        try:
            assert manifest.read(tmp_path) == example()  # white space between values
        except DamagedError as error:
            refused += str(path) in str(error)
    assert refused > len(content) // 2


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'{"checksum": 1}', b"\xff\xfe"])
def test_what_is_no_manifest_is_refused_by_name(tmp_path: Path, content: bytes):
    path = tmp_path / manifest.NAME
    path.write_bytes(content)
    with pytest.raises(DamagedError, match=manifest.NAME):
        manifest.read(tmp_path)


def test_a_later_format_is_refused(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(manifest, "FORMAT", manifest.FORMAT + 1)
    manifest.write(tmp_path, example())
    monkeypatch.undo()
    with pytest.raises(DamagedError, match="later format"):
        manifest.read(tmp_path)


def test_a_manifest_from_before_sub_centres_has_one_row_a_class(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(manifest, "FORMAT", 1)
    manifest.write(tmp_path, example(head={"num_classes": 5, "step": 12}))
    monkeypatch.undo()
    assert manifest.read(tmp_path).head == {"num_classes": 5, "sub_centres": 1, "step": 12}


def test_a_number_that_json_does_not_have_is_not_written(tmp_path: Path):
    with pytest.raises(ValueError, match="JSON"):
        manifest.write(tmp_path, example(config={"learning_rate": float("nan")}))
    assert not (tmp_path / manifest.NAME).exists()


def test_files_are_checked_by_size_and_by_content(tmp_path: Path):
    (tmp_path / "a.bin").write_bytes(b"four")
    facts = manifest.facts(tmp_path / "a.bin")
    manifest.write(tmp_path, example(files={"a.bin": facts}))
    assert manifest.verify(tmp_path).files == {"a.bin": facts}
    (tmp_path / "a.bin").write_bytes(b"Four")
    assert manifest.check_sizes(tmp_path).step == 12
    with pytest.raises(DamagedError, match=r"a\.bin does not match its checksum"):
        manifest.verify(tmp_path)
    (tmp_path / "a.bin").write_bytes(b"fou")
    with pytest.raises(DamagedError, match=r"a\.bin has 3 bytes instead of 4"):
        manifest.check_sizes(tmp_path)
    (tmp_path / "a.bin").unlink()
    with pytest.raises(DamagedError, match=r"a\.bin is missing"):
        manifest.check_sizes(tmp_path)


def test_differences_name_what_a_bit_equal_resume_depends_on():
    same = example()
    assert same.differences(world_size=2) == []
    versions = {**same.versions, "torch": "1.0"}
    other = example(threads=99, instruction_set="abacus", versions=versions)
    now = manifest.surroundings()
    assert other.differences(world_size=3) == [
        "world size was 2, now 3",
        f"threads was 99, now {torch.get_num_threads()}",
        f"instruction set was abacus, now {now['instruction_set']}",
        f"version of torch was 1.0, now {now['versions']['torch']}",
    ]


def test_compiled_code_that_is_there_or_not_is_a_difference(monkeypatch):
    monkeypatch.setattr(native_code, "version", lambda: "a1")
    with_code = example(versions=manifest.surroundings()["versions"])
    monkeypatch.setattr(native_code, "version", lambda: None)
    assert with_code.differences(world_size=2) == ["version of compiled head was a1, now absent"]


def test_the_file_is_plain_json(tmp_path: Path):
    manifest.write(tmp_path, example())
    content = json.loads((tmp_path / manifest.NAME).read_text())
    assert content["format"] == manifest.FORMAT
    assert content["files"]["a.bin"] == {"bytes": 4, "sha256": "0" * 64}
