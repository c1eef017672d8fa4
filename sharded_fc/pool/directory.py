"""Which identity has which slot of the pool. Pure integers: no torch, no communication.

The pool holds the identities seen last. Every rank keeps the whole directory and advances it by the
same labels in the same order, so all agree without a word. What `plan` returns is what inserting
the labels one by one would do, found for all of them at once; nothing changes before `apply`.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64

from sharded_fc.pool.lookup import FREE, SlotIndex, UseQueue, look_up

ROWS = 2
"""Features of an identity: the two last ones."""

_COMPARISONS = 1 << 22  # at once, a byte each


@dataclass(frozen=True, kw_only=True, eq=False)
class Change:
    """What a batch of labels does to a directory.

    The slots in `slot`, ascending and distinct, get `label`, `last_use` and `next_row`. Feature
    `source[i]` of the batch is the last one written to `row[i]` of slot `written[i]`. `renewed` are
    the slots whose identity, already there, was seen again: the ones whose row 1 counts.
    """

    slot: Int64[np.ndarray, " slots"]
    label: Int64[np.ndarray, " slots"]
    last_use: Int64[np.ndarray, " slots"]
    next_row: Int64[np.ndarray, " slots"]
    written: Int64[np.ndarray, " writes"]
    row: Int64[np.ndarray, " writes"]
    source: Int64[np.ndarray, " writes"]
    renewed: Int64[np.ndarray, " renewed"]
    num_labels: int


class Directory:
    """The identities of `slots` slots, the least recently used of which makes room.

    `label` is FREE where a slot has nobody; slots are filled from 0 on and never freed. `last_use`
    counts labels inserted, the first is 0. `next_row` is the row that the identity's next feature
    goes to: a new one's first feature goes to row 0, then rows 1 and 0 alternate.
    """

    def __init__(self, slots: int) -> None:
        if slots < 1:
            raise ValueError(f"{slots} slots; a pool needs at least 1")
        self.label = np.full(slots, FREE, np.int64)
        self.last_use = np.full(slots, FREE, np.int64)
        self.next_row = np.zeros(slots, np.int64)
        self.num_inserted = 0
        self.filled = 0
        self._look_up_anew()

    def __len__(self) -> int:
        return len(self.label)

    def copy(self) -> "Directory":
        """One that changes by itself."""
        other = Directory(len(self))
        other.restore(
            label=self.label.copy(),
            last_use=self.last_use.copy(),
            next_row=self.next_row.copy(),
            num_inserted=self.num_inserted,
        )
        return other

    def restore(
        self,
        *,
        label: Int64[np.ndarray, " slots"],
        last_use: Int64[np.ndarray, " slots"],
        next_row: Int64[np.ndarray, " slots"],
        num_inserted: int,
    ) -> None:
        """Take over the state of another directory with as many slots.

        Raises:
            ValueError: it is not one that inserting labels leads to.
        """
        filled = int((label != FREE).sum())
        there = label[:filled]
        uses = last_use[:filled]
        if (
            len(label) != len(self)
            or (there < 0).any()
            or len(np.unique(there)) != filled
            or len(np.unique(uses)) != filled
            or (uses < 0).any()
            or (uses >= num_inserted).any()
            or not np.isin(next_row, range(ROWS)).all()
        ):
            raise ValueError(
                f"the saved pool is no directory of {len(self)} slots; load another checkpoint"
            )
        self.label, self.last_use, self.next_row = label, last_use, next_row
        self.num_inserted, self.filled = num_inserted, filled
        self._look_up_anew()

    def find(
        self, label: Int64[np.ndarray, " n"], *, after: Change | None = None
    ) -> Int64[np.ndarray, " n"]:
        """The slot of each label, or FREE; with `after`, as it will be once that is applied."""
        slot = self._index.find(label)
        if after is None:
            return slot
        place = np.searchsorted(after.slot, slot).clip(max=len(after.slot) - 1)
        slot = np.where(after.slot[place] == slot, FREE, slot)  # its holder is given anew
        order = np.argsort(after.label)
        changed = look_up(label, after.label[order], after.slot[order])
        return np.where(changed == FREE, slot, changed)

    def filled_after(self, change: Change) -> int:
        """How many slots have somebody once `change` is applied: those before this number."""
        return max(self.filled, int(change.slot.max()) + 1)

    def plan(self, label: Int64[np.ndarray, " batch"]) -> Change:
        """What inserting labels, one or more, one after another does; the directory stays."""
        pieces = [label[i : i + len(self)] for i in range(0, len(label), len(self))]
        if len(pieces) == 1:
            return self._plan(label)
        scratch = self.copy()
        changes = []
        renewed = np.zeros(len(self), bool)
        for piece in pieces:
            change = scratch._plan(piece)
            renewed[change.slot] = False  # of whoever had the slot before
            renewed[change.renewed] = True
            scratch.apply(change)
            changes.append(change)
        slot = np.unique(np.concatenate([change.slot for change in changes]))
        offset = np.arange(len(changes)) * len(self)
        sources = [c.source + o for c, o in zip(changes, offset, strict=True)]
        written, row, source = _last_writes(
            np.concatenate([change.written for change in changes]),
            np.concatenate([change.row for change in changes]),
            np.concatenate(sources),
        )
        return Change(
            slot=slot,
            label=scratch.label[slot],
            last_use=scratch.last_use[slot],
            next_row=scratch.next_row[slot],
            written=written,
            row=row,
            source=source,
            renewed=np.flatnonzero(renewed),
            num_labels=len(label),
        )

    def apply(self, change: Change) -> None:
        """Carry out what `plan` has found; it must be of the directory as it is."""
        new = self.label[change.slot] != change.label
        self.filled = self.filled_after(change)
        self.label[change.slot] = change.label
        self.last_use[change.slot] = change.last_use
        self.next_row[change.slot] = change.next_row
        self.num_inserted += change.num_labels
        self._index.add(change.label[new], change.slot[new])

    def _plan(self, labels: Int64[np.ndarray, " batch"]) -> Change:
        """`plan` for at most as many labels as slots: nobody inserted here is evicted here."""
        unique, first, inverse, count = np.unique(
            labels, return_index=True, return_inverse=True, return_counts=True
        )
        order = np.argsort(first)  # people in the order in which they first come
        label, count = unique[order], count[order]
        person = np.empty_like(order)
        person[order] = np.arange(len(order))
        person = person[inverse]
        slot = self.find(label)
        there, evicted = self._evictions(slot)
        newcomer = self.filled + np.cumsum(~there) - 1  # slots in turn, then evicted ones
        full = newcomer - len(self)
        taken = np.where(full < 0, newcomer, evicted[full.clip(0)] if len(evicted) else 0)
        slot = np.where(there, slot, taken)

        next_row = np.where(there, self.next_row[slot], 0)
        by_person = np.argsort(person, kind="stable")
        occurrence = np.empty_like(person)
        start = np.cumsum(count) - count
        occurrence[by_person] = np.arange(len(labels)) - np.repeat(start, count)
        source = np.flatnonzero(occurrence >= count[person] - ROWS)  # what comes later stays
        last = by_person[start + count - 1]
        ascending = np.argsort(slot)
        return Change(
            slot=slot[ascending],
            label=label[ascending],
            last_use=self.num_inserted + last[ascending],
            next_row=((next_row + count) % ROWS)[ascending],
            written=slot[person[source]],
            row=(next_row[person] + occurrence)[source] % ROWS,
            source=source,
            renewed=np.sort(slot[there | (count > 1)]),
            num_labels=len(labels),
        )

    def _evictions(
        self, slot: Int64[np.ndarray, " people"]
    ) -> tuple[Bool[np.ndarray, " people"], Int64[np.ndarray, " evicted"]]:
        """Who of the people is still there when their turn comes, and the slots that are given up.

        Somebody is there if fewer others than there are slots were seen since: those more recent in
        the directory, and those of the batch before who were not among these (Mattson's stack
        distance, IBM Systems Journal 9, 1970). Whoever is to go goes in order of last use.
        """
        there = slot != FREE
        if self.filled + int((~there).sum()) <= len(self):
            return there, np.empty(0, np.int64)
        oldest = self._queue.oldest(min(len(slot), self.filled), filled=self.filled)
        place = look_up(slot, np.sort(oldest), np.argsort(oldest))
        recent = self.filled - 1 - place
        at_risk = there & (place != FREE) & (recent + np.arange(len(slot)) >= len(self))
        # People who are not there count as less recent, those not among the oldest as more.
        age = np.where(there & (place == FREE), self.filled, place)
        who = np.flatnonzero(at_risk)
        each = max(1, _COMPARISONS // len(slot))
        for some in (who[i : i + each] for i in range(0, len(who), each)):
            before = np.arange(some[-1] + 1) < some[:, None]
            passed = ((age[: some[-1] + 1] < age[some, None]) & before).sum(1)
            there[some] = recent[some] + passed < len(self)
        stays = np.zeros(len(oldest), bool)
        stays[place[there & (place != FREE)]] = True
        return there, oldest[~stays]

    def _look_up_anew(self) -> None:
        self._index = SlotIndex(self.label, filled=self.filled)
        self._queue = UseQueue(self.last_use)


def _last_writes(
    written: np.ndarray, row: np.ndarray, source: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of several writes to one row of one slot the last."""
    _, from_the_end = np.unique((written * ROWS + row)[::-1], return_index=True)
    kept = np.sort(len(written) - 1 - from_the_end)
    return written[kept], row[kept], source[kept]
