"""Made-up people for questions about accuracy that real faces take too long to answer.

An identity is a direction; of ten, a family, any two lie at cosine 0.5. An observation is a fixed
nonlinear mixture of the identity and of twice as strong circumstances, with noise; a small network
learns to tell the two apart. Everything follows from the seed.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from trainer.evaluate.verification import tar_at

FAMILY, FAMILY_COSINE = 10, 0.5
IDENTITY_DIM, CIRCUMSTANCE_DIM, OBSERVED_DIM = 32, 32, 128
CIRCUMSTANCES = 2.0  # their strength, the identity's is 1
NOISE = 0.3
HIDDEN_DIM = 512
FAR = 1e-3
IMPOSTOR_PAIRS = 1_000_000
PAIRS_AT_ONCE = 16_384  # whose embeddings fit a cache


@dataclass(frozen=True, kw_only=True)
class People:
    """Observations with the identity of each: `per_identity` of everybody, one after the other."""

    observation: Float[Tensor, "samples observed"]
    label: Int[Tensor, " samples"]
    per_identity: int

    @property
    def identities(self) -> int:
        """How many people."""
        return len(self.label) // self.per_identity

    def batches(self, size: int, *, seed: int) -> Iterator[Int[Tensor, " size"]]:
        """Sample numbers without end: every sample once, in random order, then again."""
        generator = torch.Generator().manual_seed(seed)
        left = torch.empty(0, dtype=torch.int64)
        while True:
            while len(left) < size:
                left = torch.cat([left, torch.randperm(len(self.label), generator=generator)])
            yield left[:size]
            left = left[size:]

    def flipped(self, share: float, *, seed: int) -> "People":
        """The same observations, so many of which have anybody's label."""
        generator = torch.Generator().manual_seed(seed)
        wrong = torch.rand(len(self.label), generator=generator) < share
        anybody = torch.randint(self.identities, (len(self.label),), generator=generator)
        label = torch.where(wrong, anybody, self.label)
        return People(observation=self.observation, label=label, per_identity=self.per_identity)


def draw_people(
    identities: int, per_identity: int, *, unseen: int, seed: int
) -> tuple[People, People]:
    """People to train on, and as many observations of each of `unseen` others."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    mixed = IDENTITY_DIM + CIRCUMSTANCE_DIM
    first = normal(mixed, OBSERVED_DIM) / mixed**0.5
    second = normal(OBSERVED_DIM, OBSERVED_DIM) / OBSERVED_DIM**0.5

    def draw(count: int) -> People:
        family = normal(-(-count // FAMILY), IDENTITY_DIM).repeat_interleave(FAMILY, 0)[:count]
        own = normal(count, IDENTITY_DIM)
        identity = FAMILY_COSINE**0.5 * family + (1 - FAMILY_COSINE) ** 0.5 * own
        identity = identity[torch.randperm(count, generator=generator)]
        samples = count * per_identity
        circumstances = CIRCUMSTANCES * normal(samples, CIRCUMSTANCE_DIM)
        both = torch.cat([identity.repeat_interleave(per_identity, 0), circumstances], 1)
        observation = (both @ first).tanh() @ second + NOISE * normal(samples, OBSERVED_DIM)
        label = torch.arange(count).repeat_interleave(per_identity)
        return People(observation=observation, label=label, per_identity=per_identity)

    return draw(identities), draw(unseen)


def make_network(embedding_dim: int, *, seed: int) -> nn.Module:
    """From an observation to an embedding, by one hidden layer."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(OBSERVED_DIM, HIDDEN_DIM, bias=False),
            nn.BatchNorm1d(HIDDEN_DIM),
            nn.PReLU(HIDDEN_DIM),
            nn.Linear(HIDDEN_DIM, embedding_dim, bias=False),
            nn.BatchNorm1d(embedding_dim),
        )


@torch.no_grad()
def true_accepts(network: nn.Module, people: People, *, seed: int = 0) -> float:
    """The share of same pairs accepted where a thousandth of different ones is.

    All same pairs, and a million random ones of different people.
    """
    network.eval()
    unit = nn.functional.normalize(network(people.observation))
    each = unit.unflatten(0, (people.identities, people.per_identity))
    one, other = torch.triu_indices(people.per_identity, people.per_identity, 1)
    same = (each[:, one] * each[:, other]).sum(2).flatten()
    generator = torch.Generator().manual_seed(seed)
    pair = torch.randint(len(unit), (2, IMPOSTOR_PAIRS), generator=generator)
    pair = pair[:, people.label[pair[0]] != people.label[pair[1]]]
    pieces = pair.split(PAIRS_AT_ONCE, 1)
    different = torch.cat([(unit[a] * unit[b]).sum(1) for a, b in pieces])
    score = torch.cat([same, different]).double().numpy()
    return tar_at(score, np.arange(len(score)) < len(same), FAR)
