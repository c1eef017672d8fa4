"""Checkpoints that any number of ranks can continue from, committed by a rename.

    checkpoints/step-000001200/  manifest.json  backbone.safetensors  optimizer.safetensors
                                 head-00000-of-00002.safetensors  head-00001-of-00002.safetensors
                                 [gallery.safetensors]  [history.safetensors]

Every rank writes its own rows into a hidden folder; when all parts are on the disk, rank 0 renames
it. So a folder that has its name is whole unless the disk fails, which `newest` finds by checksums.
Rows outside the device (`head.rows`) stay in their tables, which hold a checkpoint of the step.
No pickles: loading a checkpoint runs no code of it.
"""

import logging
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trainer import manifest
from trainer.engine import Engine
from trainer.engine_state import BackboneState
from trainer.errors import DiskFullError, RunError
from trainer.gallery import Gallery
from trainer.manifest import DamagedError, Manifest
from trainer.pool import Head
from trainer.rows_checkpoint import (
    HISTORY,
    forget_rows,
    history,
    keep_rows,
    outside,
    restore_rows,
)
from trainer.tensor_file import (
    FileFacts,
    Rows,
    read_rows,
    read_tensors,
    sync_folder,
    write_rows,
    write_tensors,
)
from trainer.together import gather, on_each_rank, on_rank_0
from trainer.topology import Topology

BACKBONE, OPTIMIZER = "backbone.safetensors", "optimizer.safetensors"
GALLERY = "gallery.safetensors"

log = logging.getLogger("facescale")


def save(
    folder: Path,
    *,
    step: int,
    samples_seen: int,
    config: dict[str, Any],
    data: dict[str, Any],
    engine: Engine,
    head: Head,
    topology: Topology,
    keep: int,
    gallery: Gallery | None = None,
) -> Path:
    """Commit the state after `step` steps and keep the last `keep` checkpoints.

    Every rank calls it with the same arguments; all return once the checkpoint is committed. On a
    full disk the earlier ones but the newest whole one make room for it.

    Raises:
        RunError: on every rank, where one could not write; earlier checkpoints are untouched, or
            the newest whole one is.
    """
    final = folder / f"step-{step:09d}"
    partial = on_rank_0(lambda: _begin(folder, final), topology)
    state = engine.read_state(keep=topology.rank == 0)
    try:
        try:
            written = on_each_rank(
                lambda: _write(partial, state, head, gallery, topology), topology
            )
        except DiskFullError:
            if not on_rank_0(lambda: _make_room(final, partial), topology):
                raise
            written = on_each_rank(
                lambda: _write(partial, state, head, gallery, topology), topology
            )
        parts = {name: fact for part in written for name, fact in part.items()}
        tables = on_each_rank(lambda: keep_rows(head, step=step), topology)
        content = Manifest(
            step=step,
            samples_seen=samples_seen,
            config=config,
            data=data,
            optimizer=engine.optimizer_name,
            head=head.state(),
            partitions={} if any(tables) else _partitions(head, topology),
            tables=tuple(name for name in tables if name is not None),
            world_size=topology.world_size,
            files=parts,
            **manifest.surroundings(),
        )
        on_rank_0(lambda: _commit(partial, final, content, keep=keep), topology)
    except RunError:
        if topology.rank == 0:
            shutil.rmtree(partial, ignore_errors=True)
        raise
    forget_rows(head, _checkpoints(folder), topology)
    return final


def newest(folder: Path, *, topology: Topology | None = None) -> tuple[Path | None, list[str]]:
    """The last checkpoint that is whole, and why each later one was refused.

    Reads every file of the checkpoints it looks at. With `topology` rank 0 looks for all ranks.
    """
    if topology is None:
        return _newest(folder)
    return gather(_newest(folder) if topology.rank == 0 else None, topology)[0]


def load(
    path: Path,
    *,
    engine: Engine,
    head: Head,
    topology: Topology,
    gallery: Gallery | None = None,
) -> Manifest:
    """Put a checkpoint that `newest` found into engine and head, of any world size and ZeRO stage.

    Every rank calls it with the same path.

    Raises:
        RunError: the checkpoint is of another backbone, optimizer or number of identities.
    """
    content = manifest.read(path)
    if content.optimizer != engine.optimizer_name:
        raise RunError(
            f"{path} has the state of {content.optimizer}, the run file names"
            f" {engine.optimizer_name}; continue with the optimizer that saved it"
        )
    tensors = read_tensors(path / BACKBONE)
    buffers = {name for name, _ in engine.module.named_buffers()}
    engine.write_state(
        BackboneState(
            parameters={name: t for name, t in tensors.items() if name not in buffers},
            buffers={name: t for name, t in tensors.items() if name in buffers},
            optimizer=read_tensors(path / OPTIMIZER),
        )
    )
    try:
        if content.tables:
            restore_rows(head, path, content)
        else:
            head.load(_rows(path, content, head.partition), content.head)
    except (ValueError, BlockingIOError) as error:
        raise RunError(f"{path}: {error}") from error
    if gallery is not None:
        gallery.write_state(read_tensors(path / GALLERY))
    return content


def _begin(folder: Path, final: Path) -> Path:
    """A new hidden folder to write into; what killed saves left is gone."""
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(".step-*"):
        shutil.rmtree(left)
    partial = folder / f".{final.name}.{secrets.token_hex(4)}"
    partial.mkdir()
    return partial


def _write(
    partial: Path,
    state: BackboneState | None,
    head: Head,
    gallery: Gallery | None,
    topology: Topology,
) -> dict[str, FileFacts]:
    """This rank's files."""
    written = {}
    if not outside(head):
        name = _head_file(topology.rank, topology.world_size)
        num_rows = len(head.partition) * head.sub_centres
        written[name] = write_rows(partial / name, head.rows(), num_rows=num_rows)
    elif topology.rank == 0 and (past := history(head)):
        written[HISTORY] = write_tensors(partial / HISTORY, past)
    if state is not None:
        tensors = {**state.parameters, **state.buffers}
        written[BACKBONE] = write_tensors(partial / BACKBONE, tensors)
        written[OPTIMIZER] = write_tensors(partial / OPTIMIZER, state.optimizer)
        if gallery is not None:
            written[GALLERY] = write_tensors(partial / GALLERY, gallery.read_state())
    return written


def _commit(partial: Path, final: Path, content: Manifest, *, keep: int) -> None:
    manifest.write(partial, content)
    sync_folder(partial)
    if final.exists():
        # Of a step that is done again, so it was not whole: a whole one would have been loaded.
        _remove(final)
    partial.rename(final)
    sync_folder(final.parent)
    try:
        _retain(final, keep=keep)
    except OSError as error:
        log.warning("an old checkpoint cannot be removed: %s", error)


def _retain(latest: Path, *, keep: int) -> None:
    """Keep the latest and the `keep` - 1 before it that look whole; remove what is older.

    Only what looks whole counts, so that a damaged one never takes a good one's place.
    """
    kept = 1
    for path in _checkpoints(latest.parent):
        if path.name >= latest.name:
            continue
        if kept < keep and _looks_whole(path):
            kept += 1
        else:
            _remove(path)


def _make_room(final: Path, partial: Path) -> bool:
    """Remove what is in `partial` and before the newest whole checkpoint; False if none was."""
    newest, _ = _newest(final.parent)
    if newest is None:
        return False
    older = [path for path in _checkpoints(final.parent) if path.name < newest.name]
    for path in older:
        log.warning("the disk is full: removing %s to make room for %s", path.name, final.name)
        _remove(path)
    for path in partial.iterdir():
        path.unlink()
    return bool(older)


def _looks_whole(path: Path) -> bool:
    try:
        manifest.check_sizes(path)
    except DamagedError:
        return False
    return True


def _remove(path: Path) -> None:
    """Rename first: a folder that is half removed must not look like a checkpoint."""
    hidden = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    path.rename(hidden)
    shutil.rmtree(hidden)


def _checkpoints(folder: Path) -> list[Path]:
    """Committed checkpoints, the latest first."""
    return sorted(folder.glob("step-*"), reverse=True)


def _newest(folder: Path) -> tuple[Path | None, list[str]]:
    refused = []
    for path in _checkpoints(folder):
        try:
            manifest.verify(path)
        except DamagedError as error:
            refused.append(str(error))
        else:
            return path, refused
    return None, refused


def _rows(path: Path, content: Manifest, wanted: range) -> Iterator[Rows]:
    """The blocks of all files that the classes of this rank's partition need."""
    each = content.head["sub_centres"]
    for name, (start, stop) in content.partitions.items():
        first, last = max(start, wanted.start), min(stop, wanted.stop)
        if rows := range(first * each, last * each):
            yield from read_rows(path / name, start=start * each, rows=rows)


def _partitions(head: Head, topology: Topology) -> dict[str, tuple[int, int]]:
    own = (head.partition.start, head.partition.stop)
    return {
        _head_file(rank, topology.world_size): bounds
        for rank, bounds in enumerate(gather(own, topology))
    }


def _head_file(rank: int, world_size: int) -> str:
    return f"head-{rank:05d}-of-{world_size:05d}.safetensors"
