"""The real controller with a stand-in for the trainer: ranks that count, all-reduce and obey.

Run as a job's command in place of `python -m cluster.controller`. What a test wants of the ranks
is in files of the run folder: `fail` makes rank 1 raise at each start.
"""

import json
import os
import sys
import time
from pathlib import Path

from cluster import controller


def train(config, *, topology, folder, attempt):
    import torch
    import torch.distributed as dist

    (folder / f"rank-{topology.rank}.pid").write_text(str(os.getpid()))
    history = folder / "metrics" / "history.jsonl"
    if topology.rank == 1 and (folder / "fail").exists():
        raise ZeroDivisionError("rank 1 divides by zero")
    done = torch.tensor([len(history.read_text().splitlines()) if history.exists() else 0])
    dist.broadcast(done, 0)
    for step in range(int(done) + 1, config.steps + 1):
        told = torch.tensor([topology.rank, int((folder / "stop").exists())])
        dist.all_reduce(told)
        assert told[0] == sum(range(topology.world_size))
        if told[1] > 0:
            return "stopped"
        if topology.rank == 0:
            line = {"step": step, "attempt": attempt, "time": time.time()}
            with history.open("a") as file:
                file.write(json.dumps(line) + "\n")
        time.sleep(0.05)
    return "finished"


if __name__ == "__main__":
    sys.exit(controller.main(sys.argv[1:], train=train))


def entrypoint(folder: Path, version: str, *, is_local: bool) -> str:
    """The command that runs this file on the local Ray."""
    assert is_local
    return f"{sys.executable} -P {__file__} {folder} --version {version}"
