"""`make gpu-check`: the same code on a CUDA device, compared with the CPU. Left out elsewhere."""

import copy
from pathlib import Path

import pytest
import torch

from data_pipeline.loader import read_batches
from data_pipeline.synthetic import synthesize
from sharded_fc import ShardedHead
from sharded_fc.margins import ArcFace, CosFace
from sharded_fc.reference import dense_loss
from trainer import backbones, config, run_folder
from trainer.backbones.table import BACKBONES
from trainer.launch import run_local
from trainer.metrics import read_lines

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def device() -> torch.device:
    assert torch.cuda.is_available(), "make gpu-check needs a CUDA device"
    return torch.device("cuda", 0)


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gpu") / "faces"
    synthesize(path, identities=16, images=8, size=112)
    return path


@pytest.mark.parametrize("margin", [CosFace(0.35), ArcFace(0.5)])
def test_a_head_step_equals_the_dense_float64_one(device: torch.device, margin: CosFace | ArcFace):
    generator = torch.Generator().manual_seed(0)
    embedding = torch.randn(64, 128, generator=generator)
    label = torch.randint(5000, (64,), generator=generator)
    head = ShardedHead(5000, 128, margin=margin, scale=64.0, learning_rate=0.1, device=device)
    rows = torch.cat([block["centre"] for _, block in head.rows()])
    ours = embedding.to(device).requires_grad_()
    theirs = embedding.double().requires_grad_()
    output = head(ours, label)
    expected = dense_loss(theirs, rows.double(), label, margin=margin, scale=64.0)
    output.loss.backward()
    expected.backward()
    assert ours.grad is not None
    # float32 sums over 5,000 classes and 128 columns: a few hundred units in the last place
    torch.testing.assert_close(output.loss.double().cpu(), expected.detach(), rtol=1e-5, atol=0.0)
    torch.testing.assert_close(ours.grad.double().cpu(), theirs.grad, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_embeddings_of_a_backbone_equal_those_on_the_cpu(device: torch.device, name: str):
    network = backbones.build(name).eval()
    image = torch.randn(4, 3, *BACKBONES[name].image_size)
    with torch.no_grad():
        expected = torch.nn.functional.normalize(network(image))
        twin = copy.deepcopy(network).to(device)
        found = torch.nn.functional.normalize(twin(image.to(device))).cpu()
    # tf32 convolutions keep ten bits
    assert torch.nn.functional.cosine_similarity(found, expected).min() > 0.9999


def test_decoding_on_the_device_gives_the_pixels_of_the_cpu(device: torch.device, faces: Path):
    from data_pipeline.index import Dataset

    dataset = Dataset.open(faces)
    read = [
        next(iter(read_batches(dataset, range(32), batch_size=32, image_size=112, device=where)))
        for where in ("cpu", str(device))
    ]
    difference = (read[0].image - read[1].image.cpu()).abs()
    # the hardware decoder rounds its inverse DCT and chroma otherwise: a level or two of 255
    assert difference.mean() < 1.5 / 127.5
    assert difference.max() < 24 / 127.5


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_trains_on_the_device(device: torch.device, faces: Path, precision: str):
    run = config.from_tree(
        {
            "name": f"gpu-{precision}",
            "runs": str(faces.parent / "runs"),
            "steps": 30,
            "data": {"path": str(faces)},
            "backbone": {"name": "mobilefacenet"},
            "head": {"scale": 16.0},
            "batch": {"micro_batches": 2, "micro_batch_size": 16},
            "engine": {"precision": precision},
        },
        source="test",
    )
    folder = run_folder.prepare(run)
    assert run_local(run, folder) == "finished"
    loss = [line["loss"] for line in read_lines(folder / "metrics" / "history.jsonl")]
    assert sum(loss[-5:]) < 0.8 * sum(loss[:5])
