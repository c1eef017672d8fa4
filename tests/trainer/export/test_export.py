"""A file is written whole or not at all, is near the network, and says what it is."""

import errno
import os
from copy import deepcopy
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from data_pipeline.index import Dataset
from data_pipeline.synthetic import synthesize
from tests.trainer.export.networks import SIDE, run_folder, source, tiny
from trainer.errors import DiskFullError, RunError
from trainer.export import export as module
from trainer.export.export import export
from trainer.export.graph import to_onnx
from trainer.export.prepare import prepare
from trainer.export.source import from_name, from_run


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of twelve faces."""
    path = tmp_path_factory.mktemp("faces") / "packed"
    synthesize(path, identities=4, images=3, size=SIDE)
    return path


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, faces: Path) -> tuple[Path, dict]:
    """A run's network in float32 with embeddings of length one, and what was said of it."""
    folder = tmp_path_factory.mktemp("run")
    run = run_folder(folder / "a-run", data=faces)
    dest = folder / "network.onnx"
    said = export(from_run(run), dest, unit=True, dataset=Dataset.open(faces), most_faces=7)
    return dest, said


@pytest.fixture(scope="module")
def tiny_model() -> onnx.ModelProto:
    """What `tiny()` is exported as, made once."""
    return to_onnx(prepare(tiny()), image_size=(SIDE, SIDE))


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, tiny_model: onnx.ModelProto) -> None:
    """The graph of `tiny()`, for tests of what comes after it."""
    monkeypatch.setattr(module, "to_onnx", lambda *_, **__: deepcopy(tiny_model))


def test_a_runs_network_is_compared_on_noise_and_faces(exported):
    _, said = exported
    assert {name: found["images"] for name, found in said["cosine_distance"].items()} == {
        "noise": module.NOISE_IMAGES,
        "faces": 7,
    }
    assert all(found["worst"] < 1e-6 for found in said["cosine_distance"].values())


def test_a_file_says_what_it_takes_what_it_gives_and_where_it_comes_from(exported):
    file, said = exported
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    assert session.get_modelmeta().custom_metadata_map == {
        "facescale_version": "0.1.0",
        "model": "facenet_small",
        "weights": "trained",
        "run": "a-run",
        "step": "12",
        "checkpoint_sha256": said["checkpoint_sha256"],
        "input": f"float32 [batch, 3, {SIDE}, {SIDE}], aligned faces",
        "image_height": str(SIDE),
        "image_width": str(SIDE),
        "channel_order": "RGB",
        "pixel_normalisation": "(x - 127.5) / 127.5",
        "embedding_dim": "8",
        "embedding": "of length 1",
        "numbers": "fp32",
    }
    assert len(said["checkpoint_sha256"]) == 64
    (given,), (gives,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.type, given.shape) == (
        "image",
        "tensor(float)",
        ["batch", 3, SIDE, SIDE],
    )
    assert (gives.name, gives.type, gives.shape) == ("embedding", "tensor(float)", ["batch", 8])
    (embedding,) = session.run(None, {"image": np.zeros((2, 3, SIDE, SIDE), np.float32)})
    np.testing.assert_allclose(np.linalg.norm(np.array(embedding), axis=1), 1, rtol=1e-6)


def test_a_file_names_nothing_of_the_machine_it_was_made_on(exported):
    content = exported[0].read_bytes()
    for trace in (b".py", str(Path.home()).encode(), str(Path(__file__).parents[3]).encode()):
        assert trace not in content


def test_float16_halves_the_file_and_stays_near(seeded, tmp_path: Path):
    network = nn.Sequential(tiny(), nn.Linear(6, 512), nn.Linear(512, 8)).eval()
    single = export(source(network), tmp_path / "single.onnx")
    half = export(source(network), tmp_path / "half.onnx", precision="fp16")
    assert half["bytes"] < 0.7 * single["bytes"]
    assert half["cosine_distance"]["noise"]["worst"] < 1e-4
    tensors = onnx.load(tmp_path / "half.onnx").graph.initializer
    assert {t.data_type for t in tensors if np.prod(t.dims) > 8} == {onnx.TensorProto.FLOAT16}


def test_8_bits_are_calibrated_with_the_runs_own_faces(tmp_path: Path, faces: Path):
    run = run_folder(tmp_path / "a-run", data=faces)
    said = export(from_run(run), tmp_path / "network.onnx", precision="int8")
    assert said["calibrated_with"] == "12 faces"
    # Far above float32's, far below chance: an eighth of a degree to ten degrees.
    assert 1e-6 < said["cosine_distance"]["faces"]["mean"] < 0.02
    operations = {node.op_type for node in onnx.load(tmp_path / "network.onnx").graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} < operations
    weights = onnx.load(tmp_path / "network.onnx").graph.initializer
    assert sum(w.data_type == onnx.TensorProto.INT8 for w in weights if len(w.dims) == 4) == 10


def test_8_bits_without_faces_are_for_networks_that_learned_nothing(made, tmp_path: Path):
    dest = tmp_path / "network.onnx"
    with pytest.raises(RunError, match="give a dataset with --faces"):
        export(source(tiny(), trained=True), dest, precision="int8")
    assert export(source(tiny()), dest, precision="int8")["calibrated_with"] == "8 noise"


def test_what_is_too_far_from_the_network_is_not_written(made, monkeypatch, tmp_path: Path):
    monkeypatch.setitem(module.LIMITS, "fp32", -1.0)
    with pytest.raises(RunError, match="more than -1; nothing was written"):
        export(source(tiny()), tmp_path / "network.onnx")
    assert list(tmp_path.iterdir()) == []


def test_numbers_beyond_float16_are_refused(tmp_path: Path):
    network = tiny()
    network.get_parameter("4.weight").data *= 1e6
    with pytest.raises(RunError, match="not finite; export it as fp32"):
        export(source(network), tmp_path / "network.onnx", precision="fp16")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_is_never_replaced(tmp_path: Path):
    dest = tmp_path / "network.onnx"
    dest.write_bytes(b"mine")
    with pytest.raises(RunError, match="exists; choose another name"):
        export(source(tiny()), dest)
    assert dest.read_bytes() == b"mine"


def test_a_full_disk_is_said_in_a_line_and_leaves_nothing(made, monkeypatch, tmp_path: Path):
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFullError, match="cannot be written: No space left on device"):
        export(source(tiny()), tmp_path / "network.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_is_exported_by_its_own_path(tmp_path: Path, faces: Path):
    run = run_folder(tmp_path / "a-run", data=faces)
    (step,) = (run / "checkpoints").iterdir()
    (run / "run.yaml").unlink()
    found = from_run(step)
    assert (found.facts["step"], found.embedding_dim, found.image_size) == ("12", 8, (SIDE, SIDE))
    with pytest.raises(RunError, match="neither a run folder nor a checkpoint"):
        from_run(run)


def test_a_damaged_checkpoint_is_refused(tmp_path: Path, faces: Path):
    run = run_folder(tmp_path / "a-run", data=faces)
    (step,) = (run / "checkpoints").iterdir()
    file = step / "backbone.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(RunError, match=r"has no whole checkpoint; .*backbone.safetensors"):
        from_run(run)


def test_weights_by_name_are_those_of_the_file(tmp_path: Path, faces: Path):
    run = run_folder(tmp_path / "a-run", data=faces)
    (step,) = (run / "checkpoints").iterdir()
    named = from_name(
        "facenet_small",
        weights=step / "backbone.safetensors",
        image_size=SIDE,
        embedding_dim=8,
    )
    trained = from_run(run)
    assert named.facts["checkpoint_sha256"] == trained.facts["checkpoint_sha256"]
    image = torch.zeros(1, 3, SIDE, SIDE)
    assert torch.equal(named.network(image), trained.network(image))


def test_first_weights_leave_torchs_generator_alone():
    before = torch.get_rng_state()
    from_name("facenet_small", image_size=SIDE)
    assert torch.equal(torch.get_rng_state(), before)
