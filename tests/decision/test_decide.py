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

from dataclasses import replace

import numpy as np
import pytest
from scripts.decision.criteria import Criteria
from scripts.decision.decide import NullComparison, called_if_added, compare_nulls, decide
from scripts.decision.null import Null
from scripts.decision.rates import benjamini_hochberg, leaked_subjects


def test_two_nulls_agree_or_not():
    rng = np.random.default_rng(9)
    level = np.full(40, np.nan)
    statistic = np.r_[rng.gumbel(size=30).clip(max=1.5), np.full(10, 20.0)]

    def null(shift: float, correction: int) -> Null:
        return Null(rng.gumbel(size=200) + shift, np.arange(200), np.full(200, np.nan), correction)

    same = compare_nulls(null(0, 1), null(0, 2), statistic, level, Criteria())
    assert same.agrees and same.calls == 10 and same.auc == pytest.approx(0.5, abs=0.08)
    # images of a training set that resemble each other stand out among themselves
    apart = compare_nulls(null(0, 1), null(3, 2), statistic, level, Criteria())
    assert not apart.agrees and apart.auc < 0.2
    few = compare_nulls(
        null(0, 1), Null(np.full(3, -np.inf), np.arange(3), np.full(3, np.nan), 2), statistic, level, Criteria()
    )
    assert few == NullComparison(0, None, False)


def test_few_subjects_do_not_make_equal_nulls_disagree():
    rng, level, agreed = np.random.default_rng(0), np.full(40, np.nan), {20: 0, 200: 0}
    for subjects in agreed:
        for _ in range(200):
            drawn = (Null(rng.gumbel(size=subjects), np.arange(subjects), np.full(subjects, np.nan), 1) for _ in "ab")
            agreed[subjects] += compare_nulls(*drawn, np.zeros(40), level, Criteria()).agrees
    assert agreed[20] > 180 and agreed[200] > 190  # a range of 0.4 to 0.6 alone would refuse a fourth of the first
    apart = (Null(rng.gumbel(size=20) + shift, np.arange(20), np.full(20, np.nan), 1) for shift in (0.0, 2.0))
    assert not compare_nulls(*apart, np.zeros(40), level, Criteria()).agrees


def test_a_decision_is_its_parts():
    rng = np.random.default_rng(0)
    null = Null(rng.gumbel(size=80), np.arange(80), np.full(80, np.nan), 2)
    statistic, level = np.r_[rng.gumbel(size=20), 12, 14], np.full(22, np.nan)
    nearest = np.r_[rng.integers(0, 9, 20), 3, -1]
    for method in ("tail", "rank"):
        found = decide(statistic, level, nearest, null, Criteria(fdr=0.1, p_value=method))
        p = null.p_values(statistic, level, method)
        np.testing.assert_allclose(found.p_value, p)
        np.testing.assert_allclose(found.q_value, benjamini_hochberg(p))
        assert (found.memorized == (found.q_value <= 0.1)).all()
        leaks = leaked_subjects(p[:21], nearest[:21])  # the last has no subject
        assert found.leaks.subject.tolist() == leaks.subject.tolist()
        np.testing.assert_allclose(found.leaks.q_value, leaks.q_value)
    assert (
        found.calls == {"tail": 2, "rank": 0}
        and found.leaks.at(0.5).tolist() == leaks.subject[leaks.q_value <= 0.5].tolist()
    )


def test_nothing_to_decide():
    null = Null(np.arange(9.0), np.arange(9), np.full(9, np.nan), 1)
    found = decide(np.zeros(0), np.zeros(0), np.zeros(0, int), null, Criteria())
    assert len(found.memorized) == 0 and found.calls == {"tail": 0, "rank": 0} and len(found.leaks.at(0.05)) == 0


def test_one_more_image_is_called_as_if_it_had_been_among_them():
    p, more = np.array([0.001, 0.2, 0.9]), np.array([0.02, 0.03, 0.5])
    expected = [bool(benjamini_hochberg([*p, value])[3] <= 0.05) for value in more]
    assert called_if_added(p, more, Criteria()).tolist() == expected == [True, False, False]


def ranks(count: int) -> Null:
    """A null of the numbers 0 to count - 1, a subject each, in which p-values are counted easily."""
    return Null(np.arange(float(count)), np.arange(count), np.full(count, np.nan), 1)


def test_the_adaptive_rate_holds_for_every_call():
    """By hand: 6 of 100 null values lie above, so p = 7 / 101. No p exceeds one half: (1 + 0) / 5 are nulls."""
    null, statistic, level = ranks(100), np.full(10, 93.5), np.full(10, np.nan)
    for adaptive, q in ((False, 7 / 101), (True, 0.2 * 7 / 101)):
        criteria = Criteria(p_value="rank", adaptive=adaptive)
        found = decide(statistic, level, np.zeros(10, int), null, criteria)
        np.testing.assert_allclose(found.q_value, q)
        assert found.calls["rank"] == found.memorized.sum() == (10 if adaptive else 0)
        assert compare_nulls(null, null, statistic, level, criteria).calls == (10 if adaptive else 0)
        assert called_if_added(found.p_value[1:], found.p_value[:1], criteria).tolist() == [adaptive]


def test_another_null_is_judged_by_the_same_tail():
    null, level = ranks(100), np.full(1, np.nan)
    long, short = Criteria(), Criteria(tail_least=2, tail_share=0.01)
    p = [null.p_values(np.array([140.0]), level, criteria=criteria)[0] for criteria in (long, short)]
    between = sum(p) / 2
    calls = [
        compare_nulls(null, null, np.array([140.0]), level, replace(criteria, fdr=between)).calls
        for criteria in (long, short)
    ]
    assert calls == [int(value <= between) for value in p] and sum(calls) == 1


def test_what_lies_at_the_level_itself_is_called():
    null, statistic, level = ranks(100), np.array([93.5]), np.full(1, np.nan)
    criteria = Criteria(fdr=7 / 101, p_value="rank")
    found = decide(statistic, level, np.zeros(1, int), null, criteria)
    assert found.q_value.tolist() == [criteria.fdr] and found.memorized.all() and found.calls["rank"] == 1
    assert compare_nulls(null, null, statistic, level, criteria).calls == 1
    assert called_if_added(np.zeros(0), found.p_value, criteria).all()
    none = called_if_added(found.p_value, np.zeros(0), criteria)
    assert none.dtype == bool and len(none) == 0


@pytest.mark.parametrize("value", [200.0, 50.0])  # all are called by both nulls, or none by either
def test_a_null_agrees_with_itself_however_much_agreement_is_wanted(value):
    criteria = Criteria(agreement=1.0)
    found = compare_nulls(ranks(100), ranks(100), np.full(10, value), np.full(10, np.nan), criteria)
    assert found == NullComparison(10 if value > 100 else 0, 0.5, True)
