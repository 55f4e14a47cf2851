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

"""Does what an audit calls memorized coincide with what a membership attack recognises?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from ..decision.labels import Label
from ..decision.rates import auc, exact_interval
from .scores import duplicate_auc
from .study_results import AttackedSubject, Group, Membership, Merit, SubjectLeak

__all__ = ["FALSE_ALARMS", "attacked_subjects", "coincidence"]

FALSE_ALARMS = 0.01  # share of those never seen that the cut may take for members; of fewer than 100 it is nobody


def attacked_subjects(
    rows: Sequence[Mapping[str, str]], leaks: Sequence[SubjectLeak], called: Mapping[str, int]
) -> list[AttackedSubject]:
    """Return the subjects of a membership.csv, each with the mean score of its images.

    A subject and not an image is the unit, as it is people who leak.

    Args:
        rows: of the table.
        leaks: the training subjects, as the audit found them.
        called: how many samples were called copies of a subject; none of those left out.
    """
    leaked = {leak.subject_id for leak in leaks if leak.leaked}
    members = {row["subject_id"] for row in rows if row["member"] == "1"}
    scores: dict[str, list[float]] = {}
    for row in rows:
        scores.setdefault(row["subject_id"], []).append(float(row["score"]))
    return [
        AttackedSubject(name, name in members, float(np.mean(found)), name in leaked, called.get(name, 0))
        for name, found in scores.items()
    ]


def coincidence(subjects: Sequence[AttackedSubject], draws: int = 2000, seed: int = 0) -> Membership:
    """Return how well an attack tells members from others, and members that leaked from members that did not.

    What the subjects cannot show has no value, but a reason. Spearman's correlation and the rate of true positives have
    no interval: the latter hangs on one or two of the others, of whom resampling draws no higher one.

    Args:
        subjects: members, and people whom the model never saw.
        draws, seed: of the intervals.

    Raises:
        ValueError: if there is no member, or a score is no finite number.
    """
    score = np.array([subject.score for subject in subjects], float)
    member = np.array([subject.member for subject in subjects], bool)
    if not member.any() or not np.isfinite(score).all():
        raise ValueError(
            f"scores: expected finite ones, of one member or more, found {member.sum()} members and "
            f"{(~np.isfinite(score)).sum()} scores that are not finite; attack the model again"
        )
    leaked = np.array([subject.leaked for subject in subjects], bool)
    called = np.array([subject.called for subject in subjects])
    alone = None if not member.all() else "nobody whom the model never saw"
    once = {0: "no member leaked", member.sum(): "every member leaked"}.get(leaked[member].sum())
    recognised, missed = (None, None) if alone else _recognised(score, member, leaked)
    return Membership(
        auc=_auc(score[member], score[~member], draws, seed, alone),
        tpr=Merit(recognised.subjects / int(member.sum())) if recognised else Merit(None, reason=alone),
        recognised=recognised,
        missed=missed,
        leaked_auc=_auc(score[member & leaked], score[member & ~leaked], draws, seed, once),
        called_correlation=_correlation(score[member], called[member]),
        subjects=list(subjects),
    )


def _recognised(score: NDArray, member: NDArray, leaked: NDArray) -> tuple[Group, Group]:
    """Return the members above the lowest cut that few enough of the others pass, and the other members."""
    others = np.sort(score[~member])[::-1]
    above = score > others[int(FALSE_ALARMS * len(others) + 1e-9)]  # less rounding noise: 0.01 * 2900 is below 29
    recognised, missed = member & above, member & ~above
    groups = [Group(int(kind.sum()), int((kind & leaked).sum())) for kind in (recognised, missed)]
    return groups[0], groups[1]


def _auc(positive: NDArray, negative: NDArray, draws: int, seed: int, reason: str | None) -> Merit:
    """Return P(positive > negative), ties half, with its interval from resampling subjects of either kind.

    Where all pairs agree, resampling shows no spread. Then the interval is the exact one of as many pairs as have no
    subject in common: those are independent.
    """
    if reason is not None:
        return Merit(None, reason=reason)
    value = auc(positive, negative)
    if value in (0.0, 1.0):
        pairs = min(len(positive), len(negative))
        return Merit(value, exact_interval(int(value) * pairs, pairs))
    rng = np.random.RandomState(seed)
    weights = [rng.multinomial(len(kind), np.full(len(kind), 1 / len(kind)), draws) for kind in (positive, negative)]
    label = np.repeat([Label.DUPLICATE, Label.DIFFERENT], [len(positive), len(negative)])
    values = duplicate_auc(np.r_[positive, negative], label, np.concatenate(weights, axis=1).astype(float))
    low, high = np.percentile(values, [2.5, 97.5])
    return Merit(value, (float(low), float(high)))


def _correlation(score: NDArray, called: NDArray) -> Merit:
    """Return Spearman's correlation, where there is one."""
    if not called.any():
        return Merit(None, reason="no sample was called")
    for values, what in ((called, "samples called"), (score, "score")):
        if (values == values[0]).all():
            return Merit(None, reason=f"every member has the same {what}")
    return Merit(float(spearmanr(score, called).statistic))
