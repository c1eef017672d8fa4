"""All ranks' centres in one file, as the safetensors package reads it."""

import os

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch.nn.functional import normalize

from tests.ranks import RankError
from tests.sharded_fc.table import draw_centres, own_rows


def export(path, centre, options, wins=None, dtype=torch.float64):
    from sharded_fc.export import export_centres

    sub_centres = options.get("sub_centres", 1)
    rows, ranks = own_rows(centre, sub_centres=sub_centres, dtype=dtype)
    own = None if wins is None else wins[rows.start : rows.stop]
    options = {"unit": True, "embedding_dim": centre.shape[1], **options}
    export_centres(path, rows=rows, ranks=ranks, wins=own, **options)


def read(path):
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    return load_file(path)["centres"]


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_file_has_every_ranks_centres_at_length_one(ranks, tmp_path, world, dtype):
    centre = draw_centres(11, 5)
    path = tmp_path / "centres.safetensors"
    path.write_bytes(b"an earlier file")
    ranks(world).run(export, path, centre, {"dtype": dtype, "block": 2})
    assert torch.equal(read(path), normalize(centre, dim=1).to(dtype))


def test_centres_as_trained_and_what_the_file_says_of_them(ranks, tmp_path):
    centre = draw_centres(7, 4)
    path = tmp_path / "centres.safetensors"
    ranks(2).run(export, path, centre, {"unit": False})
    assert torch.equal(read(path), centre.float())
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt", "length": "trained"}


def test_two_byte_rows_are_read_in_full_precision_before_they_get_length_one(ranks, tmp_path):
    centre = draw_centres(7, 4)
    path = tmp_path / "centres.safetensors"
    ranks(2).run(export, path, centre, {}, None, torch.bfloat16)
    assert torch.equal(read(path), normalize(centre.bfloat16().float(), dim=1))


@pytest.mark.parametrize("world", [1, 3])
def test_all_sub_centres_or_the_one_with_most_wins(ranks, tmp_path, world):
    centre = draw_centres(15, 4)
    every, one = tmp_path / "every" / "c.safetensors", tmp_path / "one" / "c.safetensors"
    for path in (every, one):
        path.parent.mkdir()
    ranks(world).run(export, every, centre, {"sub_centres": 3, "block": 1})
    expected = normalize(centre, dim=1).float().view(5, 3, 4)
    assert torch.equal(read(every), expected)
    wins = torch.tensor([1, 5, 2, 0, 0, 9, 4, 4, 1, 0, 0, 0, 1, 7, 7])  # the first of equals
    ranks(world).run(export, one, centre, {"sub_centres": 3, "block": 2}, wins)
    best = torch.tensor([1, 2, 0, 0, 1])
    assert torch.equal(read(one), expected[torch.arange(5), best])


def test_a_plain_softmaxs_bias_is_left_out(ranks, tmp_path):
    centre = draw_centres(5, 4)
    path = tmp_path / "centres.safetensors"
    ranks(2).run(export, path, centre, {"embedding_dim": 3})
    assert torch.equal(read(path), normalize(centre[:, :3], dim=1).float())


def test_rows_that_no_one_has_asked_for_are_written_with_their_first_values(tmp_path):
    from sharded_fc.collectives import Ranks
    from sharded_fc.export import export_centres
    from sharded_fc.initial import initial_rows
    from sharded_fc.storage import Rows

    cpu = torch.device("cpu")
    rows = Rows(
        0,
        9,
        embedding_dim=4,
        state_widths={},
        seed=3,
        device=cpu,
        dtype=torch.float32,
        state_dtype=torch.float32,
    )
    path = tmp_path / "centres.safetensors"
    export_centres(path, rows=rows, ranks=Ranks(None), embedding_dim=4, unit=False)
    assert torch.equal(read(path), initial_rows(0, 9, embedding_dim=4, seed=3, device=cpu))


def refused(path, centre, options, wins):
    with pytest.raises(ValueError, match="pass wins with one entry a row on every rank") as error:
        export(path, centre, options, wins)
    return str(error.value)


def test_wins_that_do_not_fit_are_refused_on_every_rank(ranks, tmp_path):
    wins = torch.ones(4, dtype=torch.int64)  # one short, on the last rank
    assert len(set(ranks(2).run(refused, tmp_path / "c", draw_centres(5, 4), {}, wins))) == 1
    assert not list(tmp_path.iterdir())


FAILING = {"pwrite": 1, "fsync": 1, "replace": 0}  # the rank that fails in each call of the system


def export_with_one_rank_failing(path, centre, call):
    from torch.distributed import get_rank

    def fail(*_):
        raise OSError(28, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        if get_rank() == FAILING[call]:
            patch.setattr(type(path) if call == "replace" else os, call, fail)
        try:
            export(path, centre, {})
        except OSError as error:
            return str(error)


@pytest.mark.parametrize("call", FAILING)
def test_a_rank_that_cannot_write_stops_all_and_leaves_the_earlier_file(ranks, tmp_path, call):
    path = tmp_path / "centres.safetensors"
    path.write_bytes(b"an earlier file")
    messages = ranks(3).run(export_with_one_rank_failing, path, draw_centres(7, 4), call)
    for rank, message in enumerate(messages):
        own = rank == FAILING[call]
        assert ("No space left" if own else f"rank {FAILING[call]} could not write") in message
    assert path.read_bytes() == b"an earlier file"
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_folder_that_does_not_exist_is_reported_by_every_rank(ranks, tmp_path):
    with pytest.raises(RankError, match="No such file") as error:
        ranks(2).run(export, tmp_path / "none" / "c.safetensors", draw_centres(5, 4), {})
    assert "rank 0 could not write its part" in str(error.value)


def test_a_dtype_that_readers_may_lack_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"use torch.float32 or torch.float16"):
        export(tmp_path / "c", draw_centres(3, 2), {"dtype": torch.bfloat16})
