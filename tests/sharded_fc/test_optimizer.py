"""The chunk's update is torch.optim.SGD's, and a skipped one leaves every bit."""

import pytest
import torch

from sharded_fc.optimizer import SGD

GO, SKIP = torch.tensor(0.0), torch.tensor(1.0)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("weight_decay", [0.0, 5e-4])
def test_three_updates_equal_torch_sgd_with_a_changing_learning_rate(momentum, weight_decay):
    torch.manual_seed(0)
    ours = torch.randn(7, 5, dtype=torch.float64)
    theirs = ours.clone().requires_grad_()
    optimizer = SGD(momentum=momentum, weight_decay=weight_decay)
    state = {name: torch.zeros_like(ours) for name in optimizer.state_names}
    dense = torch.optim.SGD([theirs], lr=1.0, momentum=momentum, weight_decay=weight_decay)
    for learning_rate in (0.1, 0.05, 0.2):
        gradient = torch.randn(7, 5, dtype=torch.float64)
        theirs.grad = gradient.clone()
        dense.param_groups[0]["lr"] = learning_rate
        dense.step()
        optimizer.update(ours, state, gradient, learning_rate=learning_rate, skip=GO)
    # The same three operations an element; fused multiply-adds may round once less.
    torch.testing.assert_close(ours, theirs.detach(), rtol=1e-14, atol=1e-14)
    if momentum:
        buffer = dense.state[theirs]["momentum_buffer"]
        torch.testing.assert_close(state["momentum"], buffer, rtol=1e-14, atol=1e-14)


def test_a_skipped_update_with_a_bad_gradient_changes_no_bit():
    rows, state = torch.randn(7, 5), {"momentum": torch.randn(7, 5)}
    rows[2, 3] = float("nan")
    before = rows.clone(), state["momentum"].clone()
    gradient = torch.full((7, 5), float("nan"))
    SGD(momentum=0.9, weight_decay=0.1).update(rows, state, gradient, learning_rate=0.1, skip=SKIP)
    assert torch.equal(rows.view(torch.int32), before[0].view(torch.int32))
    assert torch.equal(state["momentum"].view(torch.int32), before[1].view(torch.int32))


@pytest.mark.parametrize("changes", [{"momentum": 1.0}, {"momentum": -0.1}, {"weight_decay": -1.0}])
def test_numbers_that_diverge_are_refused(changes):
    with pytest.raises(ValueError, match=r"use .*0"):
        SGD(**{"momentum": 0.9, "weight_decay": 0.0, **changes})
