"""The pool one label after another and with every feature on one rank, as it is published.

Written from the description (arXiv:2105.10375): plain Python, an OrderedDict, torch in float64 with
autograd. What tests compare the vectorised, sharded pool with.
"""

from collections import OrderedDict
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize


@dataclass
class LiteralDirectory:
    """An OrderedDict from label to slot, the least recently used first."""

    slots: int
    slot_of: OrderedDict[int, int] = field(default_factory=OrderedDict)
    next_row: list[int] = field(default_factory=list)

    def insert(self, labels: list[int]) -> tuple[list[tuple[int, int]], set[int]]:
        """(slot, row) of each label's feature, and the slots whose identity was seen again."""
        places, renewed = [], set()
        for label in labels:
            if label in self.slot_of:
                slot = self.slot_of[label]
                self.slot_of.move_to_end(label)
                renewed.add(slot)
            else:
                if len(self.slot_of) < self.slots:
                    slot = len(self.slot_of)
                    self.next_row.append(0)
                else:
                    _, slot = self.slot_of.popitem(last=False)
                self.slot_of[label] = slot
                self.next_row[slot] = 0
                renewed.discard(slot)
            places.append((slot, self.next_row[slot]))
            self.next_row[slot] = 1 - self.next_row[slot]
        return places, renewed


class LiteralPool:
    """The replicated pool; margins are "cosface" or "arcface", each with its number."""

    def __init__(self, feature: Tensor, *, scale: float, margin: tuple[str, float], masked: bool):
        self.feature = feature.clone()
        self.directory = LiteralDirectory(feature.shape[1])
        self.scale, self.margin, self.masked = scale, margin, masked
        slots = feature.shape[1]
        self.nearest = min(slots, max(3, min(10, int(0.0002 * slots))))

    def one_pass(self, probe: Tensor, label: Tensor, gallery: Tensor, gallery_label: Tensor):
        """The loss of probes once the gallery's features are in the pool."""
        places, renewed = self.directory.insert(gallery_label.tolist())
        for (slot, row), feature in zip(places, normalize(gallery, dim=1), strict=True):
            self.feature[row, slot] = feature
        mixed = self.feature[0].clone()
        for slot in renewed:
            mixed[slot] = self.feature[1, slot]
        slots = [self.directory.slot_of.get(each, -1) for each in label.tolist()]
        unit = normalize(probe, dim=1)
        filled = len(self.directory.slot_of) if self.masked else mixed.shape[0]
        own = torch.tensor(slots)
        losses = [self._loss(unit @ rows[:filled].t(), own) for rows in (self.feature[0], mixed)]
        return losses[0] + losses[1]

    def _loss(self, cosine: Tensor, slot: Tensor) -> Tensor:
        loss = cosine.new_zeros(())
        inside, outside = slot >= 0, slot < 0
        if inside.any():
            here, own = cosine[inside], slot[inside]
            target = here.gather(1, own.unsqueeze(1))
            name, margin = self.margin
            angle = target.acos() + margin
            moved = target - margin if name == "cosface" else angle.cos()
            loss = loss + cross_entropy(self.scale * here.scatter(1, own.unsqueeze(1), moved), own)
        if outside.any():
            most = min(self.nearest, cosine.shape[1])
            top = cosine[outside].topk(most, dim=1).values.clamp_min(0)
            loss = loss + top.sum() / (outside.sum() * self.nearest)
        return loss

    def step(self, first: tuple[Tensor, ...], second: tuple[Tensor, ...]) -> Tensor:
        """Both passes of (probe, gallery, label) views; the first leaves no trace in the pool."""
        feature, directory = self.feature.clone(), self.directory
        self.directory = LiteralDirectory(
            directory.slots, directory.slot_of.copy(), list(directory.next_row)
        )
        one = self.one_pass(first[0], first[2], second[1], second[2])
        self.feature, self.directory = feature, directory
        return one + self.one_pass(second[0], second[2], first[1], first[2])
