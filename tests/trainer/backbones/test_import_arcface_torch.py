"""Weights saved by arcface_torch give the same embeddings here; other files become one line."""

import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from sharded_fc import limited_child
from tests.trainer.backbones import arcface_torch
from trainer.backbones import build, import_arcface_torch, state_reader
from trainer.backbones.import_arcface_torch import import_weights
from trainer.backbones.weights import load_weights
from trainer.errors import RunError

SIDE, DIM = 48, 24
TWINS = {
    "iresnet18": lambda: arcface_torch.IResNet((2, 2, 2, 2), DIM, last_map=9),
    "iresnet50": lambda: arcface_torch.IResNet((3, 4, 14, 3), DIM, last_map=9),
    "mbf": lambda: arcface_torch.MobileFaceNet((1, 4, 6, 2), 2, DIM, last_map=3),
    "mbf_large": lambda: arcface_torch.MobileFaceNet((2, 8, 12, 4), 4, DIM, last_map=3),
    "vit_t": lambda: arcface_torch.VisionTransformer(256, 12, DIM, tokens=25),
    "vit_b": lambda: arcface_torch.VisionTransformer(512, 24, DIM, tokens=25),
}


@pytest.fixture
def in_process(monkeypatch):
    """Reads without the limited process, whose start takes seconds."""

    def ask_here(_reader, files, folder):
        return limited_child.answer(state_reader.read, files, folder)

    monkeypatch.setattr(import_arcface_torch, "ask", ask_here)


def twin(name: str) -> nn.Module:
    """Theirs, with numbers of its own in every weight and buffer."""
    generator = torch.Generator().manual_seed(0)
    network = TWINS[name]().eval()
    for key, value in network.state_dict().items():
        if value.is_floating_point():
            small = 0.05 if value.dim() > 1 else 0.5
            value.copy_(torch.rand(value.shape, generator=generator).add(0.5).mul(small))
            if key == "features.weight":
                value.fill_(1.0)
    return network


def faces() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(2, 3, SIDE, SIDE, dtype=torch.float64, generator=generator) * 2 - 1


@pytest.mark.parametrize("name", TWINS)
def test_imported_weights_give_the_same_embeddings(name, tmp_path: Path, in_process):
    theirs = twin(name)
    torch.save(theirs.state_dict(), tmp_path / "backbone.pth")
    said = import_weights(
        name, tmp_path / "backbone.pth", tmp_path / "ours.safetensors", image_size=SIDE
    )
    assert said["embedding_dim"] == str(DIM)
    ours = build(name, embedding_dim=DIM, image_size=SIDE)
    load_weights(ours, tmp_path / "ours.safetensors")
    with torch.no_grad():
        expected = theirs.double()(faces())
        got = ours.double().eval()(faces())
    torch.testing.assert_close(got, expected)  # float64 defaults: attention sums in another order
    assert expected.std(0).min() > 0


def test_a_whole_checkpoint_read_in_the_limited_process_keeps_its_network(tmp_path: Path):
    theirs = twin("iresnet18")
    whole = {"epoch": 1, "state_dict_backbone": theirs.state_dict()}
    torch.save(whole, tmp_path / "checkpoint_gpu_0.pt")
    dest = tmp_path / "ours.safetensors"
    import_weights("iresnet18", tmp_path / "checkpoint_gpu_0.pt", dest, image_size=SIDE)
    with safe_open(dest, framework="pt") as file:
        assert file.metadata()["backbone"] == "iresnet18"
        assert file.metadata()["image_size"] == f"{SIDE}x{SIDE}"
        assert torch.equal(file.get_tensor("stem.0.weight"), theirs.state_dict()["conv1.weight"])


class Harmful:
    """Would make a file if it were unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_nothing_of_a_pickle_is_run(tmp_path: Path):
    torch.save({"conv1.weight": Harmful(tmp_path / "made")}, tmp_path / "backbone.pth")
    with pytest.raises(RunError, match="cannot be read: UnpicklingError") as caught:
        import_weights("iresnet18", tmp_path / "backbone.pth", tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "made").exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"conv1.weight": torch.zeros(64, 3, 3, 3)}, "another network: missing embedding.0.bias"),
        ({"conv1.weight": "text"}, "no state dictionary"),
        ({"conv1.weight": torch.zeros(3, dtype=torch.int64)}, "is torch.int64, no weights"),
        (torch.zeros(3), "no state dictionary"),
        ({}, "no state dictionary"),
        ({"x\n\x1b[31m": torch.zeros(3)}, "not known"),
    ],
)
def test_other_files_are_refused_in_one_line(content, reason, tmp_path: Path, in_process):
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(RunError, match=reason) as caught:
        import_weights("iresnet18", tmp_path / "other.pth", tmp_path / "out")
    assert str(caught.value).isprintable()


def test_weights_of_another_depth_or_size_are_refused(tmp_path: Path, in_process):
    torch.save(twin("iresnet18").state_dict(), tmp_path / "r18.pth")
    with pytest.raises(RunError, match=r"missing stage1\.2\.body"):
        import_weights("iresnet50", tmp_path / "r18.pth", tmp_path / "out", image_size=SIDE)
    with pytest.raises(RunError, match=r"embedding\.2\.weight has shape \[24, 4608\], not"):
        import_weights("iresnet18", tmp_path / "r18.pth", tmp_path / "out")


def test_what_cannot_be_imported_says_why(tmp_path: Path):
    (tmp_path / "there").touch()
    with pytest.raises(RunError, match="vargfacenet is no network of arcface_torch; choose one"):
        import_weights("vargfacenet", tmp_path / "there", tmp_path / "out")
    with pytest.raises(RunError, match="exists; name a file that does not"):
        import_weights("mbf", tmp_path / "none", tmp_path / "there")
    with pytest.raises(RunError, match="is no file"):
        import_weights("mbf", tmp_path / "none", tmp_path / "out")


def test_weights_that_are_none_are_refused_in_one_line(tmp_path: Path):
    network = build("facenet_small", image_size=32)
    with pytest.raises(RunError, match="there is no such file of weights"):
        load_weights(network, tmp_path / "none.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(RunError, match="is no whole safetensors file") as caught:
        load_weights(network, tmp_path / "broken.safetensors")
    assert "\n" not in str(caught.value)
