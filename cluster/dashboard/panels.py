"""The panels of the dashboard: which queries of the run's series stand where.

A series that the table does not have cannot be drawn, and a panel's help and unit are the table's.
"""

from dataclasses import dataclass
from typing import Any, Literal

from trainer.series import BY_NAME, PHASES

RATE = "[$__rate_interval]"

_GRAFANA_UNIT = {"": "none", "seconds": "s", "bytes": "bytes", "ratio": "percentunit"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Panel:
    """A place on the dashboard with its queries: (expression, legend)."""

    title: str
    queries: tuple[tuple[str, str], ...]
    help: str
    unit: str
    kind: Literal["timeseries", "stat"] = "timeseries"
    width: int = 8
    stacked: bool = False
    low: float | None = None
    high: float | None = None
    warn_above: float | None = None
    warn_below: float | None = None


def query(name: str, labels: str = "") -> str:
    """The chosen run's series of this name, and of the chosen ranks where it has a rank."""
    series = BY_NAME[name]
    chosen = ['run="$run"'] + (['rank=~"$rank"'] if series.per_rank else [])
    return f"{series.full_name}{{{','.join([*chosen, *([labels] if labels else [])])}}}"


def _panel(title: str, name: str, *, legend: str = "{{run}}", **more: Any) -> Panel:
    """A panel of one series as it is."""
    series = BY_NAME[name]
    unit = _GRAFANA_UNIT.get(series.unit, "none")
    return Panel(
        **{"title": title, "queries": ((query(name), legend),), "help": series.help, "unit": unit}
        | more
    )


def _increase(name: str) -> str:
    return f"increase({query(name)}{RATE})"


def _phase(phase: str) -> str:
    return query("step_seconds_total", f'phase="{phase}"')


_SECONDS = query("step_seconds_total")
_ALL_SECONDS = f"sum(rate({_SECONDS}{RATE}))"

ROWS: tuple[tuple[str, tuple[Panel, ...]], ...] = (
    (
        "Now",
        (
            Panel(
                title="Progress",
                queries=((f"max({query('step')}) / max({query('planned_steps')})", ""),),
                help="Steps done over steps planned.",
                unit="percentunit",
                kind="stat",
                width=4,
                low=0.0,
                high=1.0,
            ),
            _panel("Loss", "loss", kind="stat", width=4),
            _panel("Images a second", "images_per_second", kind="stat", width=4),
            Panel(
                title="Ranks up",
                queries=((f"sum({query('rank_up')}) / max({query('world_size')})", ""),),
                help=BY_NAME["rank_up"].help,
                unit="percentunit",
                kind="stat",
                width=4,
                warn_below=1.0,
            ),
            _panel(
                "Verification accuracy",
                "verification_accuracy_ratio",
                legend="{{set}}",
                kind="stat",
                width=4,
            ),
            Panel(
                title="Time to the end",
                queries=(
                    (
                        f"(max({query('planned_steps')}) - max({query('step')}))"
                        f" / max(deriv({query('step')}{RATE}))",
                        "",
                    ),
                ),
                help="Steps still to do at the present speed.",
                unit="s",
                kind="stat",
                width=4,
            ),
        ),
    ),
    (
        "Training",
        (
            _panel("Loss", "loss"),
            _panel("Learning rate", "learning_rate", low=0.0),
            _panel("Gradient norm of the backbone", "gradient_norm", low=0.0),
            _panel("Passes over the data", "epoch", low=0.0),
            Panel(
                title="Steps skipped",
                queries=((_increase("skipped_steps_total"), "{{cause}}"),),
                help=BY_NAME["skipped_steps_total"].help,
                unit="none",
                low=0.0,
                warn_above=1.0,
            ),
        ),
    ),
    (
        "Head",
        (
            Panel(
                title="Cosine with own and nearest other centre",
                queries=(
                    (query("target_cosine"), "own centre"),
                    (query("target_cosine_p05"), "own centre, 5 % below"),
                    (query("hardest_negative_cosine"), "nearest other"),
                ),
                help="The two must part; a target that falls towards the other is a collapsing "
                "head.",
                unit="none",
            ),
            _panel("Faces nearest to their own centre", "top1", low=0.0, high=1.0),
            _panel("Probability of all other centres", "negative_mass", low=0.0, high=1.0),
            _panel("Negatives above conflict_cosine", "conflict_share", low=0.0),
            _panel("What the margin tells", "margin", legend="{{quantity}}"),
            _panel("Centres never seen", "never_seen_ratio", low=0.0),
            _panel("Length of the centres", "centre_length", legend="{{quantity}}", low=0.0),
            Panel(
                title="Steps that needed the maximum",
                queries=((_increase("maximum_steps_total"), ""),),
                help=BY_NAME["maximum_steps_total"].help,
                unit="none",
                low=0.0,
            ),
        ),
    ),
    (
        "Verification",
        (
            _panel("Accuracy", "verification_accuracy_ratio", legend="{{set}}", width=12, high=1.0),
            _panel(
                "True-accept rate",
                "verification_tar_ratio",
                legend="{{set}} at FAR {{far}}",
                low=0.0,
                high=1.0,
            ),
            Panel(
                title="Since the last evaluation",
                queries=((f"time() - {query('verification_last_timestamp_seconds')}", "{{set}}"),),
                help=BY_NAME["verification_last_timestamp_seconds"].help,
                unit="s",
                low=0.0,
            ),
        ),
    ),
    (
        "Speed",
        (
            Panel(
                title="Images a second",
                queries=(
                    (f"rate({query('samples_total')}{RATE})", "seen"),
                    (query("images_per_second"), "while training"),
                ),
                help="Seen counts the time of evaluations and checkpoints too.",
                unit="none",
                low=0.0,
            ),
            Panel(
                title="Where the time of a step goes",
                queries=tuple(
                    (
                        f"sum(rate({_phase(phase)}{RATE})) / {_ALL_SECONDS}",
                        phase.replace("_", " "),
                    )
                    for phase in PHASES
                ),
                help=BY_NAME["step_seconds_total"].help,
                unit="percentunit",
                stacked=True,
                low=0.0,
                high=1.0,
            ),
            Panel(
                title="Waiting for data, by rank",
                queries=(
                    (
                        f"sum by (rank) (rate({_phase('data_wait')}{RATE}))"
                        f" / sum by (rank) (rate({_SECONDS}{RATE}))",
                        "rank {{rank}}",
                    ),
                ),
                help="Share of its step time that a rank waits for its samples.",
                unit="percentunit",
                low=0.0,
                warn_above=0.2,
            ),
        ),
    ),
    (
        "Ranks",
        (
            _panel("Up", "rank_up", legend="rank {{rank}}", low=0.0, high=1.0),
            Panel(
                title="Since the last step",
                queries=((f"time() - {query('last_step_timestamp_seconds')}", "rank {{rank}}"),),
                help=BY_NAME["last_step_timestamp_seconds"].help,
                unit="s",
                low=0.0,
            ),
            Panel(
                title="Since the start of the attempt",
                queries=((f"time() - {query('start_timestamp_seconds')}", "rank {{rank}}"),),
                help=BY_NAME["start_timestamp_seconds"].help,
                unit="s",
                low=0.0,
            ),
            _panel("Memory", "resident_memory_bytes", legend="rank {{rank}}", low=0.0),
            _panel("Accelerator memory", "device_memory_bytes", legend="rank {{rank}}", low=0.0),
            Panel(
                title="Bad samples",
                queries=(
                    (
                        f"sum by (reason) ({query('bad_samples_total')})",
                        "{{reason}}",
                    ),
                ),
                help=BY_NAME["bad_samples_total"].help,
                unit="none",
                low=0.0,
            ),
        ),
    ),
    (
        "Checkpoints and restarts",
        (
            Panel(
                title="Since the last checkpoint",
                queries=((f"time() - {query('checkpoint_last_success_timestamp_seconds')}", ""),),
                help="What a crash now would cost.",
                unit="s",
                low=0.0,
            ),
            Panel(
                title="Checkpoints",
                queries=(
                    (_increase("checkpoints_total"), "tried"),
                    (_increase("checkpoint_failures_total"), "failed"),
                ),
                help=BY_NAME["checkpoints_total"].help,
                unit="none",
                low=0.0,
            ),
            _panel("Attempt", "attempt", low=0.0),
            _panel("Time a checkpoint takes", "checkpoint_duration_seconds", low=0.0),
            _panel("Size of a checkpoint", "checkpoint_bytes", low=0.0),
            Panel(
                title="Age of what is shown",
                queries=(
                    (f"time() - {query('snapshot_timestamp_seconds')}", "rank {{rank}}"),
                    (query("snapshots_unreadable"), "refused files"),
                ),
                help=BY_NAME["snapshot_timestamp_seconds"].help,
                unit="s",
                low=0.0,
            ),
        ),
    ),
)


def expressions() -> list[str]:
    """Every query of the dashboard, with its variables."""
    return [expression for _, row in ROWS for panel in row for expression, _ in panel.queries]
