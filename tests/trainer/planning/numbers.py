"""Constants that make arithmetic easy to follow, for tests of the planner."""

from typing import Any

from trainer.planning.constants import Constants, HeadCost, Machine, ProductRate

KINDS = ("products", "embedding gradient", "row gradients")


def constants(**changes: Any) -> Constants:
    """One billion operations a second, a nanosecond for everything, a gigabyte a second."""
    usual: dict[str, Any] = {
        "ranks": 1,
        "threads": 1,
        "memory_bytes": 8 << 30,
        "host_bytes": 16 << 30,
        "process_bytes": 1 << 20,
        "products": tuple(
            ProductRate(operands="float32", kind=kind, dim=128, batch=64, operations_per_s=1e9)
            for kind in KINDS
        ),
        "heads": (cost(),),
        "chunk_s": 0.0,
        "step_s": 0.0,
        "sample_s": 0.0,
        "drawn_s": 1e-9,
        "compared_s": 1e-9,
        "rotated_s": 1e-9,
        "pool_logit_s": 1e-9,
        "host_bytes_per_s": 1e9,
        "mapped_bytes_per_s": 5e8,
        "disk_bytes_per_s": 1e8,
        "overlapped": False,
        "hop_s": 1e-6,
        "near_bytes_per_s": 1e9,
        "far_bytes_per_s": 1e8,
        "machine_ranks": 2,
        "operations_per_s": 1e12,
        "traffic_bytes_per_s": 1e12,
    }
    return Constants(**usual | changes)


def cost(**changes: Any) -> HeadCost:
    """A nanosecond for each number of a row and each logit, in float32 with SGD."""
    usual: dict[str, Any] = {
        "operands": "float32",
        "rows": "float32",
        "state": "float32",
        "optimizer": "sgd",
        "element_s": 1e-9,
        "logit_s": 1e-9,
        "gathered_element_s": 1e-9,
        "caught_element_s": 1e-9,
    }
    return HeadCost(**usual | changes)


def machine(*setups: Constants, on_cpu: bool = True) -> Machine:
    """A machine of these setups, measured."""
    return Machine(
        name="abacus",
        source="measured by hand",
        measured=True,
        on_cpu=on_cpu,
        setups=setups or (constants(),),
    )
