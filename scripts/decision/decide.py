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

"""The decision, in one place: from statistics and a null to p, q and the subjects that leaked.

The audit and the metric of training loops both call :func:`decide`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from .criteria import Criteria, Method
from .null import Null
from .rates import Leaks, added_q_values, auc, auc_error, benjamini_hochberg, leaked_subjects

__all__ = ["Decision", "NullComparison", "called_if_added", "compare_nulls", "decide"]


@dataclass(frozen=True)
class Decision:
    """What is called among U generated images or volumes; arrays are (U,).

    `calls` counts what either kind of p-value would call; `leaks` is over subjects.
    """

    p_value: NDArray[np.float64]
    q_value: NDArray[np.float64]
    memorized: NDArray[np.bool_]
    calls: dict[Method, int]
    leaks: Leaks


def decide(
    statistic: NDArray, level: NDArray, nearest: NDArray, null: Null, criteria: Criteria, kind: NDArray | None = None
) -> Decision:
    """Return the decisions at the criteria's false-discovery rate: `memorized` is exactly q <= fdr.

    Args:
        statistic: (U,) of the generated images, -inf where there is none.
        level: (U,) slice levels, NaN where unknown.
        nearest: (U,) number of each one's best training subject, -1 for none.
        null: what the statistic is when nothing is copied.
        criteria: level and kind of p-value.
        kind: (U,) of each image, where the null has kinds.
    """
    by_method = {method: null.p_values(statistic, level, method, criteria, kind) for method in get_args(Method)}
    q_by_method = {method: benjamini_hochberg(p, criteria.adaptive) for method, p in by_method.items()}
    p, q = by_method[criteria.p_value], q_by_method[criteria.p_value]
    return Decision(
        p,
        q,
        q <= criteria.fdr,
        {method: int((values <= criteria.fdr).sum()) for method, values in q_by_method.items()},
        leaked_subjects(p[nearest >= 0], nearest[nearest >= 0]),
    )


def called_if_added(p: NDArray, more: NDArray, criteria: Criteria) -> NDArray[np.bool_]:
    """Return whether each p-value of `more` (M,) would be called if it alone joined those of `p` (U,)."""
    return added_q_values(p, more, criteria.adaptive) <= criteria.fdr


@dataclass(frozen=True)
class NullComparison:
    """What another null would have called of the same images (`calls`), the AUC of its statistics against the first
    null's (None where either has none), and whether the two agree."""

    calls: int
    auc: float | None
    agrees: bool


def compare_nulls(
    null: Null, other: Null, statistic: NDArray, level: NDArray, criteria: Criteria, kind: NDArray | None = None
) -> NullComparison:
    """Return what `other` would have called of statistics (U,) at levels (U,), against what `null` calls.

    They disagree if their statistics differ (an AUC that is not `matched`, of so many subjects) or too few
    (`agreement`) of the images that either calls are called by both: a holdout of another kind than the training
    images, or training subjects that resemble each other.
    """
    called, again = (
        benjamini_hochberg(each.p_values(statistic, level, criteria.p_value, criteria, kind), criteria.adaptive)
        <= criteria.fdr
        for each in (null, other)
    )
    finite = [each.statistic[np.isfinite(each.statistic)] for each in (null, other)]
    between = auc(*finite) if all(map(len, finite)) else None
    subjects = [len(np.unique(each.subject)) for each in (null, other)]
    alike = between is None or criteria.matched(between, auc_error(*subjects))
    agree = alike and (called & again).sum() >= criteria.agreement * (called | again).sum()
    return NullComparison(int(again.sum()), between, bool(agree))
