"""Every launch as a card would get it, compiled instead of run: sizes of 1 are special there."""

import subprocess
import sys

COMPILED_LAUNCHES = """
from triton import compile as compile_kernel
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import CUDABackend
from triton.compiler import ASTSource
from triton.runtime import jit

TARGET = GPUTarget("cuda", 90, 32)
BACKEND = CUDABackend(TARGET)

def run(kernel, *args, grid, warmup, **options):
    binder = jit.create_function_from_signature(kernel.signature, kernel.params, BACKEND)
    bound, specialization, known = binder(*args, debug=False, **options)
    chosen, signature, constants, attributes = kernel._pack_args(
        BACKEND, options, bound, specialization, known
    )
    source = ASTSource(kernel, signature, constants, attributes)
    compile_kernel(source, target=TARGET, options=vars(chosen))

jit.JITFunction.run = run

import torch
from sharded_fc.kernels import cuda
from sharded_fc.optimizer import SGD, AdamW, RowWise
from sharded_fc.storage import RowSlice
from tests.sharded_fc.kernels.cases import Case, draw
from tests.sharded_fc.kernels.test_elementwise import gradients, sums
from tests.sharded_fc.kernels import test_fused

for case in (
    Case(rows=1, batch=1, dim=1),
    Case(rows=1, batch=1, dim=1, hard=True, ranges=True, conflicts=True, keep_maximum=True),
    Case(rows=70, batch=66, dim=64, loss="sigmoid", dtype=torch.float16),
):
    chunk = draw(case)
    sums(case, chunk), gradients(case, chunk, torch.float16)
    test_fused.sums(case, chunk), test_fused.gradients(case, chunk)

def update(optimizer, dim, dtype, first):
    state = {
        name: torch.zeros(1, width, dtype=torch.float32 if width == 1 else dtype)
        for name, width in optimizer.state_widths(dim).items()
    }
    cuda.update(
        optimizer, RowSlice(torch.zeros(1, dim, dtype=dtype), state, first),
        torch.zeros(1, dim), torch.zeros(1),
        learning_rate=1.0, step=torch.tensor(1), seed=1, skip=torch.tensor(False),
    )

for optimizer in (SGD(momentum=0.9, weight_decay=1.0), SGD(momentum=0.0, weight_decay=0.0),
                  AdamW(), RowWise()):
    for dim, dtype, first in ((1, torch.float32, 1), (12, torch.bfloat16, 1 << 40)):
        update(optimizer, dim, dtype, first)
cuda.unit_rows(torch.zeros(1, 1), inverse_norm=torch.zeros(1), out=torch.zeros(1, 1).half())
"""


def test_launches_of_every_kernel_compile_at_sizes_of_one_and_more():
    done = subprocess.run(
        [sys.executable, "-c", COMPILED_LAUNCHES], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
