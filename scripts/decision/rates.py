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
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

__all__ = [
    "Leaks",
    "added_q_values",
    "auc",
    "auc_error",
    "benjamini_hochberg",
    "clustered_interval",
    "exact_interval",
    "group_p_values",
    "leaked_at_sample_sizes",
    "leaked_subjects",
    "rank_calls_needed",
]


MOST_COUNTS = 1 << 22  # of resampled clusters that are held at a time
HIGH_P = 0.5  # p-values above it are taken to be of nulls, and nulls to be uniform


def benjamini_hochberg(p: NDArray, adaptive: bool = False) -> NDArray[np.float64]:
    """Return the adjusted p-values q, so that calling q <= a controls the false-discovery rate at a.

    Benjamini and Hochberg 1995, for independent or positively dependent p-values. `adaptive` multiplies q by the share
    of nulls, estimated from the p-values above one half (Storey 2002), which gains power where many are no nulls; with
    p-values from a common null sample it still controls the rate (Bates et al. 2023).

    Raises:
        ValueError: if a p-value is outside [0, 1] or not a number.
    """
    p = np.asarray(p, float)
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError("p-values must lie between 0 and 1")
    if not len(p):
        return p
    nulls = _share_of_nulls((p > HIGH_P).sum(), len(p)) if adaptive else 1.0
    return nulls * stats.false_discovery_control(p, method="bh")


def added_q_values(p: NDArray, more: NDArray, adaptive: bool = False) -> NDArray[np.float64]:
    """Return the q-value that each of `more` (M,) has where it alone joins the p-values `p` (U,).

    As :func:`benjamini_hochberg` of each list of U + 1, in O((U + M) log U).

    Raises:
        ValueError: if a p-value is outside [0, 1] or not a number.
    """
    p, more = np.sort(np.asarray(p, float)), np.asarray(more, float)
    for values in (p, more):
        if not ((values >= 0) & (values <= 1)).all():
            raise ValueError("p-values must lie between 0 and 1")
    total = len(p) + 1
    rank = np.searchsorted(p, more, side="right")  # how many are at most as large
    after = p * (total / np.arange(2, total + 1))  # those behind it move back by one place
    least = np.r_[np.minimum.accumulate(after[::-1])[::-1], np.inf]
    q = np.minimum(np.minimum(more * (total / (rank + 1)), least[rank]), 1.0)
    return q * _share_of_nulls((p > HIGH_P).sum() + (more > HIGH_P), total) if adaptive else q


def _share_of_nulls(high: NDArray | int, total: int) -> NDArray[np.float64]:
    """Return the estimated share of nulls among so many p-values of which `high` lie above one half."""
    return np.minimum(1.0, (1 + high) / (total * (1 - HIGH_P)))


@dataclass(frozen=True)
class Leaks:
    """Which subjects leaked: `subject` (S,) numbers that any image is nearest to, each with its p and q."""

    subject: NDArray[np.int64]
    p_value: NDArray[np.float64]
    q_value: NDArray[np.float64]

    def at(self, fdr: float) -> NDArray[np.int64]:
        """Return the subjects called at a false-discovery rate."""
        return self.subject[self.q_value <= fdr]


def leaked_subjects(p: NDArray, nearest: NDArray) -> Leaks:
    """Return the subjects that any image is nearest to, with p and q: is at least one of their images a copy?

    p of a subject is min(1, m min p) over the m images nearest to it (Bonferroni); q is Benjamini-Hochberg over
    subjects.
    """
    names, index, count = np.unique(np.asarray(nearest), return_inverse=True, return_counts=True)
    least = np.full(len(names), np.inf)
    np.minimum.at(least, index, p)
    combined = np.minimum(1.0, count * least)
    return Leaks(names, combined, benjamini_hochberg(combined))


def rank_calls_needed(images: int, subjects: int, correction: int, fdr: float) -> int:
    """Return how many images must be copies before rank p-values can call any: ceil(c m / (q (n + 1)))."""
    # less rounding noise: 0.3 * 3 is not exactly 0.9
    return int(np.ceil(correction * images / (fdr * (subjects + 1)) - 1e-9))


def group_p_values(p: NDArray, group: Sequence[str]) -> tuple[list[str], NDArray[np.float64], NDArray[np.float64]]:
    """Return the groups in order of their names, with p and q: is at least one image of the group a copy?

    A group is all images of one prompt or record. As of :func:`leaked_subjects`, its p is min(1, n_g min p) over its
    n_g images, as they are not independent; q is Benjamini-Hochberg over groups.
    """
    names, index = np.unique(np.asarray(group), return_inverse=True)
    found = leaked_subjects(np.asarray(p, float), index)
    return [str(name) for name in names], found.p_value, found.q_value


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
    number, subjects = np.unique(copies[copies > 0], return_counts=True)  # many subjects have as many copies
    missed = stats.hypergeom.pmf(0, total, number[None, :], sizes[:, None])  # (sizes, numbers)
    return (1 - missed) @ subjects


def exact_interval(count: int, total: int, level: float = 0.95) -> tuple[float, float]:
    """Return Clopper and Pearson's (1934) interval of a share of independent units; (0, 1) when nothing was counted.

    Its coverage is never below `level`. At zero its upper end is 1 - ((1 - level) / 2)^(1 / total), which the rule of
    three, 3 / total, states one-sided.

    Raises:
        ValueError: if not 0 <= count <= total.
    """
    if not 0 <= count <= total:
        raise ValueError(f"a count must lie within the total of {total}, got {count}")
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
    means, some = [], max(1, MOST_COUNTS // clusters)
    for start in range(0, draws, some):
        times = rng.multinomial(clusters, np.full(clusters, 1 / clusters), min(some, draws - start))
        means.append(times @ hits / (times @ sizes))
    tail = 50 * (1 - level)
    low, high = np.percentile(np.concatenate(means), [tail, 100 - tail])
    return float(low), float(high)


def auc(positive: NDArray, negative: NDArray) -> float:
    """Return the share of pairs in which the positive value is the higher, ties counting half; 0.5 is chance."""
    return float(stats.mannwhitneyu(positive, negative).statistic / (len(positive) * len(negative)))


def auc_error(first: int, second: int) -> float:
    """Return the standard error of the AUC of two samples of these sizes that are alike (Mann and Whitney 1947); 0 of
    none."""
    return float(np.sqrt((first + second + 1) / (12 * first * second))) if first and second else 0.0
