"""Which classes of all ranks are nearest to given embeddings: exact, in bounded memory."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from sharded_fc.centres import cosines, read_centres
from sharded_fc.collectives import Layout, Ranks
from sharded_fc.partition import chunks
from sharded_fc.present_rows import ReadableRows
from sharded_fc.storage import working_dtype

_QUERIES = 4096  # of all ranks at once: 16 MiB of float32 cosines for a chunk of 1,024 classes

# Below every cosine, and above the -inf of places that no class has filled yet.
_NOT_FINITE = -2.0


@dataclass(frozen=True)
class Nearest:
    """For each embedding its classes, nearest first; of equal cosines the lower class first."""

    label: Int[Tensor, "own k"]
    cosine: Float[Tensor, "own k"]


@torch.no_grad()
def nearest(
    embedding: Float[Tensor, "own dim"],
    *,
    k: int,
    rows: ReadableRows,
    ranks: Ranks,
    sub_centres: int = 1,
    chunk_classes: int = 1024,
) -> Nearest:
    """The `k` classes of all ranks with the highest cosine to each of this rank's embeddings.

    Ranks may bring different numbers of embeddings or none, of any length. With sub-centres a
    class is as near as its nearest one. A cosine is computed from all columns in float32 (float64
    where the rows are), whatever the rows are stored in; it is 0 for an embedding or centre of
    zeros, and -2 for one that is not finite. At most 4,096 embeddings of all ranks and
    `chunk_classes` classes meet at a time.

    Collectives: one all_gather of four integers; then for every 4,096 embeddings one all_gather of
    embeddings, one of cosines, one of classes.

    Raises:
        ValueError: on every rank, where `k` or the width differ between ranks or do not fit.
    """
    device = rows.device
    facts = ranks.exchange_integers(
        [len(embedding), embedding.shape[1], k, rows.stop], device=device
    )
    counts = [fact[0] for fact in facts]
    _check(facts, num_classes=max(fact[3] for fact in facts) // sub_centres)
    # A plain softmax keeps a bias beside the centre.
    if rows.width - embedding.shape[1] not in (0, 1):
        raise ValueError(
            f"embeddings have {embedding.shape[1]} columns, the centres {rows.width}; "
            "pass embeddings of the network that the centres were trained with"
        )
    # In float64, so that no length over- or underflows.
    unit = normalize(embedding.to(device, torch.float64), dim=1)
    unit = unit.to(working_dtype(rows.dtype))
    each = max(1, _QUERIES // ranks.size)
    label = torch.empty(len(embedding), k, dtype=torch.int64, device=device)
    cosine = unit.new_empty(len(embedding), k)
    for first in range(0, max(counts), each):
        layout = Layout(tuple(min(max(count - first, 0), each) for count in counts))
        own = unit[first : first + each]
        padded = unit.new_zeros(layout.capacity, unit.shape[1])
        padded[: len(own)] = own
        found = _nearest_own(
            layout.compact(ranks.all_gather(padded)),
            k=k,
            rows=rows,
            sub_centres=sub_centres,
            chunk_classes=chunk_classes,
        )
        begin = sum(layout.counts[: ranks.rank])
        here = slice(begin, begin + len(own))
        # Rank after rank, so that of equal cosines the lower class stands first.
        cosines = ranks.all_gather(found.cosine)[:, here].transpose(0, 1).flatten(1)
        labels = ranks.all_gather(found.label)[:, here].transpose(0, 1).flatten(1)
        best, column = _highest(cosines, k)
        cosine[first : first + each] = best
        label[first : first + each] = labels.gather(1, column)
    return Nearest(label, cosine)


def _check(facts: list[list[int]], *, num_classes: int) -> None:
    if len({(width, k) for _, width, k, _ in facts}) > 1:
        widths, ks = [fact[1] for fact in facts], [fact[2] for fact in facts]
        raise ValueError(f"ranks pass embeddings of widths {widths} and k {ks}; pass the same")
    k = facts[0][2]
    if not 1 <= k <= num_classes:
        raise ValueError(f"k {k} of {num_classes} classes; use 1 to {num_classes}")


def _nearest_own(
    unit: Tensor, *, k: int, rows: ReadableRows, sub_centres: int, chunk_classes: int
) -> Nearest:
    """The same among this rank's classes; class -1, cosine -inf where it has fewer than k."""
    cosine = unit.new_full((len(unit), k), -torch.inf)
    label = torch.full_like(cosine, -1, dtype=torch.int64)
    first_class = rows.start // sub_centres
    for start, stop in chunks(len(rows) // sub_centres, chunk_classes):
        centres = read_centres(
            rows, start, stop, sub_centres=sub_centres, embedding_dim=unit.shape[1]
        )
        product = cosines(unit.unsqueeze(1), normalize(centres, dim=2))
        product.masked_fill_(product.isnan(), _NOT_FINITE)
        best, column = _highest(product, min(k, stop - start))
        cosine, kept = _highest(torch.cat([cosine, best], 1), k)
        label = torch.cat([label, column + (first_class + start)], 1).gather(1, kept)
    return Nearest(label, cosine)


def _highest(value: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k highest of each row and their columns, in falling order; of equals the first columns.

    topk alone may take any of equals.
    """
    least = value.topk(k, dim=1).values[:, -1:]
    above = value > least
    level = value == least
    room = k - above.sum(1, keepdim=True)
    chosen = above | (level & (level.cumsum(1, dtype=torch.int32) <= room))
    column = chosen.nonzero()[:, 1].view(len(value), k)
    sorted_value, order = value.gather(1, column).sort(dim=1, descending=True, stable=True)
    return sorted_value, column.gather(1, order)
