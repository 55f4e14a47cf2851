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

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
from scipy.stats import rankdata
from scripts.studies.coincidence import attacked_subjects, coincidence
from scripts.studies.study_results import AttackedSubject, Group, Membership, Merit, SubjectLeak
from sklearn.metrics import roc_auc_score, roc_curve


def subjects(members: int = 60, others: int = 40, leaked: int = 20, shift: float = 1.0) -> list[AttackedSubject]:
    """Members whose scores lie higher by `shift`, those of the first `leaked` by twice that; these have calls."""
    rng = np.random.default_rng(0)
    high = rng.normal(size=members) + shift * (1 + (np.arange(members) < leaked))
    low = rng.normal(size=others)
    found = [
        AttackedSubject(f"m{i}", True, float(score), i < leaked, int(rng.integers(1, 9)) if i < leaked else 0)
        for i, score in enumerate(high.round(1))  # with ties
    ]
    return found + [AttackedSubject(f"o{i}", False, float(score), False, 0) for i, score in enumerate(low.round(1))]


def columns(found: list[AttackedSubject]) -> tuple[np.ndarray, ...]:
    return tuple(np.array([getattr(s, name) for s in found]) for name in ("score", "member", "leaked", "called"))


@pytest.mark.parametrize("others", [40, 250])
def test_figures_are_those_of_scikit_learn(others):
    people = subjects(others=others)
    score, member, leaked, called = columns(people)
    found = coincidence(people, draws=50)
    assert found.auc.value == pytest.approx(roc_auc_score(member, score))
    false, true, _ = roc_curve(member, score, drop_intermediate=False)
    assert found.tpr.value == pytest.approx(true[false <= 0.01].max())
    assert found.leaked_auc.value == pytest.approx(roc_auc_score(leaked[member], score[member]))
    expected = np.corrcoef(rankdata(score[member]), rankdata(called[member]))[0, 1]
    assert found.called_correlation == Merit(pytest.approx(expected))
    cut = np.sort(score[~member])[::-1][others // 100]
    above = member & (score > cut)
    assert found.recognised == Group(above.sum(), (above & leaked).sum())
    assert found.missed == Group((member & ~above).sum(), (member & ~above & leaked).sum())


def test_the_interval_is_as_wide_as_theory_has_it():
    """Hanley and McNeil 1982: the standard error of an AUC."""
    a, m, n = (found := coincidence(subjects(300, 200))).auc.value, 300, 200
    q1, q2 = a / (2 - a), 2 * a * a / (1 + a)
    error = np.sqrt((a * (1 - a) + (m - 1) * (q1 - a * a) + (n - 1) * (q2 - a * a)) / (m * n))
    low, high = found.auc.ci95
    assert low < a < high and high - low == pytest.approx(2 * 1.96 * error, rel=0.25)


def test_scores_that_mean_nothing_are_no_coincidence():
    people = subjects(300, 200, shift=0.0)
    for found in (coincidence(people).auc, coincidence(people).leaked_auc):
        assert found.ci95[0] < 0.5 < found.ci95[1]


def test_where_all_pairs_agree_the_interval_is_exact():
    people = subjects(shift=100.0)
    found = coincidence(people)
    assert found.auc == Merit(1.0, (pytest.approx(0.025 ** (1 / 40)), 1.0))  # 40 pairs without a common subject
    assert found.leaked_auc.ci95[0] == pytest.approx(0.025 ** (1 / 20)) and found.tpr.value == 1
    assert found.recognised == Group(60, 20) and found.missed == Group(0, 0)
    lower = coincidence(subjects(shift=-100.0))
    assert lower.auc == Merit(0.0, (0.0, pytest.approx(1 - 0.025 ** (1 / 40)))) and lower.tpr.value == 0


@pytest.mark.parametrize(
    "people, undefined",
    [
        (subjects(leaked=0), {"leaked_auc": "no member leaked", "called_correlation": "no sample was called"}),
        (subjects(leaked=60), {"leaked_auc": "every member leaked"}),
        (subjects(others=0), dict.fromkeys(["auc", "tpr"], "nobody whom the model never saw")),
        (
            subjects(members=1, leaked=1),
            {"leaked_auc": "every member leaked", "called_correlation": "every member has the same samples called"},
        ),
        (
            [AttackedSubject(f"{i}", True, 0.5, i < 1, i) for i in range(4)],
            dict.fromkeys(["auc", "tpr"], "nobody whom the model never saw")
            | {"called_correlation": "every member has the same score"},
        ),
    ],
    ids=["none leaked", "all leaked", "no others", "one member", "one score"],
)
def test_what_cannot_be_said_has_a_reason_and_no_number(people, undefined):
    found = coincidence(people, draws=20)
    merits = {name: getattr(found, name) for name in ("auc", "tpr", "leaked_auc", "called_correlation")}
    assert {name: merit.reason for name, merit in merits.items() if merit.value is None} == undefined
    assert all(np.isfinite(merit.value) for name, merit in merits.items() if name not in undefined)
    assert (found.recognised is None) == ("auc" in undefined)
    text = json.dumps(asdict(found), allow_nan=False)
    assert Membership.of_json(json.loads(text)) == found


@pytest.mark.parametrize("score", [np.nan, -np.inf])
def test_scores_that_are_no_numbers_are_an_error(score):
    people = [*subjects(), AttackedSubject("x", True, score, False, 0)]
    with pytest.raises(ValueError, match="scores: expected finite ones, .* found 61 members and 1 scores .* attack"):
        coincidence(people)


def test_no_member_is_an_error():
    with pytest.raises(ValueError, match="of one member or more, found 0 members and 0 scores"):
        coincidence(subjects(members=0))


def test_a_subject_has_the_mean_score_of_its_images():
    rows = [
        {"subject_id": "a", "member": "1", "score": "-1"},
        {"subject_id": "b", "member": "1", "score": "-5"},
        {"subject_id": "a", "member": "1", "score": "-2"},
        {"subject_id": "c", "member": "0", "score": "-4"},
    ]
    assert attacked_subjects(rows, [SubjectLeak("a", 2, True), SubjectLeak("b", 1, False)], {"a": 3}) == [
        AttackedSubject("a", True, -1.5, True, 3),
        AttackedSubject("b", True, -5.0, False, 0),
        AttackedSubject("c", False, -4.0, False, 0),
    ]
