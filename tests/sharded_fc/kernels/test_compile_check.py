"""The check that compiles kernels without a GPU: one of its builds, and what it complains of."""

import subprocess
import sys

COMPILE_ONE = """
from sharded_fc.kernels.compile_check import build, builds
one = next(one for one in builds(90) if one.kernel[1] == "fold_kernel")
built = build(one)
print(built.registers, built.spilled, repr(built.complaint))
"""


def test_a_kernel_compiles_without_a_gpu_and_tells_what_it_needs():
    # A process of its own: shape checks must not be in the way of Triton's.
    said = subprocess.check_output([sys.executable, "-c", COMPILE_ONE], text=True)
    registers, spilled, complaint = said.split()
    assert 0 < int(registers) <= 255
    assert (spilled, complaint) == ("0", "''")


def test_spills_and_too_much_shared_memory_are_complained_of():
    from sharded_fc.kernels.compile_check import Built, builds

    for architecture, limit in ((80, 163 * 1024), (90, 227 * 1024)):
        one = next(builds(architecture))
        assert Built(one, 255, 0, limit).complaint == ""
        assert "spills 8 bytes" in Built(one, 255, 8, limit).complaint
        assert "shared memory" in Built(one, 255, 0, limit + 1).complaint


def test_every_tile_of_both_architectures_is_compiled():
    from sharded_fc.kernels.compile_check import builds
    from sharded_fc.kernels.configurations import FLOAT32_TILES, HALF_TILES

    for architecture in (80, 90):
        compiled = [one.constants for one in builds(architecture) if one.kernel[0] == "fused"]
        for tile in (*HALF_TILES[architecture], *FLOAT32_TILES[architecture]):
            assert any(tile.arguments.items() <= constants.items() for constants in compiled)
