"""`facescale plan`: what a run would take, before it is started, and which head to choose."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import Positional

from cluster.console import errors_in_one_line, show
from cluster.errors import Exit

if TYPE_CHECKING:
    from trainer.planning.constants import Machine


BUSY = 0.5
"""A load, in processes, above which a calibration is worth a warning."""
MOST_MINUTES = 60


@errors_in_one_line
def plan(
    run: Positional[tuple[str, ...]] = (),
    /,
    *,
    identities: str | None = None,
    images: str | None = None,
    gpus: int | None = None,
    epochs: float | None = None,
    device: str | None = None,
    rate: float | None = None,
    pool: float | None = None,
    calibrate: bool = False,
    minutes: float = 1.0,
    constants: Path | None = None,
    json: bool = False,
) -> int:
    """Say what a run takes: memory and seconds of a rank, days, and which head to choose.

    `facescale plan RUN.yaml`, or `facescale plan --identities 100m --gpus 64 --device h100` for
    machines that are not here, or do not exist. Compares the full softmax, a sampled one, such with
    centres in the host's memory or in a file, and a pool of features. Opens no GPU, trains nothing.

    Args:
        run: a run file, then one-off changes such as head.storage=bf16; or changes alone
        identities: people, such as 250000, 250k or 100m; unset is the dataset's
        images: likewise; unset is the dataset's, or 20 a person
        gpus: ranks, one a device; unset is the run file's, or 1
        epochs: passes over the images; unset is the run file's steps, or 20
        device: a data sheet to reckon with: h200, h100, a100, a100-40gb, v100, l40s, rtx4090; unset
            is this machine as calibrated
        rate: share of the people that a sampled head draws in a step; unset is the run file's, or
            0.1
        pool: share of the people that a pool holds; unset is the run file's, or 0.01
        calibrate: measure this machine first, with the run's backbone; takes a minute or two
        minutes: how long to measure: what is fastest counts, so a machine that others use, too,
            needs more
        constants: where this machine's numbers are kept; unset is the user's cache folder
        json: print the result as JSON
    """
    from trainer.errors import RunFileError
    from trainer.planning import constants as kept
    from trainer.planning import devices, request, units
    from trainer.planning.plan import make_plan
    from trainer.planning.recommend import recommend
    from trainer.planning.text import as_json, plan_text

    if rate is not None and not 0 <= rate <= 1:
        raise RunFileError(f"--rate {rate:g}; use a share of the people in [0, 1]")
    if pool is not None and not 0 < pool <= 1:
        raise RunFileError(f"--pool {pool:g}; use a share of the people above 0 and up to 1")
    if calibrate and device is not None:
        raise RunFileError("--calibrate measures this machine; leave out --device")
    if not 0 <= minutes <= MOST_MINUTES:
        raise RunFileError(f"--minutes {minutes:g}; use 0 to {MOST_MINUTES}")
    if gpus is not None and gpus < 1:
        raise RunFileError(f"--gpus {gpus}; use 1 or more")
    path = constants or kept.default_path()
    people = None if identities is None else units.count(identities, what="--identities")
    pictures = None if images is None else units.count(images, what="--images")
    file, changes = request.split(run)
    if calibrate:
        machine = _calibrated(file, changes, gpus=gpus, minutes=minutes, path=path)
        if file is None and people is None:
            show({"machine": machine.name, "constants": str(path)}, as_json=json)
            return Exit.OK
    else:
        machine = kept.load(path) if device is None else devices.device(device)
    wanted = request.make(
        file,
        changes,
        identities=people,
        images=pictures,
        ranks=gpus,
        epochs=epochs,
        rate=rate,
        pool_share=pool,
        on_cpu=machine.on_cpu,
    )
    made = make_plan(wanted, machine)
    advice = recommend(made)
    if json:
        show(as_json(made, advice), as_json=True)
    else:
        sys.stdout.write(plan_text(made, advice) + "\n")
    return Exit.OK


def _calibrated(
    file: Path | None, changes: Sequence[str], *, gpus: int | None, minutes: float, path: Path
) -> "Machine":
    """Measure this machine with a run's backbone, and keep that beside what was measured before."""
    from trainer.planning import constants as kept
    from trainer.planning import request
    from trainer.planning.calibrate import calibrate, load, setups_for

    run = request.run_of(file, changes, ranks=gpus, on_cpu=True)
    before = kept.earlier(path)
    busy = f", but its load is {load():.1f}" if load() > BUSY else ""
    sys.stderr.write(f"measuring this machine; it should have nothing else to do{busy}\n")
    setups = setups_for(run, chosen=file is not None or gpus is not None)
    machine = calibrate(run, setups, minutes=minutes)
    if before is not None:
        machine = kept.merged(machine, before)
    kept.save(machine, path)
    return machine
