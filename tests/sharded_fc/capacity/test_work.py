"""The work that capacity predicts, against the classes that are really drawn."""

import pytest
import torch

from sharded_fc.capacity import HeadShape, head_work
from sharded_fc.sampling import Sampling


@pytest.mark.parametrize(
    "sampling",
    [Sampling(rate=0.02), Sampling(rate=0.3), Sampling(rate=0.1, block=8)],
    ids=["thin", "dense", "blocks"],
)
def test_gathered_rows_are_those_whose_neighbour_before_is_not_drawn(sampling: Sampling):
    classes, dim, batch = 20_000, 4, 8
    draw = sampling.draw(classes, seed=0)
    label = torch.randperm(classes, generator=torch.Generator().manual_seed(0))[:batch]
    found = []
    for step in range(20):
        drawn, _ = draw.of_step(torch.tensor(step), label.sort().values, start=0, stop=classes)
        visited = torch.cat([drawn, label]).unique()
        follows = torch.isin(visited - 1, visited)
        found.append(int((~follows).sum()))
    shape = HeadShape(
        num_classes=classes,
        embedding_dim=dim,
        batch=batch,
        world_size=1,
        on_cpu=True,
        sampling=sampling,
    )
    # Twenty draws' mean: 2 % is three standard deviations of the thinnest.
    assert head_work(shape).gathered / dim == pytest.approx(sum(found) / len(found), rel=0.02)


def test_rows_in_place_are_not_gathered():
    shape = HeadShape(num_classes=300, embedding_dim=4, batch=8, world_size=1, on_cpu=True)
    assert head_work(shape).gathered == 0
