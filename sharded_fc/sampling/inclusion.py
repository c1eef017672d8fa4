"""How likely a class is to take part in a step, and what that does to the loss. Integers and sums.

A softmax over a sample of the classes has a smaller denominator than the full one, which acts like
a smaller margin (`effective_margin`) unless each sampled term is divided by the probability of its
class to be drawn.
"""

import math


def share_visited(num_classes: int, *, positives: float, rate: float) -> float:
    """r_eff = (|P| + q (C - |P|)) / C: the mean share of the classes in a step's denominator.

    `positives` is the number of distinct classes in the global batch, `rate` the probability q of
    each other class to be drawn.
    """
    return (positives + rate * (num_classes - positives)) / num_classes


def effective_margin(margin: float, *, share: float, scale: float) -> float:
    """The margin m + ln(r_eff) / s of the cosine that a full softmax of the same loss has.

    Holds where sampled and other classes are alike, in units of the target's cosine; nothing is
    lost with correction "logq".
    """
    return margin + math.log(share) / scale


def expected_distinct(num_classes: int, batch: int) -> float:
    """Distinct labels in a batch drawn evenly: C (1 - (1 - 1/C)^B)."""
    return num_classes * -math.expm1(batch * math.log1p(-1.0 / num_classes))


def most_on_rank(num_classes: int, *, drawn: int, own_classes: int) -> int:
    """A bound on how many of `drawn` classes fall to a rank that owns `own_classes`.

    Six deviations above the mean of the hypergeometric distribution: passed once in 10^9 steps.
    """
    share = own_classes / num_classes
    variance = drawn * share * (1 - share) * (num_classes - drawn) / max(num_classes - 1, 1)
    return min(own_classes, drawn, math.ceil(drawn * share + 6 * math.sqrt(variance)))
