"""A head that mines hard negatives equals a dense one told which classes were certain.

In float64, as `test_head_sampled.py`.
"""

from itertools import combinations

import pytest
import torch

from sharded_fc import ShardedHead
from sharded_fc.margins import ArcFace, CosFace, CurricularFace, PlainSoftmax
from sharded_fc.outside import Outside
from sharded_fc.sampling import Draw, Sampling
from sharded_fc.sampling.mining import Miner
from tests.sharded_fc.on_ranks import (
    FLOAT64,
    collect,
    dense_head,
    draw_batches,
    gathered,
    join,
    make_head,
    recut,
    train,
)

CLASSES, DIM = 41, 6
OPTIONS = {
    **FLOAT64,
    "num_classes": CLASSES,
    "embedding_dim": DIM,
    "chunk_classes": 4,
    "margin": ArcFace(0.5),
}
MANNERS = [
    Sampling(rate=0.4, hard_share=0.5),
    Sampling(rate=0.4, hard_share=0.5, correction="logq"),
    Sampling(rate=0.5, hard_share=0.4, correction="logq", untouched="caught_up"),
    Sampling(rate=0.6, hard_share=0.3, correction="logq", quota="peer", untouched="caught_up"),
    Sampling(rate=0.4, hard_share=0.5, correction="logq", block=4),
    Sampling(rate=0.3, hard_share=1.0, correction="logq"),
]


def train_and_tell(options, batches, blocks=None, state=None):
    """`train`, with the classes that each step mined."""
    told = []
    found = Miner.classes

    def classes(self, *of):
        told.append(found(self, *of))
        return told[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Miner, "classes", classes)
        return {**train(options, batches, blocks, state), "mined": told}


def inclusion(sampling, label, mined, step):
    certain = torch.cat([label, mined]).unique()
    draw = sampling.draw(CLASSES, seed=0)
    classes, rate = draw.of_step(torch.tensor(step), certain, start=0, stop=CLASSES)
    found = torch.zeros(CLASSES, dtype=torch.float64)
    found[classes] = rate if sampling.correction == "logq" else 1.0
    found[certain] = 1.0
    return found


@pytest.mark.parametrize("sampling", MANNERS, ids=str)
@pytest.mark.parametrize("counts", [[6], [2, 5]], ids=str)
def test_four_steps_equal_the_dense_head_given_the_same_classes(ranks, counts, sampling):
    options = {**OPTIONS, "sampling": sampling, "sub_centres": 2}
    batches = draw_batches(counts, num_classes=CLASSES, dim=DIM, steps=4)
    results = ranks(len(counts)).run(train_and_tell, options, batches)
    dense = dense_head(
        results,
        {k: v for k, v in options.items() if k != "sampling"},
        untouched=(sampling.untouched),
    )
    for step, batch in enumerate(batches):
        embedding, label = join(batch)
        mined = results[0]["mined"][step]
        assert len(mined) > 2
        q = inclusion(sampling, label, mined, step)
        loss, gradient = dense.step(embedding, label, inclusion=q)
        for result in results:
            torch.testing.assert_close(result["loss"][step], loss)
        ours = torch.cat([result["gradient"][step] for result in results])
        torch.testing.assert_close(ours, gradient * len(results))
    for name, expected in dense.rows().items():
        torch.testing.assert_close(gathered(results, name), expected)


@pytest.mark.parametrize("sampling", [MANNERS[1], MANNERS[2]], ids=str)
def test_any_number_of_ranks_mines_the_same_classes_at_every_step(ranks, sampling):
    options = {**OPTIONS, "sampling": sampling}
    whole = draw_batches([12], num_classes=CLASSES, dim=DIM, steps=6)
    expected = train_and_tell(options, whole)
    for world in (2, 3):
        counts = [12 // world] * world
        batches = [recut(batch, counts) for batch in whole]
        results = ranks(world).run(train_and_tell, options, batches)
        for result in results:
            for ours, theirs in zip(result["mined"], expected["mined"], strict=True):
                assert torch.equal(ours, theirs)
        for name in ("centre", "momentum"):
            torch.testing.assert_close(gathered(results, name), expected["rows"][name])


@pytest.mark.parametrize("sampling", [MANNERS[0], MANNERS[2]], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_resumed_run_goes_on_bit_for_bit(sampling, dtype):
    """Against the run that handed its rows out at that step and went on."""
    options = {**OPTIONS, "dtype": dtype, "compute_dtype": torch.float32, "sampling": sampling}
    batches = draw_batches([8], num_classes=CLASSES, dim=DIM, steps=10)
    head = make_head(options)
    saved = None
    for step, ((embedding, label),) in enumerate(batches):
        if step == 5:
            saved = [*head.rows()], head.state()
        head(embedding.float().requires_grad_(), label).loss.backward()
    assert saved is not None
    resumed = train(options, batches[5:], *saved)["rows"]
    for name, value in collect(head).items():
        assert torch.equal(resumed[name], value)


def test_a_checkpoint_of_two_ranks_goes_on_alike_on_one_and_three(ranks):
    options = {**OPTIONS, "sampling": MANNERS[2]}
    whole = draw_batches([6], num_classes=CLASSES, dim=DIM, steps=6)
    before = ranks(2).run(train, options, [recut(batch, [3, 3]) for batch in whole[:3]])
    blocks = [block for result in before for block in result["blocks"]]
    saved = blocks, before[0]["state"]
    expected = train_and_tell(options, whole[3:], *saved)
    again = [recut(batch, [2, 2, 2]) for batch in whole[3:]]
    for result in ranks(3).run(train_and_tell, options, again, *saved):
        for ours, theirs in zip(result["mined"], expected["mined"], strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("margin", [ArcFace(0.5), CurricularFace(0.5)], ids=["arc", "curricular"])
@torch.no_grad()
def test_given_batch_and_index_the_mean_over_all_draws_is_the_full_sum(monkeypatch, margin):
    """Twelve classes, of which some are mined: every subset of two, each as likely as any."""
    (((embedding, label),),) = draw_batches([4], num_classes=12, dim=4)
    options = {"margin": margin, "scale": 8.0, "learning_rate": 0.1, **FLOAT64}
    full = ShardedHead(12, 4, **options)(embedding, label).sample_loss
    sampling = Sampling(rate=1 / 3, hard_share=0.5, correction="logq")
    assert sampling.draw(12, seed=0).count == 2
    head = ShardedHead(12, 4, sampling=sampling, **options)
    told = []
    found = Miner.classes
    monkeypatch.setattr(Miner, "classes", lambda *a: told.append(found(*a)) or told[-1])
    total = torch.zeros_like(full)
    subsets = list(combinations(range(12), 2))
    for subset in subsets:

        def of_step(self, step, certain, *, start, stop, subset=subset):
            others = torch.tensor(sorted(set(subset) - set(certain.tolist())), dtype=torch.int64)
            return others, 2 / 12

        monkeypatch.setattr(Draw, "of_step", of_step)
        total += head(embedding, label).sample_loss.exp() / len(subsets)
    assert all(torch.equal(mined, told[0]) for mined in told)
    only_mined = set(told[0].tolist()) - set(label.tolist())
    assert only_mined
    # Sums of a few hundred float64 numbers of one size.
    torch.testing.assert_close(total, full.exp(), rtol=1e-11, atol=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"margin": PlainSoftmax(), "scale": 1.0}, "finds classes by their directions"),
        ({"sampling": {"rate": 0.0, "hard_share": 0.1}}, "which rate 0 leaves empty"),
        ({"sampling": {"rate": 0.1, "hard_share": 1.1}}, r"use a share of the sample in \[0, 1\]"),
    ],
)
def test_what_cannot_be_mined_is_refused(changes, message):
    sampling = changes.pop("sampling", {"rate": 0.1, "hard_share": 0.1})
    with pytest.raises(ValueError, match=message):
        make_head({**OPTIONS, "sampling": Sampling(**sampling), **changes})


def test_rows_outside_the_device_are_not_mined(tmp_path):
    outside = Outside(kept_in="host", folder=tmp_path)
    with pytest.raises(ValueError, match="hard_share with rows outside the device"):
        make_head({**OPTIONS, "margin": CosFace(0.4), "sampling": MANNERS[0], "outside": outside})
