"""The dense head: what the sharded one has to equal, step for step."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sharded_fc.margins import Margin, Scalars
from sharded_fc.optimizer import SGD, AdamW, RowWise
from sharded_fc.reference.loss import Unlabelled, first_state, sample_losses
from sharded_fc.reference.optimizers import NAMES, make_optimizer
from sharded_fc.sampling.options import Untouched


class DenseHead:
    """All centres in one process, stepped by torch.optim.

    The loss is sum_i w_i l_i / N over the N samples that count: those with a class, or all where
    `unlabelled` is "repel"; then the loss of a sample without one (label -1) is the log-sum of all
    its logits, or the sum of the negatives' terms of a sigmoid loss. A class's cosine is the
    largest of its `sub_centres` rows', which lie together. `class_margin` has one number a class.
    `clip_row_norm` bounds the length of each row's gradient. `learning_rate_ratios` are
    (first class, last class + 1, ratio); ratio 0 leaves rows and their state as they are.

    `inclusion`, given to a step, is the probability each class had to be compared with: 1 of those
    that were certain, 0 of those left out; a term stands for its reciprocal. What is left out gets
    no gradient; `untouched` says whether its rows are stepped without one or stay as they are.

    A negative whose cosine exceeds `ignored_above` is left out of its sample's loss.

    UniFace's bias is stepped by SGD with the same learning rate and momentum, without decay. For
    PlainSoftmax the last column of `centre` is the bias.
    """

    def __init__(
        self,
        centre: Float[Tensor, "rows width"],
        *,
        margin: Margin,
        scale: float,
        learning_rate: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        optimizer: SGD | AdamW | RowWise | None = None,
        sub_centres: int = 1,
        unlabelled: Unlabelled = "refuse",
        class_margin: Float[Tensor, " classes"] | None = None,
        clip_row_norm: float | None = None,
        learning_rate_ratios: Sequence[tuple[int, int, float]] = (),
        ignored_above: float | None = None,
        untouched: Untouched = "caught_up",
        seed: int = 0,
    ) -> None:
        self.margin = margin
        self.scale = scale
        self.sub_centres = sub_centres
        self.unlabelled: Unlabelled = unlabelled
        self.class_margin = class_margin
        self.clip_row_norm = clip_row_norm
        self.ignored_above = ignored_above
        self.untouched: Untouched = untouched
        self.seed = seed
        self.num_steps = 0
        self.rule = optimizer or SGD(momentum=momentum, weight_decay=weight_decay)
        num_classes = len(centre) // sub_centres
        ratios = _all_ranges(learning_rate_ratios, num_classes=num_classes)
        self._pieces = [
            centre[start * sub_centres : stop * sub_centres].clone().requires_grad_()
            for start, stop, _ in ratios
        ]
        trained = [
            (piece, learning_rate * ratio)
            for piece, (_, _, ratio) in zip(self._pieces, ratios, strict=True)
            if ratio > 0
        ]
        self.optimizer = make_optimizer(self.rule, trained)
        self._state: Scalars = first_state(margin, num_classes=num_classes, device=centre.device)
        self.sample_loss = centre.new_empty(0)
        self._bias_optimizer = None
        if "bias" in self._state:
            own_momentum = self.rule.momentum if isinstance(self.rule, SGD) else momentum
            self._bias_optimizer = torch.optim.SGD(
                [self._state["bias"].requires_grad_()], lr=learning_rate, momentum=own_momentum
            )

    @property
    def centre(self) -> Float[Tensor, "rows width"]:
        """All rows, detached."""
        return torch.cat([piece.detach() for piece in self._pieces])

    @property
    def state(self) -> Scalars:
        """The margin's scalars, copied."""
        return {name: value.detach().clone() for name, value in self._state.items()}

    @property
    def momentum(self) -> Float[Tensor, "rows width"]:
        """SGD's buffer, zeros before the first step."""
        return self.rows()["momentum"]

    def rows(self) -> dict[str, Tensor]:
        """Centres and what the optimizer keeps for them, named as the sharded head names it."""
        widths = self.rule.state_widths(self._pieces[0].shape[1])
        kept = {
            name: torch.cat([self._kept(p, NAMES[type(self.rule)][name], w) for p in self._pieces])
            for name, w in widths.items()
        }
        return {"centre": self.centre, **kept}

    def step(
        self,
        embedding: Float[Tensor, "batch dim"],
        label: Int[Tensor, " batch"],
        *,
        sample_weight: Float[Tensor, " batch"] | None = None,
        class_range: Int[Tensor, "batch 2"] | None = None,
        inclusion: Float[Tensor, " classes"] | None = None,
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "batch dim"]]:
        """One update; the loss before it and the gradient of the embeddings.

        With `class_range` each sample competes within [start, stop) of the classes only, which
        holds its own.
        """
        leaf = embedding.detach().requires_grad_()
        losses = sample_losses(
            leaf,
            self._pieces[0] if len(self._pieces) == 1 else torch.cat(self._pieces),
            label,
            margin=self.margin,
            scale=self.scale,
            state=self._state,
            sub_centres=self.sub_centres,
            unlabelled=self.unlabelled,
            class_margin=self.class_margin,
            class_range=class_range,
            inclusion=inclusion,
            ignored_above=self.ignored_above,
            step=self.num_steps,
            seed=self.seed,
        )
        weighted = losses.of_sample if sample_weight is None else losses.of_sample * sample_weight
        loss = weighted.sum() / losses.counted.sum().clamp_min(1)
        frozen = inclusion is not None and self.untouched == "frozen"
        before = self.rows() if frozen else {}
        self._update(loss)
        if inclusion is not None and frozen:
            self._restore(before, (inclusion == 0).repeat_interleave(self.sub_centres))
        self._state = losses.state
        self.sample_loss = losses.of_sample.detach()
        self.num_steps += 1
        assert leaf.grad is not None
        return loss.detach(), leaf.grad

    def _update(self, loss: Tensor) -> None:
        for leaf in (*self._pieces, *self._state.values()):
            leaf.grad = None
        loss.backward()
        if self.clip_row_norm is not None:
            for piece in self._pieces:
                assert piece.grad is not None
                length = piece.grad.norm(dim=1, keepdim=True)
                clipped = piece.grad / length * self.clip_row_norm
                piece.grad = torch.where(length > self.clip_row_norm, clipped, piece.grad)
        self.optimizer.step()
        if self._bias_optimizer is not None:
            self._bias_optimizer.step()

    @torch.no_grad()
    def _restore(self, before: dict[str, Tensor], left_out: Tensor) -> None:
        """Put back the rows that are left out, and what the optimizer keeps for them."""
        lengths = [len(piece) for piece in self._pieces]
        place = left_out.split(lengths)
        names = {"centre": "", **NAMES[type(self.rule)]}
        for name, values in before.items():
            for piece, old, out in zip(self._pieces, values.split(lengths), place, strict=True):
                kept = piece if name == "centre" else self.optimizer.state[piece].get(names[name])
                if kept is not None:
                    kept[out] = old[out]

    def _kept(self, piece: Tensor, name: str, width: int) -> Tensor:
        state = self.optimizer.state[piece]
        return state[name] if name in state else torch.zeros_like(piece[:, :width])


def _all_ranges(
    ranges: Sequence[tuple[int, int, float]], *, num_classes: int
) -> list[tuple[int, int, float]]:
    """The ranges and, with ratio 1, what lies between them."""
    complete: list[tuple[int, int, float]] = []
    reached = 0
    for start, stop, ratio in sorted(ranges):
        complete += [(reached, start, 1.0), (start, stop, ratio)]
        reached = stop
    complete.append((reached, num_classes, 1.0))
    return [piece for piece in complete if piece[0] < piece[1]]
