"""A head whose rows are in host memory or in a file does what one with rows on the device does.

Equal means to the bit: the same numbers go through the same operations, wherever they were kept.
"""

import pytest
import torch
import torch.distributed as dist

from sharded_fc.margins import ArcFace, CosFace
from sharded_fc.native_build import SWITCH
from sharded_fc.outside import Outside
from sharded_fc.sampling import Sampling
from sharded_fc.tables import StoredTable
from tests.sharded_fc.on_ranks import FLOAT64, collect, draw_batches, join, make_head

CLASSES, DIM = 61, 6
# At a rate of a half, half of a step's rows are also the next one's.
HALF = {
    "num_classes": CLASSES,
    "embedding_dim": DIM,
    "margin": ArcFace(0.5),
    "chunk_classes": 8,
    "learning_rate_ratios": [(0, 4, 0.0), (30, 40, 2.0)],
}
TWO_BYTES = {"dtype": torch.bfloat16, "compute_dtype": torch.float32}


def sampling(untouched, **changes):
    return Sampling(**{"rate": 0.5, "correction": "logq", "untouched": untouched, **changes})


def kept(kind, folder):
    """How a head keeps its rows."""
    return None if kind == "device" else Outside(kept_in=kind, folder=folder / kind)


def step_through(head, batches, *, first=0, rank=0, told=True, between=lambda step: None):
    """Losses and embedding gradients of some steps at learning rates that change."""
    found = []
    for step in range(first, len(batches)):
        embedding, label = batches[step][rank]
        leaf = embedding.to(torch.float32, copy=True).requires_grad_()
        head.learning_rate = 0.1 / (1 + step)
        known = told and step + 1 < len(batches)
        next_label = join(batches[step + 1])[1] if known else None
        output = head(leaf, label, next_label=next_label)
        output.loss.backward()
        found.append((output.loss.detach(), leaf.grad))
        between(step)
    return found


def train(options, batches, told=True):
    """All steps on this rank, and its rows after them."""
    head = make_head(options)
    rank = dist.get_rank() if dist.is_initialized() else 0
    found = step_through(head, batches, rank=rank, told=told)
    rows = collect(head)
    head.close()
    return found, rows


def assert_equal_bits(one, other):
    torch.testing.assert_close(one, other, rtol=0.0, atol=0.0, equal_nan=True)


@pytest.mark.parametrize("untouched", ["frozen", "caught_up"])
@pytest.mark.parametrize("dtypes", [{}, TWO_BYTES], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("counts", [[5], [2, 4]], ids=str)
def test_twenty_steps_are_equal_wherever_the_rows_are(ranks, tmp_path, counts, dtypes, untouched):
    options = {**HALF, **dtypes, "sampling": sampling(untouched)}
    batches = draw_batches(counts, num_classes=CLASSES, dim=DIM, steps=20)
    expected = ranks(len(counts)).run(train, options, batches)
    for kind in ("host", "mapped"):
        outside = {"outside": kept(kind, tmp_path)}
        assert_equal_bits(ranks(len(counts)).run(train, {**options, **outside}, batches), expected)


@pytest.mark.parametrize(
    "changes",
    [
        {"sub_centres": 3, "class_margin": torch.linspace(0.1, 0.6, CLASSES)},
        {"optimizer": "adamw"},
        {"optimizer": "rowwise", "sampling": sampling("caught_up", block=5)},
        {"sampling": sampling("frozen", quota="peer")},
        {"sampling": sampling("frozen", rate=0.0)},
        {"state_dtype": torch.bfloat16, "dtype": torch.float16, "clip_row_norm": 0.1},
    ],
    ids=["sub_centres", "adamw", "blocks", "peer", "positives", "float16"],
)
def test_what_else_a_head_can_have_goes_with_rows_in_a_file(ranks, tmp_path, changes):
    options = {**HALF, "sampling": sampling("frozen"), **changes}
    batches = draw_batches([2, 0, 2], num_classes=CLASSES, dim=DIM, steps=5)
    expected = ranks(3).run(train, options, batches)
    outside = {**options, "outside": kept("mapped", tmp_path)}
    assert_equal_bits(ranks(3).run(train, outside, batches), expected)


def test_torchs_updates_round_rows_that_were_taken_as_those_on_the_device(tmp_path, monkeypatch):
    """Compiled updates have their own way to a row's number, which the other tests take."""
    monkeypatch.setenv(SWITCH, "0")
    options = {**HALF, **TWO_BYTES, "sampling": sampling("frozen")}
    batches = draw_batches([5], num_classes=CLASSES, dim=DIM, steps=4)
    outside = {**options, "outside": kept("mapped", tmp_path)}
    assert_equal_bits(train(outside, batches), train(options, batches))


@pytest.mark.parametrize("untouched", ["frozen", "caught_up"])
def test_labels_told_late_wrong_or_for_a_step_that_is_skipped_change_no_bit(tmp_path, untouched):
    options = {**HALF, **TWO_BYTES, "sampling": sampling(untouched)}
    batches = draw_batches([5], num_classes=CLASSES, dim=DIM, steps=8)
    batches[3][0][0][0, 0] = torch.inf  # skipped: the next step draws the same classes again
    expected = train(options, batches)
    assert expected[0][3][1].isnan().all()
    outside = {**options, "outside": kept("mapped", tmp_path)}
    head = make_head(outside)
    found = []
    for step, ((embedding, label),) in enumerate(batches):
        head.learning_rate = 0.1 / (1 + step)
        with torch.no_grad():
            head(embedding.float(), label.flip(0), next_label=label)
        leaf = embedding.to(torch.float32, copy=True).requires_grad_()
        wrong = None if step % 2 else torch.tensor([1, 5, -1, CLASSES + 3])
        output = head(leaf, label, next_label=wrong)
        output.loss.backward()
        found.append((output.loss.detach(), leaf.grad))
    rows = collect(head)
    head.close()
    assert_equal_bits((found, rows), expected)


@pytest.mark.parametrize("told", [True, False])
def test_rows_are_read_once_a_step_and_ahead_of_it_where_labels_are_told(
    tmp_path, monkeypatch, told
):
    taken, begun = 0, []
    read_ahead, take = StoredTable.prefetch, StoredTable.gather

    def prefetch(table, rows):
        begun.append(taken)
        return read_ahead(table, rows)

    def gather(table, rows):
        nonlocal taken
        taken += 1
        return take(table, rows)

    monkeypatch.setattr(StoredTable, "prefetch", prefetch)
    monkeypatch.setattr(StoredTable, "gather", gather)
    options = {**HALF, "sampling": sampling("frozen"), "outside": kept("mapped", tmp_path)}
    head = make_head(options)
    step_through(head, draw_batches([5], num_classes=CLASSES, dim=DIM, steps=6), told=told)
    head.close()
    # How many steps' rows were asked for when each read began; only the first step is not told of.
    assert begun == ([1, 1, 2, 3, 4, 5] if told else [1, 2, 3, 4, 5, 6])


@pytest.mark.parametrize("kind", ["host", "mapped"])
def test_looking_at_rows_and_checkpoints_leave_no_trace(tmp_path, kind):
    options = {**HALF, **TWO_BYTES, "sampling": sampling("caught_up")}
    batches = draw_batches([5], num_classes=CLASSES, dim=DIM, steps=6)
    expected = train(options, batches)
    head = make_head({**options, "outside": kept(kind, tmp_path)})

    def look(step):
        collect(head)
        assert head.summary().longest > 0
        head.nearest(torch.ones(2, DIM), k=3)
        head.export_centres(tmp_path / "centres.safetensors", dominant=True)
        head.checkpoint(step + 1)

    found = step_through(head, batches, between=look)
    assert_equal_bits((found, collect(head)), expected)
    head.close()


def test_exports_and_statistics_are_those_of_rows_on_the_device(tmp_path):
    options = {**HALF, "sub_centres": 2, "sampling": sampling("caught_up")}
    batches = draw_batches([5], num_classes=CLASSES, dim=DIM, steps=4)
    looked = []
    for kind in ("device", "mapped"):
        head = make_head({**options, "outside": kept(kind, tmp_path)})
        step_through(head, batches)
        near = head.nearest(torch.eye(DIM), k=2)
        path = tmp_path / "centres.safetensors"
        head.export_centres(path, dominant=True)
        pairs = head.merge_suggestions(tmp_path / "pairs.csv", threshold=0.9)
        looked.append((head.summary(), near.label, near.cosine, path.read_bytes(), pairs))
        head.close()
    assert str(looked[0]) == str(looked[1])


def first_half(options, batches, upto):
    """Train to a checkpoint and beyond; what a run would keep of it."""
    head = make_head(options)
    rank = dist.get_rank() if dist.is_initialized() else 0
    step_through(head, batches[:upto], rank=rank)
    kept = (head.checkpoint(upto), head.state(), head.history())
    step_through(head, batches[: upto + 2], first=upto, rank=rank)  # is lost
    head.close()
    return kept


def names_of_all(name):
    """The tables of all ranks, once all have their checkpoint."""
    if not dist.is_initialized():
        return [name]
    names = [""] * dist.get_world_size()
    dist.all_gather_object(names, name)
    return names


def second_half(options, batches, names, state, history, upto):
    """Go on from a checkpoint; losses, gradients and rows at the end."""
    head = make_head(options)
    rank = dist.get_rank() if dist.is_initialized() else 0
    head.restore(names, state, history, step=upto)
    found = step_through(head, batches, first=upto, rank=rank)
    rows = collect(head)
    names = names_of_all(head.checkpoint(len(batches)))
    head.forget(before=len(batches), tables=names)
    head.close()
    return found, rows, names


@pytest.mark.parametrize("kind", ["host", "mapped"])
@pytest.mark.parametrize("untouched", ["frozen", "caught_up"])
@pytest.mark.parametrize("counts", [[5], [2, 3]], ids=str)
def test_a_head_goes_on_from_a_checkpoint_as_if_it_had_not_stopped(
    ranks, tmp_path, counts, untouched, kind
):
    options = {**HALF, **TWO_BYTES, "sampling": sampling(untouched)}
    batches = draw_batches(counts, num_classes=CLASSES, dim=DIM, steps=10)
    expected = ranks(len(counts)).run(train, options, batches)
    options["outside"] = kept(kind, tmp_path)
    saved = ranks(len(counts)).run(first_half, options, batches, 6)
    names, state, history = [name for name, _, _ in saved], *saved[0][1:]
    results = ranks(len(counts)).run(second_half, options, batches, names, state, history, 6)
    for (found, rows, _), (losses, end) in zip(results, expected, strict=True):
        assert_equal_bits((found, rows), (losses[6:], end))


def go_on(options, batches, names, state, history, upto):
    """Take over other ranks' tables and save at the same bounds, without a step."""
    head = make_head(options)
    rank = dist.get_rank() if dist.is_initialized() else 0
    head.restore(names, state, history, step=upto)
    step_through(head, batches[: upto + 2], first=upto, rank=rank)
    kept = (head.checkpoint(upto + 2), head.state(), head.history())
    head.close()
    return kept


@pytest.mark.parametrize("untouched", ["frozen", "caught_up"])
def test_tables_go_from_two_ranks_to_one_and_to_three(ranks, tmp_path, untouched):
    """Against rows on the device in one process, in float64: only the order of additions differs.

    assert_close's float64 defaults are far above that.
    """
    options = {**HALF, **FLOAT64, "margin": CosFace(0.35), "sampling": sampling(untouched)}
    whole = draw_batches([6], num_classes=CLASSES, dim=DIM, steps=8)
    expected, rows = train(options, whole)
    options["outside"] = kept("mapped", tmp_path)

    def cut(counts):
        return [
            list(zip(e.split(counts), label.split(counts), strict=True)) for ((e, label),) in whole
        ]

    saved = ranks(2).run(first_half, options, cut([2, 4]), 3)
    names = [name for name, _, _ in saved]
    name, state, history = go_on(options, whole, names, saved[0][1], saved[0][2], 3)
    results = ranks(3).run(second_half, options, cut([1, 3, 2]), [name], state, history, 5)
    for step, (loss, _) in enumerate(expected[5:]):
        torch.testing.assert_close(results[0][0][step][0], loss)
    for field, value in rows.items():
        found = torch.cat([result[1][field] for result in results])
        torch.testing.assert_close(found, value)
    left = sorted(path.name for path in (tmp_path / "mapped").iterdir())
    assert left == sorted(results[0][2])  # older tables are gone


def test_only_the_last_pass_can_be_committed_where_rows_are_outside(tmp_path):
    options = {**HALF, "sampling": sampling("frozen"), "outside": kept("host", tmp_path)}
    head = make_head(options)
    (((embedding, label),),) = draw_batches([5], num_classes=CLASSES, dim=DIM)
    first = head(embedding.float().requires_grad_(), label)
    head(embedding.float().requires_grad_(), label)
    before = collect(head)
    with pytest.raises(RuntimeError, match=r"before the next head\(\.\.\.\)"):
        first.loss.backward()
    assert_equal_bits(collect(head), before)
    head.close()


def test_rows_outside_need_sampling_and_have_no_second_user(tmp_path):
    outside = kept("mapped", tmp_path)
    with pytest.raises(ValueError, match="give the head a sampling"):
        make_head({**HALF, "outside": outside})
    options = {**HALF, "sampling": sampling("frozen")}
    with pytest.raises(ValueError, match=r"save them with head\.rows\(\)"):
        make_head(options).checkpoint(1)
    head = make_head({**options, "outside": outside})
    collect(head)
    with pytest.raises(BlockingIOError, match="in use by another process"):
        collect(make_head({**options, "outside": outside}))
    state = head.state()
    head.close()
    for name, error in (("rows-0-61-since-7", "is missing"), ("../rows", "no name of a table")):
        with pytest.raises(ValueError, match=error):
            head.restore([name], state, {}, step=1)
