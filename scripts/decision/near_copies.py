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

"""Which subjects of a set are one person: the audit's own question, asked of the set itself.

A person who stands in a set under two ids hides every copy of it: the copy has two best subjects and no peak. Such ids
are each other's nearest subject and far nearer than strangers come. How near strangers come is read off the *second*
nearest subjects, whom a twin does not touch, so that many twins in a set do not hide each other.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from .rates import benjamini_hochberg

__all__ = ["near_copies", "shared_people"]

# P(score > v) = exp(-RATE (v - START)) of strangers who are each other's nearest, an upper bound over populations of 3
# to 20 dimensions: benchmarks/validity.py asks whether strangers are merged. In units of the median second statistic,
# it needs no dimension.
RATE, START = 0.8, 1.6
# the 80th percentile of the second statistic over its median is 1.4 to 1.7 on slices of brains and in simulations; more
# where people come in groups
UPPER, UPPER_RATIO = 80, 1.7


def near_copies(
    statistic: NDArray, second: NDArray, subject: NDArray, nearest: NDArray, fdr: float, untested: int = 0
) -> list[list[int]]:
    """Return the groups of subjects that are one person, each ascending, in order.

    Of each pair of subjects that are each other's nearest, the score is the mean statistic of their images, those that
    are nearest to another one counting nothing. Pairs are called at a false-discovery rate (Benjamini and Hochberg);
    then each other subject that is as near to one of a called pair joins it. A person under more ids than the
    statistic compares is not found.

    Args:
        statistic: (U,) of images that were searched among the other subjects, -inf for none.
        second: (V,) the same without the nearest subject, of these images or of a random part of them.
        subject: (U,) number of the subject that an image is of.
        nearest: (U,) number of the other subject that it is nearest to, -1 for none.
        fdr: share of the called pairs that may be strangers.
        untested: pairs that stood out less before any was searched; they count as strangers.
    """
    scale = _scale(second)
    if scale is None:
        return []
    names, partner, score = _partners(statistic, subject, nearest)
    place = {int(name): i for i, name in enumerate(names)}
    back = np.array([place.get(int(other), -1) for other in partner])  # where the partner itself stands
    mutual = (back >= 0) & (partner[back] == names)
    first = np.flatnonzero(mutual & (names < partner))
    p = _p_value((score[first] + score[back[first]]) / 2 / scale)
    called = first[benjamini_hochberg(np.r_[p, np.ones(untested)])[: len(p)] <= fdr]
    if not len(called):
        return []
    known = np.isin(names, [names[called], partner[called]])
    least = p[np.isin(first, called)].max()
    more = np.flatnonzero(~known & np.isin(partner, names[known]) & (_p_value(score / scale) <= least))
    links = np.concatenate([called, more])
    return joined(np.stack([names[links], partner[links]], 1).tolist())


def joined(groups: Sequence[Sequence[int]]) -> list[list[int]]:
    """Return groups of numbers, each ascending, in order, with those that share a number as one; single numbers go."""
    links = [(group[0], other) for group in groups for other in group[1:]]
    if not links:
        return []
    a, b = np.array(links).T
    size = int(max(a.max(), b.max())) + 1
    component = connected_components(coo_array((np.ones(len(a)), (a, b)), shape=(size, size)), directed=False)[1]
    return sorted(np.flatnonzero(component == c).tolist() for c in np.unique(component[a]))


def shared_people(
    statistic: NDArray, second: NDArray, subject: NDArray, nearest: NDArray, fdr: float
) -> list[tuple[int, int]]:
    """Return pairs (subject of one set, subject of another) that are one person.

    As :func:`near_copies`, of images that were searched in another set: `nearest` are numbers of that set.
    """
    scale = _scale(second)
    if scale is None:
        return []
    names, partner, score = _partners(statistic, subject, nearest)
    called = benjamini_hochberg(_p_value(score / scale)) <= fdr
    return [(int(a), int(b)) for a, b in zip(names[called], partner[called])]


def _scale(second: NDArray) -> float | None:
    """Return what the second statistic of a stranger amounts to; None where there is none."""
    finite = second[np.isfinite(second)]
    if not len(finite):
        return None
    value = max(float(np.median(finite)), float(np.percentile(finite, UPPER)) / UPPER_RATIO)
    return value if value > 0 else None


def _partners(
    statistic: NDArray, subject: NDArray, nearest: NDArray
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Return the subjects (S,) that have any, the other (S,) that its images are nearest to, and their score (S,)."""
    usable = (nearest >= 0) & np.isfinite(statistic)
    names, number = np.unique(subject[usable], return_inverse=True)
    pairs, pair = np.unique(np.stack([number, nearest[usable]]), axis=1, return_inverse=True)
    total = np.bincount(pair.ravel(), statistic[usable])
    best = np.lexsort((-total, pairs[0]))[np.unique(np.sort(pairs[0]), return_index=True)[1]]
    return names, pairs[1][best], total[best] / np.bincount(number)


def _p_value(score: NDArray) -> NDArray[np.float64]:
    return np.exp(np.minimum(0.0, -RATE * (score - START)))
