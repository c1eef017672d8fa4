"""Makes the head's sampling from the run file, and says at the start what it does to the loss."""

from sharded_fc.sampling import Sampling, effective_margin, expected_distinct, share_visited
from trainer.config import RunConfig
from trainer.config_sampling import SamplingConfig


def make_sampling(chosen: SamplingConfig | None) -> Sampling | None:
    """The sampling of `head.sampling`, whose fields it has."""
    if chosen is None:
        return None
    return Sampling(
        rate=chosen.rate,
        correction=chosen.correction,
        quota=chosen.quota,
        block=chosen.block,
        shuffled=chosen.shuffled,
        hard_share=chosen.hard_share,
        untouched=chosen.untouched,
    )


def describe_sampling(config: RunConfig, *, num_identities: int) -> str | None:
    """One line: the share of the identities that a step visits, and the margin that acts like.

    Labels are taken to be drawn evenly. None without sampling.
    """
    sampling = make_sampling(config.head.sampling)
    if sampling is None:
        return None
    positives = expected_distinct(num_identities, config.batch.size)
    certain = min(positives + sampling.mined(num_identities), float(num_identities))
    rate = sampling.draw(num_identities, seed=config.seed).rate
    if sampling.quota == "peer":
        rate = max(rate * num_identities - certain, 0.0) / max(num_identities - certain, 1.0)
    share = share_visited(num_identities, positives=certain, rate=rate)
    line = f"sampling: a step compares with about {share:.2%} of {num_identities} identities"
    if sampling.correction == "logq":
        return f"{line}; the loss is corrected for it"
    change = effective_margin(0.0, share=share, scale=config.head.scale)
    return f"{line}, which acts like a margin lower by {-change:.3f} (of the cosine)"
