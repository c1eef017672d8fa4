"""The tars of coming steps are fetched before they are asked for, a window of them at most."""

import hashlib
import json
import os
import threading
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np
import pytest

from data_pipeline.addresses import Address
from data_pipeline.cache import ShardCache, Stopped
from data_pipeline.errors import DataError
from data_pipeline.index import Dataset
from data_pipeline.plan import Plan
from data_pipeline.read_ahead import ReadAhead
from data_pipeline.remote import Remote
from data_pipeline.shards import ShardReader
from data_pipeline.tar_files import TarFiles
from tests.data_pipeline.faces import dataset_of
from tests.data_pipeline.web import serving

SHARDS, EACH = 24, 32


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """Some samples in shards of equal size, on this machine."""
    contents = [bytes([k % 256]) * 200 for k in range(SHARDS * EACH)]
    folder = tmp_path_factory.mktemp("local") / "faces"
    made = dataset_of(
        folder, contents, [k % 5 for k in range(len(contents))], shard_bytes=(EACH + 1) * 2048
    )
    assert len(made.shards) == SHARDS
    return made


def elsewhere(local, folder, address):
    """The same dataset with tars at other addresses."""
    content = json.loads((local.path / "index.json").read_text())
    folder.mkdir()
    for shard in content["shards"]:
        shard["location"] = str(address(shard["name"]))
        for suffix in ("members", "idx"):
            name = f"{shard['name']}.{suffix}"
            (folder / name).write_bytes((local.path / name).read_bytes())
    (folder / "index.json").write_text(json.dumps(content))
    return Dataset.open(folder)


@dataclass
class Recorded:
    """Stands for the tars of a dataset: says which were fetched."""

    remote: bool = True
    fetched: list[int] = field(default_factory=list)
    more: threading.Condition = field(default_factory=threading.Condition)
    fault: type[Exception] | None = None

    def fetch(self, shard_index, *, stopping):
        if stopping():
            raise Stopped
        with self.more:
            self.fetched.append(shard_index)
            self.more.notify_all()
        if self.fault:
            raise self.fault("no network")

    def wait_for(self, shards):
        with self.more:
            assert self.more.wait_for(lambda: shards <= set(self.fetched), timeout=20), shards


def plan_of(dataset, *, window=3, lanes=2):
    return Plan(
        dataset.shard_sizes, micro_batches=lanes, micro_batch_size=16, seed=3, shuffle_window=window
    )


def needed(dataset, plan, lanes, steps):
    first = [shard.first_sample for shard in dataset.shards]
    samples = [plan.micro_batch(step, lane)[0] for step in steps for lane in lanes]
    found = np.searchsorted(first, np.concatenate(samples), side="right") - 1
    return set(found.tolist())


@pytest.mark.parametrize("lanes", [range(2), range(1, 2)])
def test_the_next_steps_of_a_ranks_own_lanes_are_fetched(local, lanes):
    plan, tars = plan_of(local), Recorded()
    with closing(ReadAhead(local, plan, lanes, start_step=5, tars=tars)):
        tars.wait_for(needed(local, plan, lanes, range(5, 9)))


def test_fetching_goes_on_as_training_does_and_over_the_end_of_an_epoch(local):
    plan, tars = plan_of(local), Recorded()
    with closing(ReadAhead(local, plan, range(2), tars=tars)) as ahead:
        for step in range(0, 60, 2):  # an epoch has 24 steps
            ahead.reached(step)
            tars.wait_for(needed(local, plan, range(2), range(step, step + 2)))


def test_no_more_than_a_window_of_each_lane_is_fetched_ahead(local):
    plan, tars = plan_of(local, window=2), Recorded()
    with closing(ReadAhead(local, plan, range(2), tars=tars)) as ahead:
        tars.wait_for(needed(local, plan, range(2), range(2)))
        ahead.reached(0)
    # A window is 2 shards of 2 micro-batches each: steps 0 to 4, looked at every other step.
    assert set(tars.fetched) <= needed(local, plan, range(2), range(5))


def test_a_jump_forwards_leaves_out_what_was_jumped_over(local):
    plan, tars = plan_of(local, window=1), Recorded()
    with closing(ReadAhead(local, plan, range(1), tars=tars)) as ahead:
        ahead.reached(40)
        tars.wait_for(needed(local, plan, range(1), [40]))
    skipped = needed(local, plan, range(1), range(6, 38)) - needed(
        local, plan, range(1), [*range(6), *range(38, 46)]
    )
    assert not skipped & set(tars.fetched)


def test_the_readers_own_plan_is_left_alone(local):
    plan, tars = plan_of(local), Recorded()
    before = plan.micro_batch(0, 0)[0].copy()
    with closing(ReadAhead(local, plan, range(2), start_step=20, tars=tars)):
        tars.wait_for(needed(local, plan_of(local), range(2), [20]))
    assert not [key for key, _ in plan._held[0] if key != (0, 0)]
    assert (plan.micro_batch(0, 0)[0] == before).all()


def test_a_tar_that_cannot_be_fetched_does_not_end_the_others(local, caplog):
    plan, tars = plan_of(local), Recorded(fault=DataError)
    with closing(ReadAhead(local, plan, range(2), tars=tars)):
        tars.wait_for(needed(local, plan, range(2), range(3)))
    assert "not fetched ahead: no network" in caplog.text


def test_local_tars_need_no_threads(local):
    before = threading.active_count()
    with closing(ReadAhead(local, plan_of(local), range(2))):
        assert threading.active_count() == before


def test_faces_of_a_web_server_are_those_of_this_machine(local, tmp_path):
    with serving(tmp_path) as web:
        web.files = {
            f"/{s.name}.tar": (local.path / f"{s.name}.tar").read_bytes() for s in local.shards
        }
        dataset = elsewhere(local, tmp_path / "there", lambda name: web.address(f"/{name}.tar"))
        remote = Remote(private_hosts=["localhost"], context=web.trusting, sleep=lambda _: None)
        cache = ShardCache(tmp_path / "cache", max_bytes=1 << 26, remote=remote)
        tars = TarFiles(dataset, cache=cache)
        plan = plan_of(dataset)
        reader = ShardReader(dataset, max_open=8, tars=tars)
        ours = ShardReader(local, max_open=8)
        with closing(ReadAhead(dataset, plan, range(2), tars=tars)) as ahead:
            for step in range(24):
                ahead.reached(step)
                for sample in plan.micro_batch(step, 1)[0].tolist():
                    assert reader.read(sample) == ours.read(sample)
        reader.close()
        ours.close()
        asked = [path for path, _ in web.asked]
    assert len(asked) == len(set(asked)) <= SHARDS


def test_a_tar_that_is_not_there_stops_the_run_and_is_no_bad_sample(local, tmp_path):
    with serving(tmp_path) as web:
        dataset = elsewhere(local, tmp_path / "there", lambda name: web.address(f"/{name}.tar"))
        remote = Remote(private_hosts=["localhost"], context=web.trusting)
        cache = ShardCache(tmp_path / "cache", max_bytes=1 << 26, remote=remote)
        reader = ShardReader(dataset, max_open=8, tars=TarFiles(dataset, cache=cache))
        with pytest.raises(DataError, match=r"shard-000000.tar cannot be read .*404"):
            reader.read(0)


def test_tars_at_other_places_of_this_machine_are_opened_there(local, tmp_path):
    def address(name):
        return Address.of_file(local.path / f"{name}.tar")

    dataset = elsewhere(local, tmp_path / "there", address)
    handle = TarFiles(dataset).open(3)
    content = os.pread(handle, 1 << 20, 0)
    os.close(handle)
    assert hashlib.sha256(content).hexdigest() == local.shards[3].sha256
