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

"""From aligned SSIM to decisions: the statistic, its null, p-values, and error rates over images and subjects.

Pure functions of arrays. Derivations and assumptions stand in docs/method.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

__all__ = [
    "Null",
    "NullSample",
    "auc",
    "benjamini_hochberg",
    "clustered_interval",
    "compare_nulls",
    "exact_interval",
    "group_p_values",
    "leaked_at_sample_sizes",
    "leaked_subjects",
    "local_statistic",
    "p_values",
    "rank_calls_needed",
    "set_level",
]

NEIGHBOURS = 5  # d1 is judged against the mean of d2 ... d5
LEAST_DISTANCE = 1e-6
LEAST_P = float(np.finfo(float).tiny)  # a p-value is never 0


class NullSample(NamedTuple):
    """Null values of the statistic that a query is judged against, one subject having total weight 1.

    `values` and `weights` are (V,): one value a subject, weight 1, where the slice level is known; else all slices of
    a subject, sharing its weight. With leave-one-subject-out, `subject` and `nearest` (V,) say whose value it is and
    which subject it was nearest to: two subjects that are each other's neighbour have one small distance between them,
    not two.
    """

    values: NDArray[np.float64]
    weights: NDArray[np.float64]
    subject: NDArray[np.int64] | None = None
    nearest: NDArray[np.int64] | None = None

    @property
    def subjects(self) -> int:
        return int(round(self.weights.sum()))


@dataclass(frozen=True)
class Null:
    """The statistic of real images that nothing copied.

    `statistic` (V,) of each image, `subject` (V,) whose it is, `level` (V,) its slice level or NaN. `correction` is 1
    with a holdout; 2 with leave-one-subject-out, where the closest two subjects are each other's neighbour and
    P(p <= 1 / (n + 1)) would be 2 / (n + 1). There `nearest` (V,) is the subject that each image was nearest to.
    """

    statistic: NDArray[np.float64]
    subject: NDArray[np.int64]
    level: NDArray[np.float64]
    correction: int
    nearest: NDArray[np.int64] | None = None

    def at(self, level: float) -> NullSample:
        """Return each subject's value at the level nearest to the given one; where levels are unknown, all values."""
        if not np.isfinite(level) or not np.isfinite(self.level).all():
            _, inverse, count = np.unique(self.subject, return_inverse=True, return_counts=True)
            return NullSample(self.statistic, 1.0 / count[inverse], self.subject, self.nearest)
        order = np.lexsort((np.abs(self.level - level), self.subject))
        chosen = order[np.unique(self.subject[order], return_index=True)[1]]
        nearest = None if self.nearest is None else self.nearest[chosen]
        return NullSample(self.statistic[chosen], np.ones(len(chosen)), self.subject[chosen], nearest)

    def p_values(self, statistic: NDArray, level: NDArray, method: str = "tail") -> NDArray[np.float64]:
        """Return the p-value of each statistic (Q,) at its level (Q,), NaN where unknown."""
        p = np.ones(len(statistic))
        levels, inverse = np.unique(level, return_inverse=True)  # all NaN are one
        for number, value in enumerate(levels):
            here = inverse == number
            p[here] = p_values(statistic[here], self.at(value), self.correction, method)
        return p

    def subjects(self, level: NDArray) -> int:
        """Return the least number of subjects that any of the levels (Q,) is judged against."""
        return min((self.at(value).subjects for value in np.unique(level)), default=0)


def local_statistic(aligned_ssim: NDArray) -> NDArray[np.float64]:
    """Return T = mean(log d2 ... log d5) - log d1 of each row of aligned SSIM (Q, k), -inf where fewer than 5 exist.

    d = max(1 - aligned SSIM, 1e-6) sorted, so the columns' order does not matter. It asks how much closer the best
    subject is than the next ones: what blurs or brightens all of them alike cancels to first order.
    """
    aligned_ssim = np.atleast_2d(np.asarray(aligned_ssim, float))
    if aligned_ssim.shape[1] < NEIGHBOURS:
        return np.full(len(aligned_ssim), -np.inf)
    distance = np.where(np.isfinite(aligned_ssim), np.maximum(1 - aligned_ssim, LEAST_DISTANCE), np.inf)
    logs = np.log(np.sort(distance, axis=1)[:, :NEIGHBOURS])
    known = np.isfinite(logs).all(1)
    statistic = np.full(len(logs), -np.inf)
    statistic[known] = logs[known, 1:].mean(1) - logs[known, 0]
    return statistic


def p_values(statistic: NDArray, null: NullSample, correction: int, method: str = "tail") -> NDArray[np.float64]:
    """Return the p-values of statistics under one null sample, in (0, 1], shape as given.

    Args:
        statistic: T of the queries, an array or a number; -inf and NaN give 1.
        null: what T is when nothing is copied.
        correction: as in :class:`Null`.
        method: `rank`, exact under exchangeability with floor correction / (n + 1); or `tail`, which above the
            (K + 1)-th largest null value continues with an exponential tail (Hill 1975; Weissman 1978), as T is a
            difference of logarithms and distances have a power law near 0.

    Raises:
        ValueError: for another method or a correction below 1.
    """
    if method not in ("rank", "tail") or correction < 1:
        raise ValueError(f"method must be rank or tail and correction at least 1, got {method!r} and {correction}")
    statistic = np.asarray(statistic, float)
    n = null.subjects
    if n < 1:
        return np.ones(statistic.shape)
    order = np.argsort(null.values)
    above = np.r_[np.cumsum(null.weights[order][::-1])[::-1], 0]  # weight of the null from each value upwards
    p = (correction + above[np.searchsorted(null.values[order], statistic, side="left")]) / (n + 1)
    if method == "tail" and (tail := _tail(null, n)) is not None:
        k, threshold, mean, independent = tail
        base = min(1.0, (k + correction) / (n + 1))
        # an exponential tail whose mean is itself estimated, from so many excesses: its predictive is this Pareto form
        with np.errstate(invalid="ignore", divide="ignore"):
            far = np.maximum(base * (1 + (statistic - threshold) / (independent * mean)) ** -independent, LEAST_P)
        p = np.where(statistic > threshold, far, p)
    return np.where(np.isneginf(statistic) | np.isnan(statistic), 1.0, np.minimum(1.0, p))


def _tail(null: NullSample, n: int) -> tuple[float, float, float, float] | None:
    """Return K, the (K + 1)-th largest value, the mean excess over it and how many of the K excesses are independent.

    None where the null leaves no tail to fit.
    """
    k = min(n - 1, max(2, n // 2), 60, max(20, int(np.ceil(0.2 * n))))
    if k < 2:
        return None
    order = np.argsort(-null.values, kind="stable")
    values, weights = null.values[order], null.weights[order]
    above = np.cumsum(weights)
    index = int(np.searchsorted(above, k + 1e-9, side="right"))  # the first value with more than K subjects' weight
    if index == 0 or index >= len(values) or not np.isfinite(values[index]):
        return None
    total = float(weights[:index].sum())
    mean = float((weights[:index] * (values[:index] - values[index])).sum()) / total
    if mean <= 0:
        return None
    return total, float(values[index]), mean, _independent(null, order[:index], total)


def _independent(null: NullSample, rows: NDArray, total: float) -> float:
    """Return the weight of the rows (of `total`), counting two subjects that are each other's neighbour as one."""
    if null.subject is None or null.nearest is None:
        return total
    a, b = null.subject[rows], null.nearest[rows]
    _, pair = np.unique(np.stack([np.minimum(a, b), np.maximum(a, b)]), axis=1, return_inverse=True)
    first, second = (np.bincount(pair, null.weights[rows] * side) for side in (a < b, a >= b))
    return float(np.maximum(first, second).sum())


def benjamini_hochberg(p: NDArray) -> NDArray[np.float64]:
    """Return the adjusted p-values q, so that calling q <= a controls the false-discovery rate at a.

    Benjamini and Hochberg 1995, for independent or positively dependent p-values.
    """
    p = np.asarray(p, float)
    return stats.false_discovery_control(p, method="bh") if len(p) else p


def leaked_subjects(p: NDArray, nearest: NDArray) -> tuple[NDArray, NDArray[np.float64], NDArray[np.float64]]:
    """Return the subjects that any image is nearest to, with p and q: is at least one of their images a copy?

    p of a subject is min(1, m min p) over the m images nearest to it (Bonferroni); q is Benjamini-Hochberg over
    subjects.
    """
    names = np.unique(np.asarray(nearest))
    combined = np.array([min(1.0, (nearest == s).sum() * np.min(p[nearest == s])) for s in names])
    return names, combined, benjamini_hochberg(combined)


def rank_calls_needed(images: int, subjects: int, correction: int, fdr: float) -> int:
    """Return how many images must be copies before rank p-values can call any: ceil(c m / (q (n + 1)))."""
    # less rounding noise: 0.3 * 3 is not exactly 0.9
    return int(np.ceil(correction * images / (fdr * (subjects + 1)) - 1e-9))


def group_p_values(p: NDArray, group: Sequence[str]) -> tuple[list[str], NDArray[np.float64], NDArray[np.float64]]:
    """Return the groups in order of their names, with p and q: is at least one image of the group a copy?

    A group is all images of one prompt or record. Its p is min(1, n_g min p) over its n_g images (Bonferroni, as they
    are not independent); q is Benjamini-Hochberg over groups.
    """
    p = np.asarray(p, float)
    names, index = np.unique(np.asarray(group), return_inverse=True)
    combined = np.array([min(1.0, (index == g).sum() * p[index == g].min()) for g in range(len(names))])
    return [str(name) for name in names], combined, benjamini_hochberg(combined)


def leaked_at_sample_sizes(copies: NDArray, total: int, sizes: NDArray) -> NDArray[np.float64]:
    """Return how many subjects a sample of each size is expected to leak.

    Of `total` generated images, `copies` (S,) are called copies of each subject. A random sample of m of them misses a
    subject with c copies with probability C(total - c, m) / C(total, m) (rarefaction, Hurlbert 1971). Two models are
    compared at one size, because leaked subjects grow with the number of samples whatever the model.

    Raises:
        ValueError: if the copies are more than `total` or a size is outside [0, total].
    """
    copies, sizes = np.asarray(copies, int), np.asarray(sizes, int)
    if copies.sum() > total or (sizes < 0).any() or (sizes > total).any():
        raise ValueError(f"copies and sizes must be within {total} images, got {copies.sum()} and {sizes.tolist()}")
    missed = stats.hypergeom.pmf(0, total, copies[None, :], sizes[:, None])  # (sizes, S)
    return (1 - missed).sum(1)


def exact_interval(count: int, total: int, level: float = 0.95) -> tuple[float, float]:
    """Return Clopper and Pearson's (1934) interval of a share of independent units; (0, 1) when nothing was counted.

    Its coverage is never below `level`. At zero its upper end is 1 - ((1 - level) / 2)^(1 / total), which the rule of
    three, 3 / total, states one-sided.
    """
    if total == 0:
        return 0.0, 1.0
    interval = stats.binomtest(int(count), int(total)).proportion_ci(level, method="exact")
    return float(interval.low), float(interval.high)


def clustered_interval(
    flag: NDArray, cluster: NDArray, rng: np.random.RandomState, draws: int = 2000, level: float = 0.95
) -> tuple[float, float]:
    """Return the interval of the mean of `flag` (N,) whose units share a `cluster` (N,), by resampling clusters.

    Copies of one subject stand and fall together, so images are not independent units. Where no cluster or every one
    is flagged, resampling shows no spread: the exact interval over clusters is given instead.
    """
    flag = np.asarray(flag, float)
    index = np.unique(np.asarray(cluster), return_inverse=True)[1]
    hits, sizes = np.bincount(index, flag), np.bincount(index)
    clusters = len(sizes)
    if not 0 < flag.sum() < len(flag):
        return exact_interval(clusters if flag.sum() else 0, clusters, level)
    times = rng.multinomial(clusters, np.full(clusters, 1 / clusters), draws)
    tail = 50 * (1 - level)
    low, high = np.percentile(times @ hits / (times @ sizes), [tail, 100 - tail])
    return float(low), float(high)


def auc(positive: NDArray, negative: NDArray) -> float:
    """Return the share of pairs in which the positive value is the higher, ties counting half; 0.5 is chance."""
    return float(stats.mannwhitneyu(positive, negative).statistic / (len(positive) * len(negative)))


def compare_nulls(
    null: Null, other: Null, statistic: NDArray, level: NDArray, method: str, fdr: float
) -> dict[str, Any]:
    """Return what another null would have called of the same images, and whether the two agree.

    They disagree if their statistics differ (AUC outside 0.4-0.6) or less than 0.8 of the images that either calls are
    called by both: a holdout of another kind than the training images, or training subjects that resemble each other.
    """
    called, again = (benjamini_hochberg(each.p_values(statistic, level, method)) <= fdr for each in (null, other))
    finite = [each.statistic[np.isfinite(each.statistic)] for each in (null, other)]
    between = auc(*finite) if all(map(len, finite)) else None
    agree = (between is None or 0.4 <= between <= 0.6) and (called & again).sum() >= 0.8 * (called | again).sum()
    return {"calls": int(again.sum()), "auc": between, "agrees": bool(agree)}


def set_level(
    statistic: NDArray, null: NDArray, null_subjects: NDArray, rng: np.random.RandomState, draws: int = 500
) -> dict[str, Any]:
    """Return whether the set as a whole is nearer to train than real images are, none of which need be a copy.

    The AUC of the statistics (Q,) of generated images against those of the null (V,), its 95 % interval by resampling
    images and the null's subjects (slices of one are not independent), and the one-sided p-value of an AUC above 0.5.
    All None where either has no finite statistic.
    """
    finite = np.isfinite(null)
    if not np.isfinite(statistic).any() or not finite.any():
        return {"auc": None, "ci95": None, "p_value": None}
    null, null_subjects = null[finite], null_subjects[finite]
    names = np.unique(null_subjects)
    rows = {s: np.flatnonzero(null_subjects == s) for s in names}
    values = []
    for _ in range(draws):
        sample = np.concatenate([rows[s] for s in rng.choice(names, len(names))])
        values.append(auc(rng.choice(statistic, len(statistic)), null[sample]))
    p = (1 + np.count_nonzero(np.array(values) <= 0.5)) / (draws + 1)
    return {"auc": auc(statistic, null), "ci95": np.percentile(values, [2.5, 97.5]).tolist(), "p_value": p}
