"""Running statistics belong to the global batch: equal at every world size, recorded once."""

import subprocess
import sys

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.utils.checkpoint import checkpoint

from trainer.layers.batch_norm import BatchNorm1d, BatchNorm2d, apply_statistics, recording

MICRO_BATCHES = 5  # over 2 and 3 ranks: shares of 3 and 2, of 2, 2 and 1
MICRO_BATCH_SIZE = 4


def make_network() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3),
        BatchNorm2d(6),
        nn.PReLU(6),
        nn.Flatten(),
        nn.Linear(54, 7),
        BatchNorm1d(7),
    )


def make_images() -> torch.Tensor:
    torch.manual_seed(2)
    return torch.randn(MICRO_BATCHES, MICRO_BATCH_SIZE, 3, 5, 5)


def one_step(network: nn.Module, share: range, group: dist.ProcessGroup | None) -> None:
    with recording(network) as records:
        for image in make_images()[share.start : share.stop]:
            network(image)
    apply_statistics(records, micro_batches=share, total=MICRO_BATCHES, group=group)


def buffers_after_two_steps(shares: list[range]) -> dict[str, torch.Tensor]:
    group = dist.group.WORLD
    share = shares[dist.get_rank()]
    network = make_network()
    for _ in range(2):
        one_step(network, share, group)
    return dict(network.named_buffers())


def shares_of(world: int) -> list[range]:
    return {1: [range(5)], 2: [range(3), range(3, 5)], 3: [range(2), range(2, 4), range(4, 5)]}[
        world
    ]


@pytest.mark.parametrize("world", [1, 2, 3])
def test_buffers_are_bit_equal_on_every_rank_and_at_every_world_size(ranks, world):
    alone = make_network()
    for _ in range(2):
        one_step(alone, range(MICRO_BATCHES), None)
    expected = dict(alone.named_buffers())
    assert len(expected) == 4
    for got in ranks(world).run(buffers_after_two_steps, shares_of(world)):
        assert all(torch.equal(got[name], expected[name]) for name in expected)


def test_a_rank_without_micro_batches_ends_with_the_same_buffers(ranks):
    everything, nothing = ranks(2).run(
        buffers_after_two_steps, [range(MICRO_BATCHES), range(MICRO_BATCHES, MICRO_BATCHES)]
    )
    assert all(torch.equal(everything[name], nothing[name]) for name in everything)


def count_collectives(shares: list[range]) -> int:
    network, calls, original = make_network(), 0, dist.all_reduce

    def counted(*args, **kwargs):
        nonlocal calls
        calls += 1
        return original(*args, **kwargs)

    dist.all_reduce = counted
    try:
        one_step(network, shares[dist.get_rank()], dist.group.WORLD)
    finally:
        dist.all_reduce = original
    return calls


def test_a_step_takes_one_collective(ranks):
    assert ranks(2).run(count_collectives, shares_of(2)) == [1, 1]


def test_a_micro_batch_is_normalised_as_torch_does_it():
    torch.manual_seed(0)
    ours, theirs = BatchNorm2d(6, eps=2e-5), nn.BatchNorm2d(6, eps=2e-5)
    theirs.load_state_dict(ours.state_dict(), strict=False)
    image = torch.randn(4, 6, 5, 5)
    assert torch.equal(ours(image), theirs(image))
    statistics = {"running_mean": torch.randn(6), "running_var": torch.rand(6) + 0.5}
    for layer in (ours, theirs):
        layer.load_state_dict(statistics, strict=False)
        layer.eval()
    assert torch.equal(ours(image), theirs(image))


def test_one_micro_batch_moves_the_buffers_as_torch_does():
    torch.manual_seed(0)
    ours, theirs = BatchNorm2d(6), nn.BatchNorm2d(6)
    image = torch.randn(4, 6, 5, 5) * 3 + 1
    with recording(ours) as records:
        ours(image)
    apply_statistics(records, micro_batches=range(1), total=1, group=None)
    theirs(image)
    # torch writes 0.9*old + 0.1*new, lerp old + 0.1*(new - old): one rounding apart in float32.
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    torch.testing.assert_close(ours.running_var, theirs.running_var)


def test_the_average_is_that_of_the_micro_batches_means_and_unbiased_variances():
    network = make_network()
    one_step(network, range(MICRO_BATCHES), None)
    convolved = torch.stack([network[0](image) for image in make_images()]).detach().double()
    mean = convolved.mean((1, 3, 4)).mean(0)
    variance = convolved.var((1, 3, 4)).mean(0)
    layer = network[1]
    assert isinstance(layer, BatchNorm2d)
    # Against float64; float32 defaults, as the sums run over 36 values and 5 micro-batches only.
    torch.testing.assert_close(layer.running_mean.double(), 0.1 * mean, rtol=1.3e-6, atol=1e-7)
    torch.testing.assert_close(
        layer.running_var.double(), 0.9 + 0.1 * variance, rtol=1.3e-6, atol=0
    )


def test_a_forward_alone_changes_no_buffer():
    network = make_network()
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    network(make_images()[0])
    with recording(network):
        network(make_images()[0])
    network.eval()
    network(make_images()[0])
    assert all(torch.equal(buffer, before[name]) for name, buffer in network.named_buffers())


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_forward_replayed_in_backward_is_recorded_once_and_gives_the_same_gradients(reentrant):
    plain, replayed = make_network(), make_network()
    image = make_images()[0].requires_grad_()
    with recording(plain) as expected:
        plain(image).square().sum().backward()
    with recording(replayed) as records:
        output = checkpoint(replayed, image, use_reentrant=reentrant)
    assert isinstance(output, torch.Tensor)
    output.square().sum().backward()
    assert torch.equal(records.stack(1), expected.stack(1))
    for one, two in zip(plain.parameters(), replayed.parameters(), strict=True):
        assert one.grad is not None
        assert two.grad is not None
        assert torch.equal(one.grad, two.grad)


def test_a_forward_outside_the_recording_does_not_count():
    network, padded = make_network(), make_network()
    one_step(network, range(MICRO_BATCHES), None)
    with recording(padded) as records:
        for image in make_images():
            padded(image)
    padded(make_images()[0] * 100)
    apply_statistics(records, micro_batches=range(MICRO_BATCHES), total=MICRO_BATCHES, group=None)
    assert all(
        torch.equal(one, two) for one, two in zip(network.buffers(), padded.buffers(), strict=True)
    )


def test_statistics_stay_float32_under_bf16_autocast():
    network = make_network()
    image = make_images()[0]
    with recording(network) as records, torch.autocast("cpu", torch.bfloat16):
        convolved = network[0](image)
        network(image)
    assert convolved.dtype == torch.bfloat16
    row = records.stack(1)[0]
    assert row.dtype == torch.float32
    # Against float64 statistics of the very same bf16 values: only float32 sums remain.
    exact = convolved.detach().double()
    expected = torch.cat([exact.mean((0, 2, 3)), exact.var((0, 2, 3))])
    torch.testing.assert_close(row[:12].double(), expected, rtol=1e-5, atol=1e-6)
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}


COMPILE = """
import torch
from tests.trainer.test_batch_norm import make_images, make_network
from trainer.layers.batch_norm import recording
network = make_network()
with recording(network) as expected:
    for image in make_images():
        network(image)
torch._dynamo.config.error_on_recompile = True
network.forward = torch.compile(network.forward, backend="aot_eager", fullgraph=True)
with recording(network) as records:
    for image in make_images():
        network(image)
# The compiler takes torch's own normalisation, whose sums have another order.
torch.testing.assert_close(records.stack(5), expected.stack(5))
network(make_images()[0])
"""


def test_a_compiled_network_records_every_forward_by_one_graph():
    # In a process of its own: the tests' shape checks are no code that the compiler can read.
    subprocess.run([sys.executable, "-c", COMPILE], check=True)


def test_a_micro_batch_of_one_vector_is_refused_with_the_remedy():
    with pytest.raises(ValueError, match="use a micro-batch of at least 2 samples"):
        BatchNorm1d(3)(torch.zeros(1, 3))
    with pytest.raises(ValueError, match="use a micro-batch of at least 2 samples"):
        BatchNorm2d(3)(torch.zeros(1, 3, 1, 1))
    assert BatchNorm1d(3).eval()(torch.zeros(1, 3)).shape == (1, 3)


def test_a_missing_forward_is_refused_with_the_numbers():
    network = make_network()
    with recording(network) as records:
        network(make_images()[0])
    with pytest.raises(ValueError, match="1 forwards were recorded for 2 micro-batches"):
        apply_statistics(records, micro_batches=range(2), total=2, group=None)


def test_a_layer_that_did_not_normalise_is_named():
    network = make_network()
    network[5].eval()
    with recording(network), pytest.raises(ValueError, match="layer 5 normalised nothing"):
        network(make_images()[0])


def test_recordings_of_one_module_do_not_nest_and_close_after_an_error():
    network = make_network()
    with recording(network), pytest.raises(ValueError, match="open already"), recording(network):
        pass
    with pytest.raises(RuntimeError, match="boom"), recording(network):
        raise RuntimeError("boom")
    with recording(network) as records:
        network(make_images()[0])
    assert records.stack(1).shape == (1, 26)


def test_a_network_without_batch_normalisation_needs_nothing():
    network = nn.Linear(2, 2)
    with recording(network) as records:
        network(torch.zeros(1, 2))
    apply_statistics(records, micro_batches=range(1), total=1, group=None)
