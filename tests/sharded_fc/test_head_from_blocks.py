"""Heads that start from blocks: of any world size, of other identities, of another trainer."""

import pytest
import torch

from sharded_fc import foreign
from sharded_fc.foreign import insightface_rows
from sharded_fc.identities import edited
from sharded_fc.identity_map import IdentityMap
from tests.sharded_fc.test_foreign import ask_here

OPTIONS = {"embedding_dim": 4, "scale": 16.0, "learning_rate": 0.1}
CURRICULAR = {**OPTIONS, "num_classes": 19, "sub_centres": 2, "optimizer": "adamw"}


def continue_from(options, saved, steps):
    """Load where there is something to load, step; return this rank's blocks and the scalars."""
    from sharded_fc import ShardedHead
    from sharded_fc.margins import CurricularFace

    head = ShardedHead(margin=CurricularFace(0.5), **options)
    if saved is not None:
        head.load(*saved)
    loaded = list(head.rows(block=3))
    losses = []
    for step in range(steps):
        # Every rank brings the same few samples.
        generator = torch.Generator().manual_seed(step)
        embedding = torch.randn(5, 4, generator=generator).requires_grad_()
        output = head(embedding, torch.randint(head.num_classes, (5,), generator=generator))
        output.loss.backward()
        losses.append(output.loss.item())
    return {
        "loaded": loaded,
        "blocks": list(head.rows(block=3)),
        "state": head.state(),
        "losses": losses,
    }


def table(results, name):
    blocks = sorted((b for result in results for b in result[name]), key=lambda block: block[0])
    return {name: torch.cat([tensors[name] for _, tensors in blocks]) for name in blocks[0][1]}


def blocks_of(results):
    """What the ranks saved, the last rank's blocks first."""
    return [block for result in reversed(results) for block in result["blocks"]]


def test_rows_and_scalars_go_from_4_ranks_to_1_to_3_to_8(ranks):
    results = ranks(4).run(continue_from, CURRICULAR, None, 2)
    assert results[0]["state"]["step"] == 2
    assert set(table(results, "blocks")) == {"centre", "mean", "square", "wins"}
    for world in (1, 3, 8):
        expected, state = table(results, "blocks"), results[0]["state"]
        results = ranks(world).run(continue_from, CURRICULAR, (blocks_of(results), state), 0)
        assert all(result["state"] == state for result in results)
        for name, tensor in table(results, "loaded").items():
            assert torch.equal(tensor, expected[name])


@pytest.mark.parametrize("world", [1, 3])
def test_a_head_of_edited_identities_loads_and_trains_on(ranks, world):
    before = ranks(2).run(continue_from, CURRICULAR, None, 2)
    sources = [(c,) for c in range(0, 19, 2)] + [(1, 3), (5,), (5,), ()]
    identities = IdentityMap.of(sources, num_old=19)
    blocks = list(
        edited(lambda: blocks_of(before), identities, embedding_dim=4, seed=0, sub_centres=2)
    )
    state = {**before[0]["state"], "num_classes": len(sources)}
    options = {**CURRICULAR, "num_classes": len(sources)}
    after = ranks(world).run(continue_from, options, (blocks, state), 2)
    old, new = table(before, "blocks"), table(after, "loaded")
    for name, tensor in new.items():
        kept = torch.arange(0, 19, 2)
        rows = torch.stack([2 * kept, 2 * kept + 1], 1).flatten()
        assert torch.equal(tensor[: len(rows)], old[name][rows])
        assert tensor.isfinite().all()
    assert after[0]["state"]["step"] == 4
    assert torch.tensor(after[0]["losses"]).isfinite().all()


def test_a_head_starts_from_insightfaces_files(tmp_path, monkeypatch):
    from sharded_fc import ShardedHead
    from sharded_fc.margins import ArcFace

    centre = torch.arange(44.0).view(11, 4)
    for rank, rows in enumerate(centre.split([4, 4, 3])):
        torch.save(rows.clone(), tmp_path / f"rank_{rank}_softmax_weight.pt")
        torch.save(-rows.clone(), tmp_path / f"rank_{rank}_softmax_weight_mom.pt")
    monkeypatch.setattr(foreign, "ask", ask_here)  # a process takes seconds to start
    head = ShardedHead(11, margin=ArcFace(0.5), **OPTIONS)
    rows = insightface_rows(
        tmp_path, num_classes=11, partition=head.partition, state_widths={"momentum": 4}
    )
    head.load(rows, head.state())
    ((_, tensors),) = head.rows()
    assert torch.equal(tensors["centre"], centre)
    assert torch.equal(tensors["momentum"], -centre)
    centres = insightface_rows(tmp_path, num_classes=11, partition=head.partition, state_widths={})
    head.load_centres(centres)
    ((_, tensors),) = head.rows()
    assert torch.equal(tensors["centre"], centre)
    assert not tensors["momentum"].any()
