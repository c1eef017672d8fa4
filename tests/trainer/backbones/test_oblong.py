"""Networks for faces of 112 x 96 see the middle of square ones, in training and ever after."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from data_pipeline.align import NARROWER_BY
from data_pipeline.index import Dataset
from data_pipeline.pack import pack
from data_pipeline.sources.folder import FolderSource
from data_pipeline.synthetic import synthesize
from tests.trainer.export.networks import run_folder
from trainer import build, config
from trainer.backbones import build as build_backbone
from trainer.backbones.oblong import middle, size_in_square
from trainer.backbones.table import BACKBONES, row
from trainer.errors import RunError
from trainer.evaluate.picture import made_up
from trainer.export.images import faces
from trainer.export.source import from_run

SIDE = 28  # of which 24 columns are seen


def a_run(folder: Path, name: str = "vargfacenet_112x96", side: int = SIDE) -> config.RunConfig:
    folder.mkdir(exist_ok=True)
    file = folder / "run.yaml"
    file.write_text(
        f"name: oblong\nsteps: 1\ndata: {{path: faces, image_size: {side}}}\n"
        f"backbone: {{name: {name}, embedding_dim: 4}}\n"
        "batch: {micro_batches: 1, micro_batch_size: 2}\n"
    )
    return config.load(file)


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Six square faces."""
    path = tmp_path_factory.mktemp("squares") / "faces"
    synthesize(path, identities=3, images=2, size=SIDE)
    return Dataset.open(path)


def test_only_oblong_backbones_see_a_part_of_a_face():
    for backbone in BACKBONES.values():
        oblong = backbone.name == "vargfacenet_112x96"
        assert size_in_square(backbone, 112) == ((112, 96) if oblong else (112, 112))
    assert size_in_square(row("vargfacenet_112x96"), 56) == (56, 48)


def test_what_is_seen_is_the_published_crop():
    columns = torch.arange(112.0).expand(1, 3, 112, 112)
    seen = middle(columns, (112, 96))
    assert seen.shape == (1, 3, 112, 96)
    assert seen[0, 0, 0, 0] == NARROWER_BY  # face points of 112 x 96 are those of 112 less this
    assert middle(seen, (112, 96)).equal(seen)


def test_a_side_that_leaves_half_pixels_is_refused():
    with pytest.raises(RunError, match="use an image_size that 14 divides"):
        size_in_square(row("vargfacenet_112x96"), 100)


def test_a_runs_network_cuts_the_middle_out_of_squares(tmp_path: Path):
    torch.manual_seed(0)
    network = build.network(a_run(tmp_path)).eval()
    torch.manual_seed(0)
    plain = build_backbone("vargfacenet_112x96", image_size=(SIDE, 24), embedding_dim=4).eval()
    assert list(network.state_dict()) == list(plain.state_dict())
    image = torch.rand(2, 3, SIDE, SIDE) * 2 - 1
    with torch.no_grad():
        found, expected = network(image), plain(image[..., 2:26])
        assert found.equal(expected)
        assert network(image[..., 2:26]).equal(expected)
        image[..., :2] = image[..., 26:] = 0  # what is not seen
        assert network(image).equal(expected)


def test_a_square_backbone_sees_all_of_a_face(tmp_path: Path):
    network = build.network(a_run(tmp_path, "vargfacenet")).eval()
    image = torch.zeros(1, 3, SIDE, SIDE, requires_grad=True)
    (slope,) = torch.autograd.grad(network(image).sum(), image)
    assert slope[..., 0].abs().max() > 0


def test_a_runs_export_takes_oblong_faces_and_compares_on_square_ones(
    tmp_path: Path, squares: Dataset
):
    folder = run_folder(
        tmp_path / "oblong",
        data=squares.path,
        side=SIDE,
        backbone="{name: vargfacenet_112x96, embedding_dim: 4}",
    )
    source = from_run(folder)
    assert source.image_size == (SIDE, 24)
    cut, whole = faces(squares, 6, (SIDE, 24)), faces(squares, 6, (SIDE, SIDE))
    assert cut.equal(whole[..., 2:26])
    with torch.no_grad():
        assert source.network(cut).equal(source.network(whole))
    assert made_up(1, (SIDE, 24)).equal(made_up(1, (SIDE, SIDE))[..., 2:26])


def test_images_that_are_oblong_themselves_are_refused_and_not_stretched(tmp_path: Path):
    for person in "ab":
        (tmp_path / "images" / person).mkdir(parents=True)
        Image.new("RGB", (24, SIDE)).save(tmp_path / "images" / person / "1.jpg")
    pack(FolderSource.open(tmp_path / "images"), tmp_path / "packed", seed=0)
    with pytest.raises(RunError, match=r"are 28 x 24; .* pack the faces as squares"):
        faces(Dataset.open(tmp_path / "packed"), 2, (SIDE, 24))
