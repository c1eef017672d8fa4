"""Every kind of network is one graph for `torch.compile`, and learns the same there."""

import subprocess
import sys

import pytest

COMPILED = """
import torch
from tests.trainer.backbones.shallow import BUILDERS, shallow
from trainer.layers.stochastic import seed_draws

draw = torch.Generator().manual_seed(0)
image = torch.rand(4, 3, 32, 32, generator=draw, dtype=torch.float64) * 2 - 1
weight = torch.randn(4, 16, generator=draw, dtype=torch.float64)
for name in BUILDERS:
    torch._dynamo.reset()
    torch.manual_seed(0)
    network = shallow(name, side=32).double().train()
    made = []
    for run in (network, torch.compile(network, backend="aot_eager", fullgraph=True)):
        seed_draws(0, 0, 0)
        embedding = run(image)
        asked = [each for each in network.parameters()]
        gradients = torch.autograd.grad((embedding * weight).sum(), asked, allow_unused=True)
        made.append([embedding, *(each for each in gradients if each is not None)])
    for one, other in zip(*made, strict=True):
        # Of float64, through all layers: a thousand million times less than a wrong sign.
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9, msg=name)
"""


@pytest.mark.timeout(300)  # 20 s of torch tracing eight networks, more beside other work
def test_a_compiled_network_is_one_graph_with_the_same_embeddings_and_gradients():
    # A process of its own: shape checks must not be in the way of the compiler's.
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", COMPILED],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
