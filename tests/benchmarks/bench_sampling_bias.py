"""What sampling does to losses and gradients, on random centres and on clustered ones.

    python -m tests.benchmarks.bench_sampling_bias [--record] [--classes 20000] [--draws 100]

Samples lie at cosine 0.7 from their own class; where centres are clustered, nine others lie at
cosine 0.5 from that one. Each row compares with the full head: the mean loss less the full one and
the spread over draws; the mean embedding gradient's distance from the full one and the spread over
draws, both in lengths of the full one. No times.
"""

from dataclasses import asdict

import torch

from sharded_fc.sampling import Sampling
from tests.benchmarks.heads import parser, show
from tests.benchmarks.record import Cell
from tests.sharded_fc.sampling.bias import Problem
from tests.sharded_fc.sampling.clusters import clustered_centres

CLUSTER = 10
HARD_SHARES = (0.0, 0.1, 0.3)


def main() -> None:
    """Measure, and record if asked."""
    flags = parser(__doc__, classes=20_000, dim=512, batch=32, per_mille=100, draws=100)
    options = flags.parse_args()
    torch.set_num_threads(options.threads)
    rate = options.per_mille / 1000
    clusters = options.classes // CLUSTER
    scenes = {
        "random": clustered_centres(clusters, CLUSTER, dim=options.dim, cosine=0.0),
        "clustered": clustered_centres(clusters, CLUSTER, dim=options.dim, cosine=0.5),
    }
    rows: list[dict[str, Cell]] = []
    for scene, centre in scenes.items():
        problem = Problem.of(centre, batch=options.batch)
        for hard_share in HARD_SHARES:
            for correction in ("none", "logq"):
                sampling = Sampling(rate=rate, correction=correction, hard_share=hard_share)
                found = problem.measure(sampling, draws=options.draws)
                rows.append(
                    {
                        "centres": scene,
                        "correction": correction,
                        "hard share": hard_share,
                        **{name.replace("_", " "): value for name, value in asdict(found).items()},
                    }
                )
    notes = [
        f"classes {options.classes}, width {options.dim}, batch {options.batch}, rate {rate}, "
        f"{options.draws} draws, CosFace 0.4, scale 64"
    ]
    show("sampling_bias", rows, notes, options)


if __name__ == "__main__":
    main()
