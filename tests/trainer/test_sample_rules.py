import pytest
import torch

from sharded_fc.margins import CosFace
from sharded_fc.reference import DenseHead
from tests.trainer import toy
from tests.trainer.test_engine import make
from trainer.sample_rules import SampleRules
from trainer.step import read_numbers, train_step

M = 4
RULES = SampleRules(
    weight=torch.linspace(0.5, 2.0, toy.NUM_CLASSES), edges=torch.tensor([0, 3, toy.NUM_CLASSES])
)


def test_without_tables_the_head_is_told_nothing():
    assert SampleRules().of(torch.tensor([3, 0])) == {"sample_weight": None, "class_range": None}


def test_samples_weigh_what_their_classes_do():
    rules = SampleRules(weight=torch.tensor([0.5, 1.0, 2.0]))
    told = rules.of(torch.tensor([2, 0, 2]))["sample_weight"]
    assert told is not None
    assert told.tolist() == [2.0, 0.5, 2.0]


def test_samples_compete_with_the_classes_between_the_edges_around_their_own():
    rules = SampleRules(edges=torch.tensor([0, 3, 4, 9]))
    told = rules.of(torch.tensor([0, 2, 3, 4, 8]))["class_range"]
    assert told is not None
    assert told.tolist() == [[0, 3], [0, 3], [3, 4], [4, 9], [4, 9]]


def test_an_empty_batch_is_told_of_nobody():
    rules = SampleRules(weight=torch.ones(4), edges=torch.tensor([0, 4]))
    told = rules.of(torch.zeros(0, dtype=torch.int64))
    weight, ranges = told["sample_weight"], told["class_range"]
    assert weight is not None
    assert ranges is not None
    assert (weight.shape, ranges.shape) == ((0,), (0, 2))


def one_step() -> tuple[float, dict[int, torch.Tensor]]:
    engine, head = make(0, toy.Plain), toy.head()
    rank, world = engine.topology.rank, engine.topology.world_size
    mine = range(rank * M // world, (rank + 1) * M // world)
    outcome = train_step(
        engine,
        head,
        toy.batches(0, mine),
        micro_batches=mine,
        total_micro_batches=M,
        learning_rate=0.1,
        rules=RULES,
    )
    centres = {index: row["centre"] for index, row in toy.rows(head).items()}
    return read_numbers([outcome])[0]["loss"], centres


def test_a_step_weighs_samples_and_lets_them_compete_as_plain_torch_does(ranks):
    batches = toy.batches(0, range(M))
    label = torch.cat([batch.label for batch in batches])
    embedding = toy.network(toy.Plain).double()(
        torch.cat([batch.image for batch in batches]).double()
    )
    dense = DenseHead(
        toy.centres().double(), margin=CosFace(0.2), scale=8.0, learning_rate=0.1, weight_decay=1e-2
    )
    told = RULES.of(label)
    assert told["sample_weight"] is not None
    weight = told["sample_weight"].double()
    loss, _ = dense.step(embedding, label, sample_weight=weight, class_range=told["class_range"])
    for found, centres in ranks(2).run(one_step):
        # float32 against float64: see test_step
        assert found == pytest.approx(loss.item(), abs=1e-5)
        for index, centre in centres.items():
            wanted = dense.centre[index].detach().float()
            torch.testing.assert_close(centre, wanted, rtol=0.0, atol=1e-5)
