"""Products in compiled code: right at any shape, and the same at any number of threads."""

from unittest import mock

import pytest
import torch

from sharded_fc import ShardedHead, native_products
from sharded_fc.margins import CosFace
from sharded_fc.native_build import SWITCH

SHAPES = [
    (1, 1, 1),
    (12, 8, 32),
    (13, 5, 33),
    (5, 513, 31),
    (100, 512, 64),
    (37, 1030, 130),
    (64, 3, 257),
    (0, 4, 4),
    (4, 0, 4),
]


@pytest.fixture(autouse=True)
def anywhere(monkeypatch: pytest.MonkeyPatch):
    """On processors of other makers, and at any size, too."""
    monkeypatch.setattr(native_products, "_of_amd", lambda: True)
    monkeypatch.setattr(native_products, "_NARROWEST", 1)
    monkeypatch.setattr(native_products, "_SMALLEST", 0)
    if native_products.library() is None:
        pytest.skip("there is no compiler")


@pytest.mark.parametrize(("rows", "depth", "columns"), SHAPES)
@pytest.mark.parametrize("turned", ["neither", "left", "right"])
@pytest.mark.parametrize("add", [False, True])
def test_a_product_is_float64s_to_rounding(rows, depth, columns, turned, add):
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(rows, depth, generator=generator)
    right = torch.randn(depth, columns, generator=generator)
    if turned == "left":
        left = left.t().contiguous().t()
    if turned == "right":
        right = right.t().contiguous().t()
    before = torch.randn(rows, columns + 3, generator=generator)
    out = before.clone()
    assert native_products.multiply(left, right, out=out[:, 1:-2], add=add)
    expected = left.double() @ right.double() + (before[:, 1:-2].double() if add else 0.0)
    # Sums of `depth` rounded products of about 1: at most that many roundings of their sizes.
    close = 1.2e-7 * (left.abs().double() @ right.abs().double() + before[:, 1:-2].abs().double())
    assert ((out[:, 1:-2] - expected).abs() <= close * (depth**0.5 + 2)).all()
    torch.testing.assert_close(out[:, [0, -2, -1]], before[:, [0, -2, -1]], rtol=0, atol=0)


def test_bits_do_not_depend_on_the_threads_or_the_other_rows():
    left, right = torch.randn(100, 600), torch.randn(600, 200)
    found = []
    before = torch.get_num_threads()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append(torch.empty(100, 200))
        native_products.multiply(left, right, out=found[-1])
    torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    some = torch.empty(7, 200)
    native_products.multiply(left[40:47], right, out=some)
    assert torch.equal(some, found[0][40:47])


def test_what_is_no_number_shows_where_it_belongs_and_nowhere_else():
    left, right = torch.ones(30, 20), torch.ones(20, 40)
    left[3, 7], right[5, 33] = float("nan"), float("inf")
    out = torch.empty(30, 40)
    native_products.multiply(left, right, out=out)
    assert torch.equal(out.isfinite(), (left @ right).isfinite())


def test_small_and_narrow_products_are_left_to_torch(monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(native_products, "_of_amd", lambda: True)
    left, right, out = torch.ones(4096, 64), torch.ones(64, 31), torch.zeros(4096, 31)
    assert not native_products.multiply(left, right, out=out)
    assert not native_products.multiply(left[:9], torch.ones(64, 64), out=torch.zeros(9, 64))
    assert native_products.multiply(left, torch.ones(64, 64), out=torch.zeros(4096, 64))


def test_heads_multiply_with_it_and_find_the_same_to_rounding(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    embedding = torch.randn(64, 96, generator=generator)
    label = torch.randint(700, (64,), generator=generator)
    called = mock.Mock(wraps=native_products.multiply)
    monkeypatch.setattr(native_products, "multiply", called)
    found = []
    for of_amd in (True, False):
        monkeypatch.setattr(native_products, "_of_amd", lambda of_amd=of_amd: of_amd)
        head = ShardedHead(700, 96, margin=CosFace(0.3), scale=16.0, learning_rate=0.1)
        leaf = embedding.clone().requires_grad_()
        loss = [head(leaf, label).loss]
        loss[0].backward()
        loss.append(head(leaf, label).loss)
        found.append((torch.stack(loss).detach(), leaf.grad))
    # Products, the embeddings' gradient and the rows' of one step, then another's products.
    assert called.call_count == 2 * 4
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-7)


def test_it_does_nothing_for_other_types_or_without_a_compiler(monkeypatch):
    left, right, out = torch.ones(2, 3), torch.ones(3, 4), torch.zeros(2, 4)
    assert not native_products.multiply(left.double(), right.double(), out=out.double())
    assert not native_products.multiply(left, right, out=torch.zeros(4, 2).t())
    monkeypatch.setenv(SWITCH, "0")
    assert not native_products.multiply(left, right, out=out)
    assert not out.any()
