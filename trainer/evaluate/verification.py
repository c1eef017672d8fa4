"""Are two faces the same person? Accuracy over folds, ROC and TAR at a FAR, from one score a pair.

The LFW protocol: the threshold for a fold is the one that is best on all other folds. Scores are
cosines, larger meaning more alike; inside, they become distances 2 - 2*cosine, the squared length
between unit embeddings, accepted when strictly below a threshold, as insightface does. Numpy only:
nothing here knows how a score was made, so the baselines are measured by the same code.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int

from data_pipeline.keyed import uniform
from trainer.errors import RunError

INSIGHTFACE_THRESHOLDS = np.arange(0, 4, 0.01)
"""The squared distances that insightface and facenet try; for figures equal to theirs."""

FARS = (1e-1, 1e-2, 1e-3)
ROC_POINTS = 200
BOOTSTRAP_REPLICATES = 1000
BOOTSTRAP_SHARE = 0.95

Scores = Float64[np.ndarray, " pairs"]
Same = Bool[np.ndarray, " pairs"]
Folds = Int[np.ndarray, " pairs"]


@dataclass(frozen=True, kw_only=True, slots=True)
class FoldAccuracy:
    """Accuracy on each fold, under a threshold fitted on the others."""

    folds: tuple[float, ...]
    thresholds: tuple[float, ...]
    """As scores: a fold's pair is accepted when its score is above."""
    correct: Bool[np.ndarray, " pairs"]

    @property
    def accuracy(self) -> float:
        """Mean over folds."""
        return float(np.mean(self.folds))

    @property
    def std(self) -> float:
        """Standard deviation over folds (ddof 0, as published figures have it)."""
        return float(np.std(self.folds))


def fold_accuracy(
    score: Scores,
    same: Same,
    fold: Folds,
    *,
    distances: Float64[np.ndarray, " thresholds"] | None = None,
) -> FoldAccuracy:
    """Accuracy of each fold under the first best threshold of the other folds.

    By default every threshold that tells apart two pairs of the other folds is tried, halfway
    between their distances; `distances` names the ones to try instead. Of equally good ones the
    smallest distance, so the strictest, is taken.
    """
    distance = 2 - 2 * score
    numbers = np.unique(fold)
    if len(numbers) < 2:
        raise RunError("verification needs at least two folds, to fit a threshold on the others")
    correct = np.zeros(len(score), bool)
    accuracies, thresholds = [], []
    for number in numbers:
        test = fold == number
        best = _best_distance(distance[~test], same[~test], distances)
        correct[test] = (distance[test] < best) == same[test]
        accuracies.append(float(correct[test].mean()))
        thresholds.append(1 - best / 2)
    return FoldAccuracy(folds=tuple(accuracies), thresholds=tuple(thresholds), correct=correct)


def _best_distance(
    distance: Scores, same: Same, candidates: Float64[np.ndarray, " thresholds"] | None
) -> float:
    order = np.argsort(distance, kind="stable")
    distance, same = distance[order], same[order]
    if candidates is None:
        lower, upper = distance[:-1], distance[1:]
        between = np.maximum(lower + (upper - lower) / 2, np.nextafter(lower, np.inf))
        above_all = np.nextafter(distance[-1:], np.inf)
        candidates = np.concatenate([distance[:1], between[lower < upper], above_all])
    accepted = np.searchsorted(distance, candidates, side="left")
    same_below = np.concatenate([[0], np.cumsum(same)])[accepted]
    num_correct = same_below + (np.sum(~same) - (accepted - same_below))
    return float(candidates[np.argmax(num_correct)])


def bootstrap_interval(
    correct: Bool[np.ndarray, " pairs"], fold: Folds, *, seed: int = 0
) -> tuple[float, float]:
    """Where 95 % of accuracies lie when each fold's pairs are drawn anew, with replacement.

    Thresholds stay as fitted, and pairs count as independent although they share persons, so the
    interval is of the drawing of pairs alone. The draws are keyed: the same wherever it runs.
    """
    means = np.zeros(BOOTSTRAP_REPLICATES)
    numbers = np.unique(fold)
    for number in numbers:
        of_fold = correct[fold == number]
        shape = (BOOTSTRAP_REPLICATES, len(of_fold))
        drawn = uniform("bootstrap", seed, int(number), np.arange(np.prod(shape)).reshape(shape))
        means += of_fold[(drawn * len(of_fold)).astype(np.int64)].mean(1)
    tail = (1 - BOOTSTRAP_SHARE) / 2
    low, high = np.quantile(means / len(numbers), [tail, 1 - tail])
    return float(low), float(high)


def accept_rates(
    score: Scores, same: Same, false_accepts: Int[np.ndarray, " points"]
) -> Float64[np.ndarray, " points"]:
    """Share of same pairs accepted when at most so many different pairs are."""
    positive, negative = np.sort(score[same]), np.sort(score[~same])[::-1]
    # Accepting what is above the (k+1)-th largest different score accepts at most k of them.
    threshold = np.append(negative, -np.inf)[false_accepts]
    rejected = np.searchsorted(positive, threshold, side="right")
    return 1 - rejected / len(positive)


def tar_at(score: Scores, same: Same, far: float) -> float:
    """Largest true-accept rate at a false-accept rate of at most `far`, over all pairs."""
    num_negatives = int(np.sum(~same))
    allowed = int(far * num_negatives + 1e-9)  # 0.29 * 100 is 28.999999999999996
    return float(accept_rates(score, same, np.array([allowed]))[0])


def roc(
    score: Scores, same: Same, *, points: int = ROC_POINTS
) -> tuple[Float64[np.ndarray, " points"], Float64[np.ndarray, " points"]]:
    """False- and true-accept rates, at most `points`, denser where few are falsely accepted."""
    num_negatives = int(np.sum(~same))
    spaced = np.rint(np.geomspace(1, num_negatives, points - 1)).astype(np.int64)
    false_accepts = np.unique(np.append(spaced, 0))
    return false_accepts / num_negatives, accept_rates(score, same, false_accepts)


def area_under_roc(score: Scores, same: Same) -> float:
    """Chance that a same pair scores above a different pair, a tie counting half."""
    negative = np.sort(score[~same])
    below = np.searchsorted(negative, score[same], side="left")
    not_above = np.searchsorted(negative, score[same], side="right")
    return float(np.mean(below + not_above) / (2 * len(negative)))


@dataclass(frozen=True, kw_only=True, slots=True)
class Verification:
    """What one evaluation of a pair set found."""

    accuracy: float
    accuracy_std: float
    interval: tuple[float, float]
    """95 % bootstrap interval of the accuracy."""
    threshold: float
    """Mean over folds of the fitted cosine thresholds."""
    tar: dict[str, float]
    """True-accept rate by false-accept rate, written like 1e-3."""
    auc: float
    far_points: tuple[float, ...]
    tar_points: tuple[float, ...]
    num_pairs: int

    def record(
        self, *, step: int, name: str, clock: Callable[[], float] = time.time
    ) -> dict[str, Any]:
        """The fields of a line of evaluations.jsonl."""
        return {
            "step": step,
            "set": name,
            "accuracy": self.accuracy,
            "accuracy_std": self.accuracy_std,
            "threshold": self.threshold,
            "tar": self.tar,
            "auc": self.auc,
            "roc": {"far": list(self.far_points), "tar": list(self.tar_points)},
            "num_pairs": self.num_pairs,
            "interval": list(self.interval),
            "time": clock(),
        }


def measure(
    score: Scores,
    same: Same,
    fold: Folds,
    *,
    distances: Float64[np.ndarray, " thresholds"] | None = None,
    seed: int = 0,
) -> Verification:
    """Everything reported of a pair set, from one score a pair."""
    if num_bad := int(np.sum(~np.isfinite(score))):
        raise RunError(
            f"{num_bad} of {len(score)} pair scores are not finite: the network's weights have "
            "diverged; lower the learning rate and start from an earlier checkpoint"
        )
    if same.all() or not same.any():
        raise RunError("a verification set needs pairs of the same and of different persons")
    folds = fold_accuracy(score, same, fold, distances=distances)
    false_accept, true_accept = roc(score, same)
    return Verification(
        accuracy=folds.accuracy,
        accuracy_std=folds.std,
        interval=bootstrap_interval(folds.correct, fold, seed=seed),
        threshold=float(np.mean(folds.thresholds)),
        tar={f"{far:.0e}".replace("e-0", "e-"): tar_at(score, same, far) for far in FARS},
        auc=area_under_roc(score, same),
        far_points=tuple(false_accept.tolist()),
        tar_points=tuple(true_accept.tolist()),
        num_pairs=len(score),
    )
