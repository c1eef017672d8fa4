"""The toy's people and table, at sizes of no interest."""

import json
from dataclasses import asdict

import pytest
import torch

from tests.benchmarks.bench_toy_sampling import SEEDS, SETTINGS, done_runs, run, table
from tests.benchmarks.toy import draw_people, make_network, true_accepts

SIZES = {"identities": 40, "per_identity": 4, "unseen": 30, "steps": 3, "batch": 16, "dim": 8}


def test_people_follow_from_the_seed_and_the_unseen_are_others():
    people, unseen = draw_people(40, 4, unseen=30, seed=1)
    again, _ = draw_people(40, 4, unseen=30, seed=1)
    assert torch.equal(people.observation, again.observation)
    assert (people.identities, unseen.identities) == (40, 30)
    assert not (unseen.observation[:, None] == people.observation).all(2).any()


def test_batches_take_every_sample_once_before_any_comes_again():
    people, _ = draw_people(10, 4, unseen=2, seed=0)
    batches = people.batches(16, seed=0)
    drawn = torch.cat([next(batches) for _ in range(5)])
    assert torch.equal(drawn[:40].sort().values, torch.arange(40))
    assert torch.equal(drawn[40:].sort().values, torch.arange(40))


def test_so_many_labels_are_anybodys():
    people, _ = draw_people(1_000, 4, unseen=2, seed=0)
    changed = (people.flipped(0.4, seed=0).label != people.label).float().mean()
    assert abs(float(changed) - 0.4) < 0.04  # five deviations of 4,000 draws


def test_a_network_that_sees_identities_alone_is_right_and_a_random_one_is_not():
    _, unseen = draw_people(2, 4, unseen=300, seed=0)
    telling = torch.nn.Embedding.from_pretrained(torch.eye(300))
    perfect = torch.nn.Sequential(torch.nn.Flatten(0), telling)
    known = type(unseen)(observation=unseen.label.unsqueeze(1), label=unseen.label, per_identity=4)  # pyright: ignore[reportArgumentType]
    assert true_accepts(perfect, known) == 1
    assert true_accepts(make_network(8, seed=0), unseen) < 0.2


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_every_setting_takes_steps(setting):
    people, unseen = draw_people(40, 4, unseen=30, seed=0)
    found = run(setting, people, unseen, SIZES, seed=0)
    assert 0 <= found["true_accepts"] <= 1
    assert found["last_loss"] > 0


def test_runs_of_other_sizes_do_not_count_and_the_table_needs_all(tmp_path):
    path = tmp_path / "runs.jsonl"
    assert done_runs(path, SIZES) == {}
    lines = [
        {"setting": asdict(setting), "seed": seed, "sizes": SIZES, "true_accepts": place / 100}
        for place, setting in enumerate(SETTINGS)
        for seed in SEEDS
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert done_runs(path, SIZES | {"steps": 4}) == {}
    rows = table(done_runs(path, SIZES))
    assert [row["accepted, %"] for row in rows] == pytest.approx([*range(len(SETTINGS))])
