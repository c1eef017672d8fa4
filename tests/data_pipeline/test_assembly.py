"""Bad samples are replaced by a rule, whether they were known before or are found on the way."""

import re
from collections import Counter
from itertools import product
from zlib import crc32

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.assembly import READ_PAUSES_S, Assembler
from data_pipeline.augment import Augmentation
from data_pipeline.batch import digest
from data_pipeline.decode import Decoder, UndecodableError
from data_pipeline.errors import DataError
from data_pipeline.index import Dataset
from data_pipeline.loader import read_batches
from data_pipeline.plan import Plan
from data_pipeline.reindex import reindex, tars_of
from data_pipeline.shards import BadSampleError, ShardReader
from tests.data_pipeline.checking.broken import huge_png, rewrite_records, write_tar
from tests.data_pipeline.checking.broken import sample as tar_sample
from tests.data_pipeline.faces import dataset_of, flip_byte, jpeg

NUM_SAMPLES = 40
AUGMENTATION = Augmentation(flip=0.5, brightness=0.2, crop=0.2, seed=3)
CUT, FLIPPED, LABEL = (3, 4, 21), (9, 22), (30,)
BAD = dict.fromkeys(CUT, "decode") | dict.fromkeys(FLIPPED, "crc") | dict.fromkeys(LABEL, "label")
STEPS = 12  # of 2 x 5 samples: three epochs


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Forty faces, six of them bad in three ways; two bad ones are neighbours in the shard."""
    contents = [jpeg(seed) for seed in range(NUM_SAMPLES)]
    contents = [c[: len(c) // 2] if s in CUT else c for s, c in enumerate(contents)]
    labels = [99 if s in LABEL else s % 5 for s in range(NUM_SAMPLES)]
    made = dataset_of(tmp_path_factory.mktemp("assembly") / "faces", contents, labels)
    for sample in FLIPPED:
        flip_byte(made, sample)
    return made


def plan_of(dataset, *, micro_batches=2, micro_batch_size=5):
    return Plan(
        dataset.shard_sizes,
        micro_batches=micro_batches,
        micro_batch_size=micro_batch_size,
        seed=11,
        shuffle_window=2,
    )


def made_by(dataset, plan, places, *, quarantine=None, budget=6, threads=1):
    assembler = Assembler(
        dataset,
        plan,
        lanes=plan.micro_batches,
        image_size=32,
        augmentation=AUGMENTATION,
        device="cpu",
        threads=threads,
        quarantine=quarantine or {},
        bad_sample_budget=budget,
    )
    made = list(assembler.micro_batches(places))
    assembler.close()
    return made


ALL_PLACES = list(product(range(STEPS), range(2)))


def by_the_rule(plan, step, lane):
    """(sample, epoch) of a micro-batch, by the words of the rule."""
    size = plan.micro_batch_size
    chosen = [plan.lane_sample(lane, step * size + i) for i in range(size)]
    follows = (plan.lane_sample(lane, (step + 1) * size + i) for i in range(10 * NUM_SAMPLES))
    good = (place for place in follows if place[0] not in BAD)
    return [place if place[0] not in BAD else next(good) for place in chosen]


def same(left, right):
    return all(torch.equal(a, b) for a, b in zip(left.batch, right.batch, strict=True)) and (
        left.digest == right.digest
    )


@pytest.fixture(scope="module")
def discovered(dataset):
    """What comes out where nothing is known before."""
    return made_by(dataset, plan_of(dataset), ALL_PLACES)


def test_bad_places_take_the_good_samples_that_follow_with_their_labels(dataset, discovered):
    plan = plan_of(dataset)
    replaced = 0
    for (step, lane), made in zip(ALL_PLACES, discovered, strict=True):
        sample = np.array([s for s, _ in by_the_rule(plan, step, lane)])
        np.testing.assert_array_equal(made.batch.sample.numpy(), sample)
        np.testing.assert_array_equal(made.batch.label.numpy(), sample % 5)
        assert made.digest == digest(sample)
        replaced += int((sample != plan.micro_batch(step, lane)[0]).sum())
    assert replaced >= 2 * len(BAD)


def test_a_stand_in_is_augmented_by_its_own_epoch_and_sample(dataset, discovered):
    plan, seen, again = plan_of(dataset), {}, 0
    for (step, lane), made in zip(ALL_PLACES, discovered, strict=True):
        for image, place in zip(made.batch.image, by_the_rule(plan, step, lane), strict=True):
            again += place in seen  # a stand-in comes back as itself in its own micro-batch
            assert torch.equal(seen.setdefault(place, image), image)
    assert again >= 2 * len(BAD)


def test_every_bad_sample_is_reported_once_with_its_reason(discovered):
    reported = [item for made in discovered for item in made.quarantined.items()]
    assert len(reported) == len(BAD)
    assert dict(reported) == BAD


def test_samples_known_to_be_bad_give_the_same_batches_and_no_report(dataset, discovered):
    again = made_by(dataset, plan_of(dataset), ALL_PLACES, quarantine=BAD)
    assert all(same(a, b) for a, b in zip(again, discovered, strict=True))
    assert not any(made.quarantined for made in again)


@settings(max_examples=8)
@given(known=st.sets(st.sampled_from(sorted(BAD))), start=st.integers(0, STEPS - 3))
def test_any_part_of_the_bad_samples_may_be_known_and_any_step_the_first(
    dataset, discovered, known, start
):
    places = ALL_PLACES[2 * start : 2 * start + 6]
    quarantine = {sample: BAD[sample] for sample in known}
    made = made_by(dataset, plan_of(dataset), places, quarantine=quarantine)
    expected = discovered[2 * start : 2 * start + 6]
    assert all(same(a, b) for a, b in zip(made, expected, strict=True))
    assert not set().union(*(m.quarantined for m in made)) & known


@pytest.mark.parametrize("lanes", [[0], [1], [1, 0]])
def test_batches_do_not_depend_on_which_other_lanes_the_rank_reads(dataset, discovered, lanes):
    places = list(product(range(STEPS), lanes))
    made = made_by(dataset, plan_of(dataset), places, threads=2)
    for (step, lane), one in zip(places, made, strict=True):
        assert same(one, discovered[2 * step + lane])


def test_a_micro_batch_that_is_bad_throughout_is_replaced_throughout(tmp_path):
    contents = [jpeg(s) if s >= 8 else b"none" for s in range(10)]
    dataset = dataset_of(tmp_path / "faces", contents, [0] * 10)
    plan = plan_of(dataset, micro_batches=1, micro_batch_size=4)
    made = made_by(dataset, plan, [(step, 0) for step in range(5)], budget=9)
    assert {int(s) for m in made for s in m.batch.sample} == {8, 9}
    assert all(len(m.batch.sample) == 4 for m in made)


def test_more_bad_samples_than_allowed_end_the_run_with_their_names(dataset):
    with pytest.raises(DataError) as caught:
        made_by(dataset, plan_of(dataset), ALL_PLACES, budget=len(BAD) - 1)
    message = str(caught.value)
    assert str(dataset.path) in message
    assert "6 bad samples (2 crc, 3 decode, 1 label), more than the allowed 5" in message
    assert {int(s) for s in re.findall(r"sample (\d+) \(shard-\d+\.tar", message)} == set(BAD)
    assert "\n" not in message


def test_a_quarantine_above_the_budget_is_refused_at_the_start(dataset):
    with pytest.raises(DataError, match="6 bad samples"):
        made_by(dataset, plan_of(dataset), [], quarantine=BAD, budget=2)


def test_a_dataset_without_a_good_sample_is_refused_whatever_the_budget(tmp_path):
    dataset = dataset_of(tmp_path / "faces", [b"none"] * 6, [0] * 6)
    plan = plan_of(dataset, micro_batches=1, micro_batch_size=4)
    with pytest.raises(DataError, match=r"6 bad samples \(6 decode\), so all:"):
        made_by(dataset, plan, [(0, 0)], budget=100)


class Flaky:
    """Reading that fails so many times for some samples before it works."""

    def __init__(self, monkeypatch, failures):
        self.left, self.pauses, self.closed = Counter(failures), [], 0
        read, close = ShardReader.read, ShardReader.close

        def flaky(reader, sample):
            if self.left[sample] > 0:
                self.left[sample] -= 1
                raise BadSampleError(sample, "read")
            return read(reader, sample)

        def closing(reader):
            self.closed += 1
            close(reader)

        monkeypatch.setattr(ShardReader, "read", flaky)
        monkeypatch.setattr(ShardReader, "close", closing)
        monkeypatch.setattr("data_pipeline.assembly.time.sleep", self.pauses.append)


def test_a_read_that_fails_for_a_moment_costs_a_pause_and_no_sample(
    dataset, discovered, monkeypatch
):
    flaky = Flaky(monkeypatch, {0: 1, 7: 2, 15: 1})
    made = made_by(dataset, plan_of(dataset), ALL_PLACES)
    assert all(same(a, b) for a, b in zip(made, discovered, strict=True))
    assert sorted(flaky.pauses) == sorted([READ_PAUSES_S[0]] * 3 + [READ_PAUSES_S[1]])
    assert flaky.closed == len(flaky.pauses) + 1  # files are opened anew, and closed at the end


def test_a_read_that_keeps_failing_is_counted_as_one(dataset, monkeypatch):
    flaky = Flaky(monkeypatch, {0: 100})
    made = made_by(dataset, plan_of(dataset), ALL_PLACES, budget=7)
    found = {s: r for m in made for s, r in m.quarantined.items()}
    assert found == BAD | {0: "read"}
    assert flaky.pauses == list(READ_PAUSES_S)


def test_records_that_cannot_be_read_for_a_moment_cost_a_pause_too(
    dataset, discovered, monkeypatch
):
    failures, pauses, members = [3], [], Dataset.members

    def flaky(self, index):
        if failures[0]:
            failures[0] -= 1
            raise DataError("cannot read it: busy") from OSError("busy")
        return members(self, index)

    monkeypatch.setattr(Dataset, "members", flaky)
    monkeypatch.setattr("data_pipeline.assembly.time.sleep", pauses.append)
    with pytest.raises(DataError, match="busy"):
        made_by(dataset, plan_of(dataset), ALL_PLACES)
    assert pauses == list(READ_PAUSES_S)
    failures[0] = 2
    made = made_by(dataset, plan_of(dataset), ALL_PLACES)
    assert all(same(a, b) for a, b in zip(made, discovered, strict=True))


@pytest.mark.parametrize("reason", ["crc", "label"])
def test_what_no_second_read_can_mend_is_not_read_again(dataset, monkeypatch, reason):
    flaky = Flaky(monkeypatch, {})
    places = [(step, lane) for step, lane in ALL_PLACES if step < 8]
    made = made_by(dataset, plan_of(dataset), places)
    assert reason in {r for m in made for r in m.quarantined.values()}
    assert flaky.pauses == []


def test_a_failure_to_decode_loses_no_batch_that_was_under_way_behind_it(tmp_path):
    """Neighbouring micro-batches of one lane, both bad, and a bad stand-in between them."""
    cut = jpeg(0)[:200]
    contents = [cut if s in (1, 4, 5, 6) else jpeg(s) for s in range(20)]
    dataset = dataset_of(tmp_path / "faces", contents, [s % 5 for s in range(20)])
    plan = plan_of(dataset, micro_batches=1, micro_batch_size=4)
    places = [(step, 0) for step in range(10)]
    known = dict.fromkeys((1, 4, 5, 6), "decode")
    found_on_the_way = made_by(dataset, plan, places, budget=4)
    told_before = made_by(dataset, plan, places, budget=4, quarantine=known)
    assert all(same(a, b) for a, b in zip(found_on_the_way, told_before, strict=True))
    reported = [s for m in found_on_the_way for s in m.quarantined]
    assert sorted(reported) == [1, 4, 5, 6]


def test_a_broken_decoder_is_not_blamed_on_the_samples(dataset, monkeypatch):
    def out_of_memory(_self) -> None:
        raise UndecodableError("out of memory")

    monkeypatch.setattr("data_pipeline.decode.Decoder.collect", out_of_memory)
    with pytest.raises(UndecodableError, match="out of memory"):
        made_by(dataset, plan_of(dataset), [(0, 0)])


def test_a_bomb_in_a_tar_that_was_only_indexed_is_counted_and_never_decoded(tmp_path, monkeypatch):
    """The index may be another program's: ours would have left it out."""
    members = [member for key in "abcdefghi" for member in tar_sample(key)]
    write_tar(tmp_path / "t.tar", members)
    dataset = reindex(tars_of(str(tmp_path / "t.tar")), tmp_path / "index")
    bomb = huge_png()
    offset = dataset.members(0)["offset"][4].item()
    with (tmp_path / "t.tar").open("r+b") as tar:
        tar.seek(offset)
        tar.write(bomb)

    def record(records):
        records["size"][4], records["crc32"][4] = len(bomb), crc32(bomb)

    dataset = rewrite_records(dataset, 0, record)
    decoded = []
    submit = Decoder.submit

    def watched(self, contents, parameters):
        decoded.extend(contents)
        submit(self, contents, parameters)

    monkeypatch.setattr(Decoder, "submit", watched)
    plan = plan_of(dataset, micro_batches=1, micro_batch_size=4)
    made = made_by(dataset, plan, [(step, 0) for step in range(5)], budget=1)
    assert {s: r for m in made for s, r in m.quarantined.items()} == {4: "oversized"}
    assert all(len(m.batch.sample) == 4 for m in made)
    assert bomb not in decoded
    with pytest.raises(DataError, match="oversized"):
        list(read_batches(dataset, np.arange(9), batch_size=4, image_size=16))
