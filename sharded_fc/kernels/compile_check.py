"""Compiles every kernel for every architecture and tile, without a GPU, and reads what it needs.

    python -m sharded_fc.kernels.compile_check

Fails where a kernel spills registers to memory or asks for more shared memory than a block may
have: either would show on a card only as slowness, or as an error at its first step.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from multiprocessing import get_context

from triton import compile as compile_kernel
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime import JITFunction

from sharded_fc.kernels import elementwise, fold, fused, operands, update
from sharded_fc.kernels.configurations import ELEMENTWISE, FLOAT32_TILES, HALF_TILES, Tile
from sharded_fc.kernels.epilogue import RuleArguments

SHARED_MEMORY_BYTES = {80: 163 * 1024, 90: 227 * 1024}  # of one block
PROCESSES = 2

MODULES = {
    "elementwise": elementwise,
    "fold": fold,
    "fused": fused,
    "operands": operands,
    "update": update,
}

Types = Mapping[str, str | RuleArguments]
Constants = Mapping[str, object]

_NONE = "constexpr"  # the type of an argument that is None
_TYPES: Types = {
    **dict.fromkeys(("batch", "blocks", "dim", "first_class", "num_rows"), "i32"),
    **dict.fromkeys(("centre_key", "first_row", "mean_key", "momentum_key", "square_key"), "i64"),
    **dict.fromkeys(("along", "gradient", "inverse_norm", "offset", "partial", "target"), "*fp32"),
    **dict.fromkeys(("inverse_spread", "square", "step_size"), "*fp32"),
    **dict.fromkeys(("decay", "eps", "factor", "inverse_dim", "learning_rate", "mu"), "fp32"),
    **dict.fromkeys(("kept_share", "mean_share", "new_share", "square_kept"), "fp32"),
    **dict.fromkeys(("square_share", "weight_decay"), "fp32"),
    "measures": "*fp64",
    "skip": "*i1",
    "step": "*i64",
}
# What lies at multiples of 16 bytes, or is a multiple of 16, at the sizes people train at.
_ALIGNED = ("batch", "blocks", "dim", "num_rows")


def _rules(*, hard: bool = False, sigmoid: bool = False) -> RuleArguments:
    """The types of a plain softmax's rules, or with everything that a loss may have."""
    types = {"scale": "fp32", "label": "*i64", "negative_weight": "fp32"}
    if hard:
        types |= {"class_range": "*i64", "threshold": "*fp32", "conflict_logit": "fp32"}
        types |= dict.fromkeys(("constant", "linear", "square"), "*fp64")
    if sigmoid:
        types["sigmoid_bias"] = "*fp64"
    return RuleArguments._make(types.get(name, _NONE) for name in RuleArguments._fields)


RULES = {"softmax": _rules(), "all rules": _rules(hard=True), "sigmoid": _rules(sigmoid=True)}

UPDATES = (
    ("sgd", "fp32", 512),
    ("sgd", "bf16", 512),
    ("sgd", "fp16", 512),
    ("adamw", "fp32", 512),
    ("adamw", "bf16", 512),
    ("row_wise", "fp32", 512),
    ("row_wise", "bf16", 511),
    ("row_wise", "fp16", 512),
)


@dataclass(frozen=True, kw_only=True)
class Build:
    """One kernel as it is compiled; `kernel` names a module and what it calls the kernel.

    The module is one of `MODULES` or any other by its full name; `types` are to name its arguments'
    types as far as they are not known here.
    """

    kernel: tuple[str, str]
    what: str
    architecture: int
    types: Types
    constants: Constants

    @property
    def source(self) -> ASTSource:
        """Triton's view of it."""
        kernel = getattr(
            MODULES.get(self.kernel[0]) or import_module(self.kernel[0]), self.kernel[1]
        )
        assert isinstance(kernel, JITFunction)
        signature, constants, attributes = {}, {}, {}
        for index, name in enumerate(kernel.arg_names):
            if name in self.constants:
                signature[name], constants[index,] = "constexpr", self.constants[name]
                continue
            signature[name] = types = self.types.get(name) or _TYPES[name]
            if isinstance(types, str):
                places = {(index,): types}
            else:
                places = {(index, inner): type_ for inner, type_ in enumerate(types)}
            for place, type_ in places.items():
                if type_ == _NONE:
                    constants[place] = None
                elif str(type_).startswith("*") or name in _ALIGNED:
                    attributes[place] = [["tt.divisibility", 16]]
        return ASTSource(kernel, signature, constants, attributes)

    @property
    def options(self) -> dict[str, object]:
        """What the compiler is told beside the source."""
        names = ("num_warps", "num_stages", "enable_fp_fusion")
        return {name: self.constants[name] for name in names if name in self.constants}


@dataclass(frozen=True)
class Built:
    """What a compiled kernel needs: registers a thread, bytes of each thread that spilled."""

    build: Build
    registers: int
    spilled: int
    shared: int

    @property
    def complaint(self) -> str:
        """What is wrong with it, or nothing."""
        if self.spilled:
            return f"spills {self.spilled} bytes a thread"
        limit = SHARED_MEMORY_BYTES[self.build.architecture]
        return f"{self.shared} of {limit} bytes of shared memory" if self.shared > limit else ""

    def __str__(self) -> str:
        module, kernel = self.build.kernel
        name = f"{module.rpartition('.')[2]}.{kernel}"
        numbers = f"{self.registers:>5} {self.spilled:>7} {self.shared:>8}"
        return f"sm_{self.build.architecture} {name:<28} {self.build.what:<44} {numbers}"


def build(one: Build) -> Built:
    """Compile, and read the binary's own account of what it needs."""
    compiled = compile_kernel(
        one.source, target=GPUTarget("cuda", one.architecture, 32), options=one.options
    )
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        command = [knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file.name]
        said = subprocess.check_output(command, text=True)
    found = {name: int(number) for name, number in re.findall(r"(REG|STACK|LOCAL):(\d+)", said)}
    shared = compiled.metadata.shared
    return Built(one, found["REG"], found["STACK"] + found["LOCAL"], shared)


def builds(architecture: int) -> Iterator[Build]:
    """What runs on a card of one architecture: all tiles with the rules that need most."""
    halves, full = HALF_TILES[architecture], FLOAT32_TILES[architecture]
    every = [("fp16", tile) for tile in halves] + [("fp32", tile) for tile in full]
    widest = ("fp16", halves[-1])
    operands_of = {
        "all rules": [*every, ("bf16", halves[-1])],
        "softmax": [widest],
        "sigmoid": [widest],
    }
    for rules_name, fused_tiles in operands_of.items():
        chosen = [("elementwise", "fp32", ELEMENTWISE)]
        chosen += [("fused", dtype, tile) for dtype, tile in fused_tiles]
        for module, dtype, tile in chosen:
            types: Types = {
                "rules": RULES[rules_name],
                "product": "*fp32",
                "device_factor": "*fp32" if rules_name == "all rules" else _NONE,
                **dict.fromkeys(("rows", "embedding", "out"), f"*{dtype}"),
            }
            shape: Constants = {**tile.arguments, "even": True}
            for kernel in ("sum_kernel", "gradient_kernel"):
                yield Build(
                    kernel=(module, kernel),
                    what=f"{rules_name}, {dtype}, {_size(tile)}",
                    architecture=architecture,
                    types=types,
                    constants={**shape, "keep_maximum": rules_name == "all rules"},
                )
    yield from _others(architecture)


def _size(tile: Tile) -> str:
    return f"{tile.rows} x {tile.samples} by {tile.warps} warps"


def _others(architecture: int) -> Iterator[Build]:
    """What does not depend on tiles of products."""
    flags = {"conflicts": True, "sigmoid": False, "keep_maximum": True}
    yield Build(
        kernel=("fold", "fold_kernel"),
        what="maximum kept, conflicts counted",
        architecture=architecture,
        types={},
        constants={**flags, "BLOCKS": fold.FOLDED_BLOCKS, "SAMPLES": fold.FOLDED_SAMPLES},
    )
    yield Build(
        kernel=("operands", "unit_kernel"),
        what="512 columns, fp32 to fp16",
        architecture=architecture,
        types={"centre": "*fp32", "out": "*fp16"},
        constants=operands.shape(512),
    )
    for kernel, dtype, width in UPDATES:
        state = "*fp32" if kernel == "row_wise" else f"*{dtype}"
        yield Build(
            kernel=("update", f"{kernel}_kernel"),
            what=f"{width} columns, {dtype}",
            architecture=architecture,
            types={"centre": f"*{dtype}", **dict.fromkeys(("mean", "momentum", "square"), state)},
            constants={
                **update.shape(width, whole=kernel == "row_wise"),
                **{"dim": width, "decays": True, "nesterov": True, "moves": True},
            },
        )


def main(builds: Callable[[int], Iterable[Build]] = builds) -> None:
    """Compile on a few processes; print a line each; exit 1 with the complaints."""
    every = [one for architecture in SHARED_MEMORY_BYTES for one in builds(architecture)]
    os.environ.pop("TRITON_INTERPRET", None)
    with ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn")) as pool:
        results = list(pool.map(build, every))
    titles = f"{'registers':>5} {'spilled':>7} {'shared':>8}"
    sys.stdout.write("\n".join([f"{'':<80}{titles}", *map(str, results), ""]))
    complaints = [f"{result}: {result.complaint}" for result in results if result.complaint]
    sys.exit("\n".join(complaints) if complaints else None)


if __name__ == "__main__":
    main()
