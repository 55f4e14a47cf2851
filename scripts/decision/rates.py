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

"""Error rates and intervals over images, subjects, groups and whole sets: pure functions of arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from .null import Null

__all__ = [
    "auc",
    "benjamini_hochberg",
    "clustered_interval",
    "compare_nulls",
    "exact_interval",
    "group_p_values",
    "leaked_at_sample_sizes",
    "leaked_subjects",
    "rank_calls_needed",
    "set_level",
]


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
