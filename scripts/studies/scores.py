# Copyright (c) MONAI Consortium
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#     http://www.apache.org/licenses/LICENSE-2.0
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""How well scores separate the three labels of pairs: figures of merit, thresholds, and a bootstrap over subjects."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..decision.labels import Label
from ..images.subjects import starts_of_runs

__all__ = [
    "best_of_subjects",
    "classify",
    "duplicate_auc",
    "fit_thresholds",
    "macro_f1",
    "pair_weights",
    "rate_at_false_alarms",
]


def macro_f1(label: NDArray, predicted: NDArray, weight: NDArray | None = None) -> NDArray[np.float64]:
    """Return the mean F1 of the three classes; `weight` (..., P) gives one value for each leading index."""
    weight = np.ones(len(label)) if weight is None else weight
    scores = []
    for c in Label:
        hit = (weight * ((label == c) & (predicted == c))).sum(-1)
        scores.append(
            2 * hit / np.maximum((weight * (label == c)).sum(-1) + (weight * (predicted == c)).sum(-1), 1e-12)
        )
    return np.mean(scores, axis=0)


def fit_thresholds(score: NDArray, label: NDArray, steps: int = 200) -> tuple[float, float]:
    """Return the two cuts on the score, different <= a < similar <= b < duplicate, of the highest macro-F1.

    Searched over `steps` quantiles of the scores, the same way for every method.
    """
    cuts = np.unique(np.quantile(score, np.linspace(0, 1, steps + 1)[1:-1]))
    # counts of each class above each cut give every confusion matrix
    above = np.stack([(score[None, label == c] > cuts[:, None]).sum(1) for c in Label])  # (3, C)
    total = np.bincount(label, minlength=len(Label))
    a, b = np.triu_indices(len(cuts))
    f_different = 2 * (total[0] - above[0, a]) / (total[0] + (total[:, None] - above[:, a]).sum(0))
    f_similar = 2 * (above[1, a] - above[1, b]) / (total[1] + (above[:, a] - above[:, b]).sum(0))
    f_duplicate = 2 * above[2, b] / np.maximum(total[2] + above[:, b].sum(0), 1)
    best = int(np.argmax(f_different + f_similar + f_duplicate))
    return float(cuts[a[best]]), float(cuts[b[best]])


def classify(score: NDArray, thresholds: tuple[float, float]) -> NDArray[np.int64]:
    """Return the label of each score by the two cuts, as a number."""
    return (score > thresholds[0]).astype(int) + (score > thresholds[1])


def duplicate_auc(score: NDArray, label: NDArray, weight: NDArray) -> NDArray[np.float64]:
    """Return P(score of a duplicate > score of another pair), ties half, for weights (..., P)."""
    order = np.argsort(score, kind="stable")
    starts = starts_of_runs(score[order])
    duplicate = label[order] == Label.DUPLICATE
    positive = np.add.reduceat(weight[..., order] * duplicate, starts, axis=-1)
    negative = np.add.reduceat(weight[..., order] * ~duplicate, starts, axis=-1)
    below = np.cumsum(negative, -1) - negative / 2
    return (positive * below).sum(-1) / np.maximum(positive.sum(-1) * negative.sum(-1), 1e-12)


def rate_at_false_alarms(
    score: NDArray, positive: NDArray, share: float, weight: NDArray | None = None
) -> NDArray[np.float64]:
    """Return the share of positives above the lowest cut that at most `share` of the others pass.

    `weight` (..., P) gives one value for each leading index.
    """
    weight = np.ones(len(score)) if weight is None else weight
    order = np.lexsort((positive, -score))  # of equal scores the others come first: a tie is no detection
    weight, positive = weight[..., order], positive[order]
    passed = np.cumsum(weight * ~positive, -1)
    hit = (weight * (positive & (passed <= share * passed[..., -1:] + 1e-9))).sum(-1)
    return hit / np.maximum((weight * positive).sum(-1), 1e-12)


def pair_weights(subject: NDArray, draws: int, rng: np.random.RandomState) -> NDArray[np.float64]:
    """Return bootstrap weights (draws, P): subjects are resampled, on both sides of a pair.

    A pair of subjects a and b counts n_a n_b times, one within a subject n_a times, n being multinomial counts.
    """
    number = int(subject.max()) + 1
    counts = rng.multinomial(number, np.full(number, 1 / number), draws).astype(float)
    first, second = counts[:, subject[:, 0]], counts[:, subject[:, 1]]
    return np.where(subject[:, 0] == subject[:, 1], first, first * second)


def best_of_subjects(score: NDArray, subject: NDArray) -> NDArray:
    """Return the best score (Q, S) of each subject's references, from (Q, R)."""
    order = np.argsort(subject, kind="stable")
    return np.maximum.reduceat(score[:, order], starts_of_runs(subject[order]), axis=1)
