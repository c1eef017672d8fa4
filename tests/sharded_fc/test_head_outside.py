"""A head whose rows are in host memory or in a file does what one with rows on the device does.

Equal means to the bit: the same numbers go through the same operations, wherever they were kept.
"""

import pytest
import torch

from sharded_fc.native_build import SWITCH
from sharded_fc.tables import StoredTable
from tests.sharded_fc.on_ranks import collect, draw_batches, make_head
from tests.sharded_fc.rows_anywhere import (
    CLASSES,
    DIM,
    HALF,
    TWO_BYTES,
    assert_equal_bits,
    kept,
    sampling,
    step_through,
    train,
)


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
