"""What a directory looks up: who is where, and who was used least recently.

Both are kept sorted and mostly out of date, which the directory's own arrays tell: an entry counts
only if they still say the same. So a step touches as much as it changes, and all slots only after
as many changes as make that cheap. No torch.
"""

import numpy as np
from jaxtyping import Int64

FREE = -1

_MERGE_SHARE = 32  # newcomers join the others once they are more than one in 32 slots


def look_up(wanted: np.ndarray, ascending: np.ndarray, value: np.ndarray) -> np.ndarray:
    """`value` where `ascending` has what is wanted, else FREE."""
    if not len(ascending):
        return np.full(len(wanted), FREE, np.int64)
    place = np.searchsorted(ascending, wanted).clip(max=len(ascending) - 1)
    return np.where(ascending[place] == wanted, value[place], FREE)


class SlotIndex:
    """From label to slot, for a directory's `label`, of which the first `filled` are taken.

    16 bytes a slot, however many identities there are.
    """

    def __init__(self, label: Int64[np.ndarray, " slots"], *, filled: int) -> None:
        self._now = label
        self._slot = np.argsort(label[:filled])
        self._label = label[self._slot]
        self._new_slot = self._new_label = np.empty(0, np.int64)

    def find(self, label: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """The slot of each label, or FREE."""
        new = self._still(look_up(label, self._new_label, self._new_slot), label)
        old = self._still(look_up(label, self._label, self._slot), label)
        return np.where(new == FREE, old, new)

    def add(self, label: Int64[np.ndarray, " n"], slot: Int64[np.ndarray, " n"]) -> None:
        """Note newcomers, distinct, once the directory's `label` has them."""
        order = np.argsort(label)
        self._new_label, self._new_slot = _merged(
            self._new_label, self._new_slot, label[order], slot[order]
        )
        if len(self._new_label) * _MERGE_SHARE > len(self._now):
            kept = self._now[self._slot] == self._label
            valid = self._now[self._new_slot] == self._new_label
            self._label, self._slot = _merged(
                self._label[kept], self._slot[kept], self._new_label[valid], self._new_slot[valid]
            )
            self._new_slot = self._new_label = np.empty(0, np.int64)

    def _still(self, slot: np.ndarray, label: np.ndarray) -> np.ndarray:
        return np.where((slot != FREE) & (self._now[slot] == label), slot, FREE)


class UseQueue:
    """Slots in order of last use, for a directory's `last_use`."""

    def __init__(self, last_use: Int64[np.ndarray, " slots"]) -> None:
        self._now = last_use
        self._slot = self._use = np.empty(0, np.int64)
        self._head = 0

    def oldest(self, n: int, *, filled: int) -> Int64[np.ndarray, " n"]:
        """The `n` of the first `filled` slots that were used least recently, the oldest first.

        Whoever was used since the queue was made is newer than everybody who was not, so the queue
        is made anew only when it runs out.
        """
        window = 2 * n
        while True:
            some = slice(self._head, self._head + window)
            unused = np.flatnonzero(self._now[self._slot[some]] == self._use[some])
            if len(unused) >= n:
                found = self._slot[some][unused[:n]]
                self._head += int(unused[0]) if n else 0  # those before are out of date for good
                return found
            if some.stop < len(self._slot):
                window *= 2
                continue
            self._slot = np.argsort(self._now[:filled])
            self._use = self._now[self._slot]
            self._head = 0


def _merged(
    label: np.ndarray, slot: np.ndarray, other_label: np.ndarray, other_slot: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Two ascending lists of labels as one, with the other's slot where both have a label."""
    place = np.searchsorted(label, other_label)
    both = look_up(other_label, label, np.arange(len(label)))
    slot = slot.copy()
    slot[both[both != FREE]] = other_slot[both != FREE]
    new = both == FREE
    return (
        np.insert(label, place[new], other_label[new]),
        np.insert(slot, place[new], other_slot[new]),
    )
