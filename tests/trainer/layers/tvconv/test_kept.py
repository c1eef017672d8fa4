"""Weights are made once a step, once in evaluation, and anew whenever they could be others."""

import copy
import gc
import pickle
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from tests.trainer.layers.tvconv.test_layer import images, make
from trainer.layers.tvconv import TVConv2d


class Counted:
    """A layer, and how often it made its weights."""

    def __init__(self) -> None:
        self.layer = make()
        self.times = 0
        self.layer.weight_block.register_forward_hook(self._count)

    def _count(self, *_: object) -> None:
        self.times += 1


def gradients(layer: TVConv2d) -> list[torch.Tensor]:
    found = []
    for parameter in layer.parameters():
        assert parameter.grad is not None
        found.append(parameter.grad.clone())
    return found


def test_micro_batches_of_a_step_share_one_making_and_have_the_batchs_gradient():
    counted, batch = Counted(), images(6)
    torch.cat([counted.layer(part) for part in batch.split(2)]).square().sum().backward()
    assert counted.times == 1
    found = gradients(counted.layer)
    counted.layer.zero_grad()
    counted.layer(batch).square().sum().backward()
    assert counted.times == 2
    for ours, whole in zip(found, gradients(counted.layer), strict=True):
        # Sums of float32 in another order, at the size of the largest.
        torch.testing.assert_close(ours, whole, rtol=1e-4, atol=1e-5 * float(whole.abs().max()))


def test_a_backward_for_each_micro_batch_gives_the_same_gradient():
    counted, batch = Counted(), images(6)
    counted.layer(batch).square().sum().backward()
    expected = gradients(counted.layer)
    counted.layer.zero_grad()
    for part in batch.split(2):
        counted.layer(part).square().sum().backward()
    for ours, whole in zip(gradients(counted.layer), expected, strict=True):
        torch.testing.assert_close(ours, whole, rtol=1e-4, atol=1e-5 * float(whole.abs().max()))


@torch.no_grad()
def test_in_evaluation_weights_are_made_once_and_are_those_made_anew_to_the_bit():
    counted = Counted()
    counted.layer.eval()
    first = counted.layer(images())
    for _ in range(3):
        assert torch.equal(counted.layer(images()), first)
    assert counted.times == 1
    counted.layer.forget_weights()
    assert torch.equal(counted.layer(images()), first)
    assert counted.times == 2


def move_parameter(layer: TVConv2d) -> None:
    layer.weight_block.affinity[..., 0, 0] = 3.0


def replace_parameter(layer: TVConv2d) -> None:
    layer.weight_block.last.weight = nn.Parameter(torch.ones_like(layer.weight_block.last.weight))


def replace_data(layer: TVConv2d) -> None:
    layer.weight_block.last.weight.data = torch.ones_like(layer.weight_block.last.weight)


def other_state(layer: TVConv2d) -> dict[str, torch.Tensor]:
    return {name: value + 0.1 * value.roll(1) for name, value in layer.state_dict().items()}


def step(layer: TVConv2d) -> None:
    with torch.enable_grad():
        layer(images()).square().sum().backward()
    torch.optim.SGD(layer.parameters(), lr=0.1).step()


CHANGES: dict[str, Callable[[TVConv2d], object]] = {
    "written to": move_parameter,
    "replaced": replace_parameter,
    "other storage": replace_data,
    "loaded": lambda layer: layer.load_state_dict(other_state(layer)),
    "loaded by assignment": lambda layer: layer.load_state_dict(other_state(layer), assign=True),
    "loaded by a network": lambda layer: nn.Sequential(layer).load_state_dict(
        {f"0.{name}": value for name, value in other_state(layer).items()}
    ),
    "an optimizer's step": step,
}


@torch.no_grad()
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_of_parameters_shows_in_the_next_output(change):
    layer = make().eval()
    before = layer(images())
    change(layer)
    found = layer(images())
    assert not torch.equal(found, before)
    assert torch.equal(found, copy.deepcopy(layer)(images()))


@torch.no_grad()
def test_weights_are_made_anew_after_a_change_of_mode_device_or_dtype():
    counted = Counted()
    layer = counted.layer.eval()
    changes = (layer.train, layer.eval, layer.double, layer.float, lambda: layer.to("cpu"))
    for number, change in enumerate(changes):
        layer(images().to(layer.weight_block.affinity.dtype))
        assert counted.times == number + 1
        change()
    layer.to("meta")
    assert layer(images().to("meta")).shape == (4, 6, 9, 8)


def test_what_an_optimizer_writes_behind_autograds_back_shows_after_its_backward():
    layer = make()
    before = layer(images())
    before.square().sum().backward()
    for parameter in layer.parameters():
        parameter.data.mul_(1.1)
    found = layer(images())
    assert not torch.equal(found, before)
    assert torch.equal(found, copy.deepcopy(layer)(images()))


def test_weights_with_a_graph_and_without_are_not_mistaken_for_each_other():
    layer = make()
    with torch.no_grad():
        assert not layer(images()).requires_grad
    layer(images()).sum().backward()
    assert layer.weight_block.affinity.grad is not None
    with torch.inference_mode():
        layer(images())
    layer.requires_grad_(requires_grad=False)
    image = images().requires_grad_()
    layer(image).sum().backward()
    assert image.grad is not None


def test_a_checkpointed_network_makes_weights_once_and_has_the_same_gradients():
    counted, batch = Counted(), images(6)
    torch.cat([counted.layer(part) for part in batch.split(3)]).square().sum().backward()
    expected = gradients(counted.layer)
    counted.layer.zero_grad()
    counted.times = 0
    parts = [checkpoint(counted.layer, part, use_reentrant=False) for part in batch.split(3)]
    torch.cat(parts).square().sum().backward()  # pyright: ignore[reportArgumentType]
    assert counted.times == 1
    for ours, plain in zip(gradients(counted.layer), expected, strict=True):
        assert torch.equal(ours, plain)


def test_copies_and_pickles_of_a_layer_in_use_begin_without_its_weights():
    counted = Counted()
    output = counted.layer(images())
    for other in (copy.deepcopy(counted.layer), pickle.loads(pickle.dumps(make()))):
        assert torch.equal(other(images()), output)
        assert other.weight() is not counted.layer.weight()
    output.sum().backward()
    assert counted.times == 1


def test_a_layer_that_is_gone_leaves_nothing_behind():
    layer = make()
    layer(images())  # with a graph that no backward frees
    kept = weakref.ref(layer.weight())
    del layer
    gc.collect()
    assert kept() is None
