"""Accelerators that are not here: their data sheets, turned into constants by a roofline.

None of these numbers was measured by us. Sheets promise more than programs get: of an H100's
989 TFLOP/s and 3.35 TB/s, products reached 790 and copies 3.0 (as reported to this project), so
the same shares of the other sheets' numbers are taken.
"""

from typing import NamedTuple

from trainer.errors import RunError
from trainer.planning.constants import Constants, HeadCost, Machine, ProductRate

PRODUCT_SHARE = 790 / 989
MEMORY_SHARE = 3.0 / 3.35
BACKBONE_SHARE = 0.4
"""Of the sheet's rate; convolutions of face networks are small. An assumption."""
LOGIT_BYTES = 18.0
"""Read and written for a logit, both passes, with elementwise kernels. Reckoned, not measured."""
LAUNCHES_A_CHUNK, LAUNCH_S = 20, 5e-6
"""Kernels of a chunk in both visits, and what starting one costs the host. Reckoned."""
HOP_S = 3e-6
"""Of a ring's collective, for each other rank. An assumption."""
DISK = 2e9
"""Bytes a second of a device's share of a local flash disk. An assumption."""
PROCESS_BYTES = 3 << 30
"""CUDA's context, cuDNN's and NCCL's buffers, fragments. An assumption."""


class Sheet(NamedTuple):
    """What a data sheet says, in 10^12 operations and 10^9 bytes, a second where it is a rate.

    `half` are dense operations in float16 or bfloat16, `single` those of plain float32. `near` is
    the link to the other devices of a machine, `far` a device's share of the network between
    machines as such machines are usually built, both one way; `host` its link to the host's memory,
    of which it has `host_size`.
    """

    name: str
    title: str
    half: float
    single: float
    bandwidth: float
    size: float
    near: float
    far: float
    host: float
    host_size: float
    machine_ranks: int


SHEETS = (
    Sheet("h200", "H200 SXM", 989.0, 67.0, 4800.0, 141.0, 450.0, 50.0, 55.0, 256.0, 8),
    Sheet("h100", "H100 SXM 80 GB", 989.0, 67.0, 3350.0, 80.0, 450.0, 50.0, 55.0, 256.0, 8),
    Sheet("a100", "A100 SXM 80 GB", 312.0, 19.5, 2039.0, 80.0, 300.0, 25.0, 25.0, 128.0, 8),
    Sheet("a100-40gb", "A100 SXM 40 GB", 312.0, 19.5, 1555.0, 40.0, 300.0, 25.0, 25.0, 128.0, 8),
    Sheet("v100", "V100 SXM2 32 GB", 125.0, 15.7, 900.0, 32.0, 150.0, 12.5, 12.0, 64.0, 8),
    Sheet("l40s", "L40S", 362.0, 91.6, 864.0, 48.0, 25.0, 12.5, 25.0, 64.0, 8),
    Sheet("rtx4090", "GeForce RTX 4090", 165.0, 82.6, 1008.0, 24.0, 20.0, 1.25, 25.0, 32.0, 4),
)


def device(name: str) -> Machine:
    """The machine of a device's name; the error lists all of them."""
    for sheet in SHEETS:
        if sheet.name == name:
            return roofline(sheet)
    known = ", ".join(sheet.name for sheet in SHEETS)
    raise RunError(f"no device is called {name!r}; choose one of {known}, or calibrate this one")


def roofline(sheet: Sheet) -> Machine:
    """What such a device can do at most, by the shares above."""
    bandwidth = sheet.bandwidth * 1e9 * MEMORY_SHARE
    rates = {
        "float16": sheet.half,
        "bfloat16": sheet.half,
        "float32": sheet.single,
    }
    constants = Constants(
        ranks=sheet.machine_ranks,
        threads=1,
        memory_bytes=round(sheet.size * 1e9),
        host_bytes=round(sheet.host_size * 1e9),
        process_bytes=PROCESS_BYTES,
        products=tuple(
            ProductRate(
                operands=operands,
                kind=kind,
                dim=512,
                batch=1024,
                operations_per_s=rate * 1e12 * PRODUCT_SHARE,
            )
            for operands, rate in rates.items()
            for kind in ("products", "embedding gradient", "row gradients")
        ),
        heads=tuple(
            HeadCost(
                operands=operands,
                rows=rows,
                state=state,
                optimizer="sgd",
                element_s=moved_bytes(rows, state, "sgd") / bandwidth,
                logit_s=LOGIT_BYTES / bandwidth,
                gathered_element_s=moved_bytes(rows, state, "sgd") / bandwidth,
                caught_element_s=moved_bytes(rows, state, "sgd") / bandwidth,
            )
            for operands in rates
            for rows in ("float32", "bfloat16", "float16")
            for state in ("float32", "bfloat16")
        ),
        chunk_s=LAUNCHES_A_CHUNK * LAUNCH_S,
        step_s=200 * LAUNCH_S,
        sample_s=0.0,
        drawn_s=8 * 12 / bandwidth,  # rounds of the permutation: a number and a table's entry
        compared_s=32 / bandwidth,  # a code's bytes
        rotated_s=4 / bandwidth,
        pool_logit_s=4 * LOGIT_BYTES / bandwidth,
        host_bytes_per_s=sheet.host * 1e9,
        mapped_bytes_per_s=DISK,
        disk_bytes_per_s=DISK,
        overlapped=True,
        hop_s=HOP_S,
        near_bytes_per_s=sheet.near * 1e9 * PRODUCT_SHARE,
        far_bytes_per_s=sheet.far * 1e9 * PRODUCT_SHARE,
        machine_ranks=sheet.machine_ranks,
        operations_per_s=sheet.half * 1e12 * BACKBONE_SHARE,
        traffic_bytes_per_s=bandwidth,
    )
    return Machine(
        name=sheet.name,
        source=f"NVIDIA's data sheet of the {sheet.title}, in a machine as commonly built; "
        "not measured by us",
        measured=False,
        on_cpu=False,
        setups=(constants,),
    )


ITEM_BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
STATES = {"sgd": 1, "nesterov": 1, "adamw": 2, "rowwise": 0}
"""Numbers that an optimizer keeps for a number of a row."""


def moved_bytes(rows: str, state: str, optimizer: str) -> float:
    """Bytes a step reads and writes for a number of a row: the row thrice, its states twice."""
    return 3.0 * ITEM_BYTES[rows] + 2.0 * STATES[optimizer] * ITEM_BYTES[state]
