"""A network that torch compiles trains as one that it does not, by one graph for each mode.

In processes of their own: the tests' shape checks are no code that the compiler can read.
"""

import subprocess
import sys

import pytest
import torch
from torch import nn

from trainer.config import EngineConfig
from trainer.errors import RunError
from trainer.forwards import compile_forward

SCRIPT = """
import functools, sys, tempfile
import torch
import torch.distributed as dist
from tests.trainer import toy
from trainer.backbones import build
from trainer.engine import Engine
from trainer.layers.batch_norm import apply_statistics, recording

name, backend, stage, recompute = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4] == "True"
torch.compile = functools.partial(torch.compile, backend=backend)
folder = tempfile.TemporaryDirectory()
dist.init_process_group("gloo", init_method=f"file://{folder.name}/ranks", rank=0, world_size=1)

def trained(compiled):
    torch.manual_seed(0)
    engine = Engine(
        build(name, embedding_dim=8, image_size=32), optimizer="sgd", weight_decay=0.0,
        zero_stage=stage, recompute=recompute, topology=toy.topology(), compiled=compiled,
    )
    for step in range(2):
        with recording(engine.module) as records:
            embeddings = []
            for number in range(2):
                torch.manual_seed(10 * step + number)
                embeddings.append(engine.forward(torch.rand(6, 3, 32, 32) * 2 - 1))
        engine.backward(torch.stack([e.square().mean() for e in embeddings]).sum())
        assert engine.step(0.002).applied
        apply_statistics(records, micro_batches=range(2), total=2, group=None)
    state = engine.read_state(keep=True)
    return state.parameters, state.buffers, engine.evaluate(torch.ones(3, 3, 32, 32))

expected = trained(compiled=False)
got = trained(compiled=True)
# Two steps of float32, whose rounding differs: BatchNorm's sums, and fused multiplications.
torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-4)
counted = torch._dynamo.utils.counters
assert counted["stats"]["unique_graphs"] == 2, counted  # in training and in evaluation
assert not counted["graph_break"], counted
dist.destroy_process_group()
"""


@pytest.mark.parametrize(
    ("name", "backend", "stage", "recompute"),
    [
        pytest.param("facenet_small", "inductor", 0, False, marks=pytest.mark.slow),
        ("mobilefacenet", "aot_eager", 2, True),
    ],
)
@pytest.mark.timeout(600)
def test_a_compiled_network_trains_as_it_does_without(name, backend, stage, recompute):
    command = [sys.executable, "-c", SCRIPT, name, backend, str(stage), str(recompute)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def test_without_a_compiler_it_is_refused_in_one_line(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(RunError, match="there is no no-such-compiler; install g") as refused:
        compile_forward(nn.Linear(2, 2))
    assert "\n" not in str(refused.value)


def test_weights_that_are_cut_over_ranks_are_not_compiled():
    with pytest.raises(ValueError, match="zero_stage 3"):
        EngineConfig(compile=True, zero_stage=3)
    assert EngineConfig(compile=True, zero_stage=2).compile
    assert not EngineConfig().compile


def test_a_compiled_forward_keeps_the_hooks_of_the_network_outside():
    network = nn.Linear(2, 2)
    seen = []
    network.register_forward_hook(lambda *_: seen.append(torch.compiler.is_compiling()))
    network.forward = torch.compile(network.forward, backend="eager", dynamic=False)
    network(torch.zeros(1, 2))
    assert seen == [False]
