"""Cleaning up from several rows a class to one, however the rows were cut."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sharded_fc import ShardedHead
from sharded_fc.margins import ArcFace
from sharded_fc.sub_centres import dominant


@given(data=st.data())
def test_any_cut_and_order_of_blocks_keeps_each_classs_most_won_row(data):
    sub_centres = data.draw(st.integers(1, 4), label="K")
    num_classes = data.draw(st.integers(1, 9), label="classes")
    rows = sub_centres * num_classes
    wins = torch.tensor(data.draw(st.lists(st.integers(0, 3), min_size=rows, max_size=rows)))
    centre = torch.arange(float(rows)).unsqueeze(1)
    cuts = sorted(data.draw(st.sets(st.integers(1, rows)), label="cuts") | {0, rows})
    blocks = [
        (a, {"centre": centre[a:b], "wins": wins[a:b].unsqueeze(1)})
        for a, b in itertools.pairwise(cuts)
    ]
    blocks = data.draw(st.permutations(blocks), label="order")
    found = torch.full((num_classes,), -1.0)
    for label, kept in dominant(blocks, sub_centres=sub_centres):
        found[label : label + len(kept["centre"])] = kept["centre"].squeeze(1)
    best = wins.view(num_classes, sub_centres).argmax(1)
    assert torch.equal(found, (torch.arange(num_classes) * sub_centres + best).float())


def test_a_noisy_class_is_cleaned_up_to_the_person_most_of_its_images_show():
    """Class 0 holds 24 images of one person and 8 of another: the first is what remains."""
    torch.manual_seed(0)
    person = torch.nn.functional.normalize(torch.randn(6, 16))
    options = {"margin": ArcFace(0.2), "scale": 16.0, "learning_rate": 0.5, "momentum": 0.0}
    head = ShardedHead(5, 16, **options, sub_centres=3, seed=2)
    source = torch.cat([torch.zeros(24), torch.full((8,), 5.0), torch.arange(1.0, 5.0).repeat(8)])
    label = source.long() % 5
    for _ in range(60):
        image = person[source.long()] + 0.05 * torch.randn(len(source), 16)
        head(image, label).loss.backward()
    clean = ShardedHead(5, 16, **options)
    clean.load(dominant(head.rows(block=4), sub_centres=3), {**head.state(), "sub_centres": 1})
    found = clean.nearest(person, k=1)
    assert torch.equal(found.label[:5, 0], torch.arange(5))
    assert found.cosine[0, 0] > 0.9
    assert found.cosine[5, 0] < 0.5  # nobody's any more


def test_rows_that_end_within_a_class_or_were_never_counted_are_refused():
    rows = {"centre": torch.zeros(5, 2), "wins": torch.zeros(5, 1, dtype=torch.int64)}
    with pytest.raises(ValueError, match="only part of the rows of class 2"):
        list(dominant([(0, rows)], sub_centres=2))
    with pytest.raises(ValueError, match="has no wins"):
        list(dominant([(0, {"centre": torch.zeros(4, 2)})], sub_centres=2))
