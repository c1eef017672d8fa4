"""The memory that capacity predicts, against the tensors of heads that have taken a step."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sharded_fc import ShardedHead
from sharded_fc.capacity import HeadShape, PoolShape, head_bytes, outside_bytes, pool_bytes
from sharded_fc.margins import CosFace, PlainSoftmax
from sharded_fc.outside import Outside, OutsideRows
from sharded_fc.pool import PoolHead, PoolView
from sharded_fc.sampling import Sampling
from sharded_fc.storage import Rows
from sharded_fc.tables.host import HostRecords

SMALL = HeadShape(num_classes=301, embedding_dim=24, batch=13, world_size=1, on_cpu=True)

SHAPES = {
    "float32": SMALL,
    "bfloat16 operands": replace(SMALL, operands=torch.bfloat16),
    "two-byte rows": replace(SMALL, operands=torch.bfloat16, dtype=torch.bfloat16),
    "float16 rows": replace(SMALL, operands=torch.bfloat16, dtype=torch.float16),
    "float64": replace(SMALL, operands=torch.float64, dtype=torch.float64),
    "adamw": replace(SMALL, optimizer="adamw"),
    "rowwise": replace(SMALL, optimizer="rowwise", dtype=torch.bfloat16),
    "no momentum": replace(SMALL, momentum=0.0),
    "sub-centres": replace(SMALL, sub_centres=3),
    "raw products": replace(SMALL, normalised=False),
    "small chunks": replace(SMALL, chunk_classes=40),
    "sampled": replace(SMALL, sampling=Sampling(rate=1.0), chunk_classes=64),
    "caught up": replace(SMALL, sampling=Sampling(rate=1.0, untouched="caught_up")),
    "sampled low": replace(
        SMALL,
        sampling=Sampling(rate=1.0),
        operands=torch.bfloat16,
        dtype=torch.bfloat16,
    ),
}


def made(shape: HeadShape, *, outside: Outside | None = None) -> ShardedHead:
    """A head of this shape after one step."""
    head = ShardedHead(
        shape.num_classes,
        shape.embedding_dim,
        margin=CosFace(0.3) if shape.normalised else PlainSoftmax(),
        scale=16.0 if shape.normalised else 1.0,
        learning_rate=0.1,
        dtype=shape.dtype,
        state_dtype=shape.state,
        compute_dtype=shape.operands,
        optimizer=shape.optimizer,
        momentum=shape.momentum,
        sub_centres=shape.sub_centres,
        sampling=shape.sampling,
        outside=outside,
        chunk_classes=shape.chunk_classes,
    )
    generator = torch.Generator().manual_seed(0)
    embedding = torch.randn(shape.batch, shape.embedding_dim, generator=generator)
    # One sample a class: as many as `expected_distinct` says, to rounding, at any batch.
    label = torch.randperm(shape.num_classes, generator=generator)[: shape.batch]
    head(embedding.requires_grad_(), label).loss.backward()
    return head


def test_lists_of_near_classes_take_what_is_said_but_for_a_place_a_list():
    shape = replace(SMALL, num_classes=5003, sampling=Sampling(rate=0.3, hard_share=0.5))
    head = made(shape)
    assert head._problem.miner is not None
    lists = head._problem.miner._index._lists
    assert lists is not None
    held = own_bytes(lists)
    assert shape.signatures is not None
    a_place = 4 + 8 * shape.signatures.words
    assert held <= head_bytes(shape).lists <= held + a_place * shape.signatures.num_lists


def test_rows_outside_take_two_steps_rows_here_and_a_record_each_there(tmp_path: Path):
    shape = replace(SMALL, sampling=Sampling(rate=1.0), outside=True)
    head = made(shape, outside=Outside(kept_in="host", folder=tmp_path))
    rows = head._problem.softmax.rows
    assert isinstance(rows, OutsideRows)
    table = rows.table
    for buffers in table._buffers:  # what the second step would read into is not made yet
        buffers.host(shape.num_classes)
    predicted = head_bytes(shape)
    held = sum(own_bytes(buffers) for buffers in table._buffers)
    assert predicted.centres + predicted.states + predicted.counts == held
    assert isinstance(table._store, HostRecords)
    assert outside_bytes(shape) == table._store._records.nbytes
    assert predicted.kept <= 96 << 20
    head.close()


def own_bytes(*owners: object) -> int:
    """Bytes of all tensors that these hold as attributes, each memory once."""
    seen: dict[int, int] = {}
    for owner in owners:
        for value in vars(owner).values():
            values = value.values() if isinstance(value, dict) else [value]
            for tensor in values:
                if isinstance(tensor, Tensor):
                    storage = tensor.untyped_storage()
                    seen[storage.data_ptr()] = storage.nbytes()
    return sum(seen.values())


@pytest.mark.parametrize("name", SHAPES)
def test_rows_states_and_counts_are_the_bytes_of_the_tables(name: str):
    shape = SHAPES[name]
    head, predicted = made(shape), head_bytes(shape)
    rows = head._problem.softmax.rows
    assert isinstance(rows, Rows)
    assert predicted.centres == rows.centre.nbytes
    assert predicted.states == sum(tensor.nbytes for tensor in rows.state.values())
    catch_up = head._problem.softmax.catch_up
    reached = 0 if catch_up is None else catch_up._reached.nbytes
    assert predicted.counts == rows.wins.nbytes + reached


@pytest.mark.parametrize("name", SHAPES)
def test_buffers_are_the_bytes_of_a_chunks_tensors(name: str):
    shape = SHAPES[name]
    problem = made(shape)._problem
    gathered = 0 if problem.sampler is None else problem.sampler._buffer.nbytes
    assert head_bytes(shape).buffers == own_bytes(problem.softmax._operands) + gathered


@pytest.mark.parametrize("name", SHAPES)
def test_kept_products_and_rows_are_those_of_the_budget(name: str):
    shape = SHAPES[name]
    softmax = made(shape)._problem.softmax
    assert softmax._kept is not None
    rows = 0 if softmax._kept_rows is None else softmax._kept_rows.nbytes
    assert (rows > 0) == (shape.sampling is not None and shape.sampling.untouched == "frozen")
    assert head_bytes(shape).kept == softmax._kept.nbytes + rows


def test_a_head_too_large_for_the_budget_keeps_whole_chunks_below_it():
    shape = replace(SMALL, num_classes=4_000_000, embedding_dim=512, batch=1024)
    predicted = head_bytes(shape)
    rows = 4_000_000 * 512 * 4 * 2
    one_chunk = shape.chunk * 1024 * 4
    assert rows // 16 - one_chunk < predicted.kept <= rows // 16
    assert predicted.total > predicted.centres + predicted.states + predicted.kept


def test_a_million_classes_a_rank_are_counted_without_making_them():
    shape = HeadShape(
        num_classes=100_000_000, embedding_dim=512, batch=8192, world_size=1024, on_cpu=False
    )
    assert shape.own_rows == 97_657
    assert head_bytes(shape).centres == 97_657 * 512 * 4


def test_too_many_ranks_are_refused():
    with pytest.raises(ValueError, match="use at most 3 ranks"):
        replace(SMALL, num_classes=3, world_size=4)


def test_a_pools_features_and_buffers_are_the_bytes_of_its_tensors():
    shape = PoolShape(slots=37, embedding_dim=8, batch=16, world_size=1, on_cpu=True)
    head = PoolHead(50, 8, slots=37, margin=CosFace(0.3), scale=16.0)
    predicted = pool_bytes(shape)
    assert predicted.centres == head._rows.feature.nbytes


def test_a_full_pools_directory_and_its_look_ups_are_the_bytes_of_its_arrays():
    shape = PoolShape(slots=37, embedding_dim=8, batch=16, world_size=1, on_cpu=True)
    head = PoolHead(500, 8, slots=37, margin=CosFace(0.3), scale=16.0)
    generator = torch.Generator().manual_seed(0)
    for _ in range(40):
        label = torch.randint(500, (2, 8), generator=generator)
        views = [
            PoolView(torch.randn(8, 8, generator=generator), torch.randn(8, 8), each)
            for each in label
        ]
        for view in views:
            view.probe.requires_grad_()
        head(*views).loss.backward()
    directory = head._directory
    index, queue = directory._index, directory._queue
    arrays = [directory.label, directory.last_use, directory.next_row]
    arrays += [index._slot, index._label, index._new_slot, index._new_label]
    arrays += [queue._slot, queue._use]
    # Newcomers may be listed beside those whose slots they got, until the next merge.
    held = sum(array.nbytes for array in arrays)
    assert pool_bytes(shape).counts == pytest.approx(held, rel=0.05)
