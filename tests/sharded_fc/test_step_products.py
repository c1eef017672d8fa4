"""Products of past steps' matrices, from any step up to now."""

import pytest
import torch

from sharded_fc.step_products import StepProducts

KEEP = torch.ones((), dtype=torch.bool)


def draw(steps, groups=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    noise = 0.3 * torch.randn(steps, groups, 2, 2, generator=generator, dtype=torch.float64)
    return torch.eye(2, dtype=torch.float64) + noise


def product(matrices, first):
    result = torch.eye(2, dtype=torch.float64)
    for matrix in matrices[first:]:
        result = matrix @ result
    return result


def since(products, first, group=None):
    first = torch.tensor(first)
    return products.since(first, torch.zeros_like(first) if group is None else torch.tensor(group))


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 7, 8, 9, 64, 100])
def test_products_from_every_step_equal_one_multiplication_after_another(steps):
    products, matrices = StepProducts(1, device=torch.device("cpu")), draw(steps)
    for matrix in matrices:
        products.append(matrix, keep=KEEP)
    found = since(products, list(range(steps + 1)))
    expected = torch.stack([product(matrices[:, 0], first) for first in range(steps + 1)])
    # The same factors, multiplied in another order.
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-13)
    assert torch.equal(found[-1], torch.eye(2, dtype=torch.float64))


def test_growing_keeps_what_was_there(monkeypatch):
    monkeypatch.setattr("sharded_fc.step_products._FIRST_CAPACITY", 4)
    products, matrices = StepProducts(2, device=torch.device("cpu")), draw(70, groups=2)
    for count, matrix in enumerate(matrices, 1):
        products.append(matrix, keep=KEEP)
        first = [0, count // 2, count - 1, count]
        for group in (0, 1):
            found = since(products, first, [group] * 4)
            expected = torch.stack([product(matrices[:count, group], f) for f in first])
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_steps_that_are_not_kept_leave_no_trace(monkeypatch):
    monkeypatch.setattr("sharded_fc.step_products._FIRST_CAPACITY", 4)
    products, plain = (StepProducts(1, device=torch.device("cpu")) for _ in range(2))
    for number, matrix in enumerate(draw(40)):
        keep = number % 3 != 0
        products.append(matrix, keep=torch.tensor(keep))
        if keep:
            plain.append(matrix, keep=KEEP)
    first = list(range(int(plain.count) + 1))
    assert products.count == plain.count
    assert torch.equal(since(products, first), since(plain, first))


def test_nothing_is_left_after_clearing():
    products = StepProducts(1, device=torch.device("cpu"))
    for matrix in draw(5):
        products.append(matrix, keep=KEEP)
    products.clear()
    assert products.count == 0
    assert torch.equal(since(products, [0])[0], torch.eye(2, dtype=torch.float64))
