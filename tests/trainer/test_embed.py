"""Embeddings and verification do not depend on how many ranks share the work."""

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from PIL import Image
from torch import nn

from data_pipeline.pairs import PairSet, pack_drawn_pairs
from data_pipeline.sources.folder import FolderSource
from trainer.evaluate.embed import embed, pair_scores, rank_share, verify
from trainer.evaluate.verification import Verification
from trainer.layers.batch_norm import BatchNorm2d

NUM_SAMPLES = 23
BATCH_SIZE = 4  # six batches, the last one of three: ranks of 3 and 3, of 2, 2 and 2


def make_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2),
        BatchNorm2d(8),
        nn.PReLU(8),
        nn.Flatten(),
        nn.Linear(8 * 225, 12),
    ).eval()


def read(places: np.ndarray) -> Iterator[torch.Tensor]:
    torch.manual_seed(1)
    images = torch.rand(NUM_SAMPLES, 3, 32, 32) * 2 - 1
    for start in range(0, len(places), BATCH_SIZE):
        yield images[places[start : start + BATCH_SIZE]]


def embed_over_ranks(flip: bool) -> tuple[torch.Tensor, int]:
    network, forwards = make_network(), 0

    def forward(image: torch.Tensor) -> torch.Tensor:
        nonlocal forwards
        forwards += 1
        return network(image)

    embedding = embed(
        forward,
        read,
        NUM_SAMPLES,
        rank=dist.get_rank(),
        world_size=dist.get_world_size(),
        group=dist.group.WORLD,
        batch_size=BATCH_SIZE,
        flip=flip,
    )
    return embedding, forwards


@pytest.mark.parametrize("flip", [True, False])
def test_embeddings_are_bit_equal_at_every_world_size_and_on_every_rank(ranks, flip):
    ((expected, forwards),) = ranks(1).run(embed_over_ranks, flip)
    assert forwards == 6 * (1 + flip)
    for world in (2, 3):
        results = ranks(world).run(embed_over_ranks, flip)
        assert all(torch.equal(embedding, expected) for embedding, _ in results)
        assert [forwards for _, forwards in results] == [6 // world * (1 + flip)] * world


def test_an_embedding_is_the_direction_of_the_sum_over_the_face_and_its_mirror_image():
    network = make_network()
    (image,) = read(np.arange(BATCH_SIZE))
    found = embed(network, read, NUM_SAMPLES, batch_size=BATCH_SIZE)[:BATCH_SIZE].double()
    network = network.double()
    sums = network(image.double()) + network(image.double().flip(3))
    expected = sums / sums.norm(dim=1, keepdim=True)
    # Against float64; sums of 1,800 products in float32.
    torch.testing.assert_close(found, expected.detach(), rtol=1e-4, atol=1e-5)
    assert not found.requires_grad


def test_embeddings_are_in_the_order_of_the_samples():
    found = embed(make_network(), read, NUM_SAMPLES, batch_size=BATCH_SIZE, flip=False)
    for place in (0, 5, NUM_SAMPLES - 1):
        (alone,) = read(np.array([place]))
        expected = nn.functional.normalize(make_network()(alone))
        # The same float32 values in batches of another size: another order of sums.
        torch.testing.assert_close(found[place : place + 1], expected.detach())


def test_a_bf16_network_gives_float32_unit_embeddings():
    with torch.autocast("cpu", torch.bfloat16):
        found = embed(make_network(), read, NUM_SAMPLES, batch_size=BATCH_SIZE)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.norm(dim=1), torch.ones(NUM_SAMPLES))


@pytest.mark.parametrize("num_samples", [1, 4, 5, 23, 64])
@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_shares_cover_every_sample_in_order_with_equal_whole_batches(num_samples, world):
    shares = [
        rank_share(num_samples, batch_size=4, rank=rank, world_size=world) for rank in range(world)
    ]
    together = np.concatenate(shares)
    assert len({len(share) for share in shares}) == 1
    assert len(shares[0]) % 4 == 0
    assert list(together[:num_samples]) == list(range(num_samples))
    assert set(together[num_samples:]) <= {num_samples - 1}
    assert len(together) - num_samples < 4 * world  # never a batch more than needed


def test_a_pair_s_score_is_its_cosine():
    rows = nn.functional.normalize(torch.tensor([[3.0, 4.0], [4.0, 3.0], [-3.0, -4.0]]))
    found = pair_scores(rows, np.array([0, 0, 0]), np.array([0, 1, 2]))
    # Rows are float32, so a cosine is right to 2^-23.
    assert found == pytest.approx([1.0, 0.96, -1.0], abs=2**-22)


@pytest.fixture(scope="session")
def pairs_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten persons who differ in their colour, four images each with noise."""
    folder = tmp_path_factory.mktemp("verification")
    random = np.random.default_rng(0)
    for person, colour in enumerate(random.integers(40, 216, size=(10, 3))):
        (folder / "images" / f"person-{person}").mkdir(parents=True)
        for image in range(4):
            pixels = np.clip(colour + random.normal(0, 8, size=(32, 32, 3)), 0, 255)
            encoded = BytesIO()
            Image.fromarray(pixels.astype(np.uint8)).save(encoded, "JPEG")
            path = folder / "images" / f"person-{person}" / f"{image}.jpg"
            path.write_bytes(encoded.getvalue())
    source = FolderSource.open(folder / "images")
    pack_drawn_pairs(source, folder / "pairs", num_pairs=40, folds=4)
    return folder / "pairs"


def mean_colour(image: torch.Tensor) -> torch.Tensor:
    return image.mean((2, 3))


def verify_over_ranks(path: Path, batch_size: int) -> Verification:
    return verify(
        mean_colour,
        PairSet.open(path),
        image_size=32,
        rank=dist.get_rank(),
        world_size=dist.get_world_size(),
        group=dist.group.WORLD,
        batch_size=batch_size,
    )


def test_verification_is_bit_equal_on_one_and_on_two_ranks(ranks, pairs_path):
    (expected,) = ranks(1).run(verify_over_ranks, pairs_path, 8)
    assert expected.num_pairs == 40
    assert ranks(2).run(verify_over_ranks, pairs_path, 8) == [expected, expected]


def test_verification_reads_the_faces_that_its_pairs_name(pairs_path):
    # Colours tell these persons apart, so any mix-up of samples, pairs or folds loses accuracy.
    found = verify(mean_colour, PairSet.open(pairs_path), image_size=32, batch_size=16)
    assert found.accuracy > 0.9
    assert found.auc > 0.95
