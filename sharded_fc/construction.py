"""Makes what a head consists of from its arguments."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from sharded_fc import arguments
from sharded_fc.arguments import OptimizerName, Unlabelled
from sharded_fc.catch_up import CatchUp
from sharded_fc.chunk_work import Kernels
from sharded_fc.collectives import Ranks
from sharded_fc.margins import Margin
from sharded_fc.optimizer import Optimizer
from sharded_fc.outside import Outside, OutsideRows
from sharded_fc.partition import bounds
from sharded_fc.problem import Problem
from sharded_fc.sampling.mining import Miner, lists_to_search
from sharded_fc.sampling.near_index import NearIndex
from sharded_fc.sampling.options import Sampling
from sharded_fc.sampling.sampler import Sampler
from sharded_fc.sampling.signatures import Signatures
from sharded_fc.single_visit import SingleVisit
from sharded_fc.softmax import ChunkedSoftmax
from sharded_fc.storage import Rows, working_dtype
from sharded_fc.tables import Layout

# Room for products kept from the first visit for the second, or gradients of a sigmoid loss, which
# saves one of four: 96 MiB hold all of 100,000 classes x 256 samples, a sixteenth of the rows all
# of a million x 64.
KEPT_BYTES = 96 << 20
KEPT_SHARE = 16


def make_problem(
    num_classes: int,
    embedding_dim: int,
    *,
    margin: Margin,
    scale: float,
    group: dist.ProcessGroup | None,
    optimizer: OptimizerName,
    momentum: float,
    weight_decay: float,
    betas: tuple[float, float],
    eps: float,
    learning_rate_ratios: Sequence[tuple[int, int, float]],
    clip_row_norm: float | None,
    clip_norm: float | None,
    sub_centres: int,
    class_margin: Float[Tensor, " classes"] | None,
    unlabelled: Unlabelled,
    sampling: Sampling | None,
    outside: Outside | None,
    conflict_cosine: float | None,
    ignore_conflicts: bool,
    compute_dtype: torch.dtype | None,
    chunk_classes: int | None,
    kept_bytes: int | None,
    kernels: Kernels,
    gradient_reduction: str,
    seed: int,
    device: torch.device,
    dtype: torch.dtype,
    state_dtype: torch.dtype | None,
) -> Problem:
    """Check the arguments of `ShardedHead`, make this rank's rows and what works on them."""
    working = working_dtype(dtype)
    if compute_dtype is None:
        on_cpu = device.type == "cpu" or dtype == torch.float64
        compute_dtype = working if on_cpu else torch.float16
    arguments.check_arguments(
        num_classes,
        embedding_dim,
        scale,
        margin=margin,
        sub_centres=sub_centres,
        chunk_classes=chunk_classes,
        gradient_reduction=gradient_reduction,
        unlabelled=unlabelled,
        kernels=kernels,
        class_margin=class_margin,
        clip_norm=clip_norm,
        clip_row_norm=clip_row_norm,
    )
    arguments.check_dtypes(dtype, state_dtype, compute_dtype)
    if ignore_conflicts and conflict_cosine is None:
        raise ValueError(
            "ignore_conflicts needs a conflict_cosine, above which negatives are left out"
        )
    ratios = arguments.check_ratios(learning_rate_ratios, num_classes=num_classes)
    chosen = arguments.make_optimizer(
        optimizer, momentum=momentum, weight_decay=weight_decay, betas=betas, eps=eps
    )
    ranks = Ranks.of(group)
    start, stop = bounds(num_classes, ranks.size)[ranks.rank]
    width = embedding_dim if margin.normalised else embedding_dim + 1  # and a bias
    layout = Layout(
        start=start * sub_centres,
        stop=stop * sub_centres,
        embedding_dim=width,
        state_widths=chosen.state_widths(width),
        seed=seed,
        dtype=dtype,
        state_dtype=state_dtype or (dtype if dtype != torch.float16 else torch.float32),
        initial_columns=embedding_dim,
    )
    rows = _rows(layout, sampling, outside, sub_centres=sub_centres, device=device)
    own_ratios = _counted_within(rows, ratios, sub_centres)
    catch_up = _catch_up(sampling, chosen, rows, own_ratios, seed)
    if kept_bytes is None:
        kept_bytes = max(KEPT_BYTES, rows.bytes // KEPT_SHARE)
    visits = SingleVisit if margin.loss == "sigmoid" else ChunkedSoftmax
    softmax = visits(
        rows,
        chosen,
        sub_centres=sub_centres,
        normalised=margin.normalised,
        compute_dtype=compute_dtype,
        working_dtype=working,
        kept_bytes=kept_bytes,
        kernels_used=_suited(kernels, margin, ignore_conflicts=ignore_conflicts),
        seed=seed,
        catch_up=catch_up,
    )
    sampler = None
    if sampling is not None:
        sampler = Sampler(
            sampling,
            rows,
            num_classes=num_classes,
            sub_centres=sub_centres,
            seed=seed,
            catch_up=catch_up,
        )
    return Problem(
        num_classes=num_classes,
        embedding_dim=embedding_dim,
        margin=margin,
        scale=scale,
        unlabelled=unlabelled,
        conflict_cosine=conflict_cosine,
        ignore_conflicts=ignore_conflicts,
        class_margin=None if class_margin is None else class_margin[start:stop].to(device),
        chunk_classes=chunk_classes,
        ratios=own_ratios,
        clip_row_norm=clip_row_norm,
        seed=seed,
        device=device,
        ranks=ranks,
        softmax=softmax,
        sampler=sampler,
        miner=_miner(sampling, rows, ranks, margin, num_classes, sub_centres, seed),
    )


def _suited(kernels: Kernels, margin: Margin, *, ignore_conflicts: bool) -> Kernels:
    """No kernel leaves conflicts out; a fused one makes a product that single visits have."""
    if ignore_conflicts:
        return "torch"
    return "elementwise" if margin.loss == "sigmoid" and kernels == "fused" else kernels


def _rows(
    layout: Layout,
    sampling: Sampling | None,
    outside: Outside | None,
    *,
    sub_centres: int,
    device: torch.device,
) -> Rows | OutsideRows:
    """This rank's rows, on the device or elsewhere."""
    if outside is None:
        return Rows(
            layout.start,
            layout.stop,
            embedding_dim=layout.embedding_dim,
            state_widths=layout.state_widths,
            seed=layout.seed,
            device=device,
            dtype=layout.dtype,
            state_dtype=layout.state_dtype,
            initial_columns=layout.initial_columns,
        )
    if sampling is None:
        raise ValueError(
            f"rows in {outside.kept_in} memory without sampling: every step would move all of "
            "them; give the head a sampling, or keep the rows on the device"
        )
    return OutsideRows(layout, outside, block_rows=sampling.block * sub_centres, device=device)


def _miner(
    sampling: Sampling | None,
    rows: Rows | OutsideRows,
    ranks: Ranks,
    margin: Margin,
    num_classes: int,
    sub_centres: int,
    seed: int,
) -> Miner | None:
    if sampling is None or not sampling.hard_share:
        return None
    if isinstance(rows, OutsideRows):
        raise ValueError(
            "hard_share with rows outside the device: which rows it wants is not known a step "
            "ahead; use hard_share 0, or keep the rows on the device"
        )
    if not margin.normalised:
        raise ValueError(
            f"hard_share finds classes by their directions, {type(margin).__name__} compares "
            "lengths too; use hard_share 0"
        )
    signatures = Signatures(
        rows.width, num_rows=num_classes * sub_centres, seed=seed, device=rows.device
    )
    probes = lists_to_search(sampling.rate, num_lists=signatures.num_lists)
    return Miner(
        NearIndex(rows, signatures, probes=probes),
        ranks,
        count=sampling.mined(num_classes),
        sub_centres=sub_centres,
    )


def _counted_within(
    rows: Rows | OutsideRows, ratios: Sequence[tuple[int, int, float]], sub_centres: int
) -> tuple[tuple[int, int, float], ...]:
    """Ranges of classes as ranges of this partition's rows; they may reach beyond it."""
    return tuple(
        (first * sub_centres - rows.start, last * sub_centres - rows.start, ratio)
        for first, last, ratio in ratios
    )


def _catch_up(
    sampling: Sampling | None,
    optimizer: Optimizer,
    rows: Rows | OutsideRows,
    ratios: Sequence[tuple[int, int, float]],
    seed: int,
) -> CatchUp | None:
    if sampling is None or sampling.untouched == "frozen":
        return None
    kept = rows.none() if isinstance(rows, OutsideRows) else rows
    return CatchUp(optimizer, kept, ratios=ratios, seed=seed)
