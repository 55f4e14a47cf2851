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

"""What the statistic is where nothing is copied, and p-values under it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .criteria import Criteria, Method

__all__ = ["Null", "NullSample", "p_values"]


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
    P(p <= 1 / (n + 1)) would be 2 / (n + 1). There `nearest` (V,) is the subject that each image was nearest to. `kind`
    (V,) is given where the training set is of several kinds: an image is judged against those of its own.
    """

    statistic: NDArray[np.float64]
    subject: NDArray[np.int64]
    level: NDArray[np.float64]
    correction: int
    nearest: NDArray[np.int64] | None = None
    kind: NDArray[np.int64] | None = None

    def of_kind(self, kind: int) -> Null:
        """Return the null of the images of one kind."""
        if self.kind is None:
            return self
        mine = self.kind == kind
        nearest = None if self.nearest is None else self.nearest[mine]
        return Null(self.statistic[mine], self.subject[mine], self.level[mine], self.correction, nearest)

    def at(self, level: float) -> NullSample:
        """Return each subject's value at the level nearest to the given one; where levels are unknown, all values."""
        if not np.isfinite(level) or not np.isfinite(self.level).all():
            _, inverse, count = np.unique(self.subject, return_inverse=True, return_counts=True)
            return NullSample(self.statistic, 1.0 / count[inverse], self.subject, self.nearest)
        order = np.lexsort((np.abs(self.level - level), self.subject))
        chosen = order[np.unique(self.subject[order], return_index=True)[1]]
        nearest = None if self.nearest is None else self.nearest[chosen]
        return NullSample(self.statistic[chosen], np.ones(len(chosen)), self.subject[chosen], nearest)

    def p_values(
        self,
        statistic: NDArray,
        level: NDArray,
        method: Method = "tail",
        criteria: Criteria | None = None,
        kind: NDArray | None = None,
    ) -> NDArray[np.float64]:
        """Return the p-value of each statistic (Q,) at its level (Q,), NaN where unknown; as :func:`p_values`.

        `kind` (Q,) is asked for where the null has kinds.
        """
        p = np.ones(len(statistic))
        if self.kind is not None and kind is not None:
            for value in np.unique(kind):
                here = kind == value
                p[here] = self.of_kind(value).p_values(statistic[here], level[here], method, criteria)
            return p
        levels, inverse = np.unique(level, return_inverse=True)  # all NaN are one
        for number, value in enumerate(levels):
            here = inverse == number
            p[here] = p_values(statistic[here], self.at(value), self.correction, method, criteria)
        return p

    def subjects(self, level: NDArray, kind: NDArray | None = None) -> int:
        """Return the least number of subjects that any image, of these levels and kinds (Q,), is judged against."""
        if self.kind is not None and kind is not None:
            return min((self.of_kind(value).subjects(level[kind == value]) for value in np.unique(kind)), default=0)
        return min((self.at(value).subjects for value in np.unique(level)), default=0)


def p_values(
    statistic: ArrayLike, null: NullSample, correction: int, method: Method = "tail", criteria: Criteria | None = None
) -> NDArray[np.float64]:
    """Return the p-values of statistics under one null sample, in (0, 1], shape as given.

    Args:
        statistic: T of the queries, an array or a number; -inf and NaN give 1.
        null: what T is when nothing is copied.
        correction: as in :class:`Null`.
        method: `rank`, exact under exchangeability with floor correction / (n + 1); or `tail`, which above the
            (K + 1)-th largest null value continues with an exponential tail (Hill 1975; Weissman 1978), as T is a
            difference of logarithms and distances have a power law near 0.
        criteria: says how many null subjects make the tail; None: the default.

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
    if method == "tail" and (tail := _tail(null, (criteria or Criteria()).tail_subjects(n))) is not None:
        base = min(1.0, (tail.weight + correction) / (n + 1))
        # an exponential tail whose mean is itself estimated, from so many excesses: its predictive is this Pareto form
        with np.errstate(invalid="ignore", divide="ignore"):
            excess = (statistic - tail.threshold) / (tail.independent * tail.mean)
            far = np.maximum(base * (1 + excess) ** -tail.independent, LEAST_P)
        p = np.where(statistic > tail.threshold, far, p)
    return np.where(np.isneginf(statistic) | np.isnan(statistic), 1.0, np.minimum(1.0, p))


class _Tail(NamedTuple):
    """The null's largest values: so many subjects' `weight` above a `threshold`, their `mean` excess over it, and the
    weight of those that are `independent`."""

    weight: float
    threshold: float
    mean: float
    independent: float


def _tail(null: NullSample, k: int) -> _Tail | None:
    """Return the tail of k subjects above the (k + 1)-th largest value; None where the null leaves none to fit."""
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
    return _Tail(total, float(values[index]), mean, _independent(null, order[:index], total))


def _independent(null: NullSample, rows: NDArray, total: float) -> float:
    """Return the weight of the rows (of `total`), counting two subjects that are each other's neighbour as one."""
    if null.subject is None or null.nearest is None:
        return total
    a, b = null.subject[rows], null.nearest[rows]
    _, pair = np.unique(np.stack([np.minimum(a, b), np.maximum(a, b)]), axis=1, return_inverse=True)
    first, second = (np.bincount(pair, null.weights[rows] * side) for side in (a < b, a >= b))
    return float(np.maximum(first, second).sum())
