"""One run, as data: a YAML file and one-off changes to it, as one frozen tree.

Unknown or out-of-range fields are refused with their full path. Imports no torch, so `--help`
answers at once; turning the tree into objects is `trainer/build.py`'s work.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, TypeAdapter, ValidationError

from data_pipeline.addresses import redacted
from trainer.config_backbone import BackboneConfig
from trainer.config_data import DataConfig
from trainer.config_fields import NonNegative, Positive, Rate, Share, ShareBelowOne, config
from trainer.config_head import HeadConfig
from trainer.errors import RunFileError

RUN_NAME = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"
"""A run's name is a folder, a label and a job id: an RFC 1123 label is safe as all three."""


@config
class OptimizerConfig:
    """The backbone's optimizer."""

    name: Literal["sgd", "adamw"] = "sgd"
    learning_rate: Rate = 0.1
    """Peak of the schedule."""
    momentum: ShareBelowOne = 0.9
    """Of SGD; AdamW has its usual 0.9 and 0.999."""
    weight_decay: NonNegative = 5e-4
    clip_norm: Rate | None = 5.0
    """Largest norm of the backbone's gradient; null clips nothing."""


@config
class ScheduleConfig:
    """How the learning rate goes from its peak to its end."""

    name: Literal["polynomial", "cosine", "constant"] = "polynomial"
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    power: Rate = 2.0
    """Of the polynomial."""
    final_ratio: Share = 0.0
    """Last learning rate over the peak."""


@config
class BatchConfig:
    """A global batch: fixed by the run file, whatever the number of ranks."""

    micro_batches: Positive = 4
    """Micro-batches M of a global batch; the most ranks a run can have."""
    micro_batch_size: Annotated[int, Field(ge=2)] = 64
    """Samples in one; BatchNorm's batch."""

    @property
    def size(self) -> int:
        """Samples of a step."""
        return self.micro_batches * self.micro_batch_size


@config
class EngineConfig:
    """How DeepSpeed runs the backbone."""

    zero_stage: Literal[0, 1, 2, 3] = 0
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 is autocast, with BatchNorm in float32."""
    recompute: bool = False
    """Hold one micro-batch's activations at a time; costs a second forward."""
    compile: bool = False
    """Have torch compile the network at its first step, which takes minutes; ZeRO 0 to 2."""
    threads: Positive = 1
    """Torch's CPU threads of a rank; part of what makes a resume bit-equal."""

    def __post_init__(self) -> None:
        if self.compile and self.zero_stage == 3:
            raise ValueError(
                "compile needs whole weights, and zero_stage 3 cuts them over ranks; use at most 2"
            )


@config
class VerifyConfig:
    """A verification set, scored during and after training."""

    name: Annotated[str, Field(pattern=RUN_NAME)]
    path: str
    """Folder that `facescale data pairs` made; relative to the run file."""


@config
class EveryConfig:
    """How often, in steps; 0 is only at the end."""

    log: Positive = 10
    evaluate: Annotated[int, Field(ge=0)] = 0
    save: Positive = 500


@config
class CheckpointConfig:
    """Which checkpoints are kept."""

    keep: Positive = 3


@config
class MetricsConfig:
    """Where the per-node exporter listens."""

    bind: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 9401
    """A busy port means another free one; 0 means any."""


@config
class ClusterConfig:
    """What the job asks of the cluster."""

    workers: Positive = 1
    """Ranks."""
    address: str | None = None
    """Ray's job address; unset is a local Ray that `facescale` starts."""
    cpus_per_worker: Rate = 1.0
    gpus_per_worker: Annotated[int, Field(ge=0, le=1)] = 0
    attempts_without_progress: Positive = 3
    """Failed attempts without a new high-water step that end the job."""


@config
class RunConfig:
    """One training run."""

    name: Annotated[str, Field(pattern=RUN_NAME)]
    """Names the run folder; lower-case letters, digits and hyphens."""
    data: DataConfig
    steps: Positive
    """Global batches to train on."""
    runs: str = "runs"
    """Folder of run folders; relative to the run file."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    backbone: BackboneConfig = BackboneConfig()
    head: HeadConfig = HeadConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    batch: BatchConfig = BatchConfig()
    engine: EngineConfig = EngineConfig()
    verify: tuple[VerifyConfig, ...] = ()
    every: EveryConfig = EveryConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    metrics: MetricsConfig = MetricsConfig()
    cluster: ClusterConfig = ClusterConfig()

    def __post_init__(self) -> None:
        if self.cluster.workers > self.batch.micro_batches:
            raise ValueError(
                f"cluster.workers is {self.cluster.workers} but there are only"
                f" batch.micro_batches = {self.batch.micro_batches} to share; lower the first or"
                " raise the second"
            )
        if self.head.pool is not None and self.data.order.name != "pairs":
            raise ValueError(
                f"head.pool compares two images of a person, and data.order {self.data.order.name}"
                " brings none together; use data.order: {name: pairs}"
            )
        if self.head.pool is not None and self.data.mix and self.data.mix.labels == "separate":
            raise ValueError(
                "head.pool compares people of all datasets; use data.mix.labels disjoint or shared"
            )
        if self.schedule.warmup_steps >= self.steps:
            raise ValueError(
                f"schedule.warmup_steps = {self.schedule.warmup_steps} leaves nothing of"
                f" steps = {self.steps}"
            )

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(self.runs) / self.name


SCHEMA = TypeAdapter(RunConfig)


def from_tree(tree: Any, *, source: str) -> RunConfig:
    """Check a tree of plain values; a `RunFileError` says everything that is wrong, a line each."""
    try:
        return SCHEMA.validate_python(tree)
    except ValidationError as error:
        raise RunFileError("\n".join(_line(source, dict(e)) for e in error.errors())) from None


def _line(source: str, error: dict[str, Any]) -> str:
    where = ".".join(str(part) for part in error["loc"])
    got = "" if isinstance(error["input"], dict) else f" (got {error['input']!r})"
    return f"{source}: {where + ': ' if where else ''}{error['msg']}{got}"


def read_tree(path: Path) -> dict[str, Any]:
    """The YAML mapping of a run file."""
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunFileError(f"{path}: cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RunFileError(f"{path}: is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise RunFileError(f"{path}: a run file is a mapping of fields, see the README for one")
    return tree


def absolute(run: RunConfig, base: Path) -> RunConfig:
    """The same run with its paths made absolute against the folder of the run file."""
    tree = SCHEMA.dump_python(run, by_alias=True)
    tree["runs"] = str((base / run.runs).resolve())
    datasets = [tree["data"], *((tree["data"]["mix"] or {}).get("others", ()))]
    for entry in [*datasets, *tree["verify"]]:
        entry["path"] = _folder(entry["path"], base)
    if tree["backbone"]["weights"] is not None:
        tree["backbone"]["weights"] = str((base / tree["backbone"]["weights"]).resolve())
    if tree["head"]["rows_folder"] is not None:
        tree["head"]["rows_folder"] = str((base / tree["head"]["rows_folder"]).resolve())
    for chosen in filter(None, (dataset["subset"] for dataset in datasets)):
        for names in ("only", "without"):
            if chosen[names] is not None:
                chosen[names] = str((base / chosen[names]).resolve())
    return SCHEMA.validate_python(tree)


def _folder(path: str, base: Path) -> str:
    """A dataset's folder, absolute; an address may hold a secret, and run files are kept."""
    if "://" in path:
        raise RunFileError(
            f"{redacted(path)} is an address and no folder; make a dataset of what lies there with "
            "`facescale data index ADDRESS FOLDER`, and name that folder"
        )
    return str((base / path).resolve())


def load(path: Path, changes: Sequence[str] = ()) -> RunConfig:
    """Read a run file with one-off changes such as `head.scale=32`; paths become absolute.

    Raises:
        RunFileError: what is wrong, a line for each field, with its full path.
    """
    tree = read_tree(path)
    for change in changes:
        apply_change(tree, change)
    return absolute(from_tree(tree, source=str(path)), path.resolve().parent)


def apply_change(tree: dict[str, Any], change: str) -> None:
    """Set one leaf of the tree, from `dotted.path=value` with the value in YAML."""
    dotted, equals, text = change.partition("=")
    *parents, leaf = dotted.split(".")
    if not equals or not all(parents) or not leaf:
        raise RunFileError(f"{change!r} is not a change; write one as head.scale=32")
    for parent in parents:
        below = tree.setdefault(parent, {})
        if not isinstance(below, dict):
            raise RunFileError(f"{change!r}: {parent} is a value, there is nothing below it")
        tree = below
    try:
        tree[leaf] = yaml.safe_load(text)
    except yaml.YAMLError:
        raise RunFileError(f"{change!r}: the value is not YAML") from None


def plain(run: RunConfig) -> dict[str, Any]:
    """The whole tree as plain values, defaults included: what a checkpoint keeps."""
    return SCHEMA.dump_python(run, mode="json", by_alias=True)


def dump(run: RunConfig) -> str:
    """The whole tree as YAML: what a run folder keeps; reads back to an equal tree."""
    return yaml.safe_dump(plain(run), sort_keys=False)
