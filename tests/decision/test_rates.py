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

import numpy as np
import pytest
from scipy import stats
from scripts.decision.rates import (
    added_q_values,
    auc,
    auc_error,
    benjamini_hochberg,
    clustered_interval,
    exact_interval,
    group_p_values,
    leaked_at_sample_sizes,
    leaked_subjects,
    rank_calls_needed,
)


def test_q_values_equal_a_loop_and_are_monotone_in_p():
    p = np.random.default_rng(5).uniform(size=40) ** 3
    ordered = np.sort(p)
    expected = [min(40 * ordered[j] / (j + 1) for j in range(40) if ordered[j] >= value) for value in p]
    q = benjamini_hochberg(p)
    np.testing.assert_allclose(q, expected)
    assert (np.diff(q[np.argsort(p)]) >= 0).all() and (q >= p).all() and q.max() <= 1
    assert len(benjamini_hochberg(np.zeros(0))) == 0
    assert benjamini_hochberg([0, 1, 1]).tolist() == [0, 1, 1]  # whole numbers
    for wrong in (1.5, -0.1, np.nan):
        with pytest.raises(ValueError, match="between 0 and 1"):
            benjamini_hochberg([0.5, wrong])


def test_adaptive_q_values_count_the_nulls():
    """Storey's: of 10 p-values 2 lie above one half, so (1 + 2) / (10 / 2) of them are taken to be nulls."""
    p = np.r_[np.full(8, 0.04), 0.6, 0.9]
    np.testing.assert_allclose(benjamini_hochberg(p, adaptive=True), 0.6 * benjamini_hochberg(p))
    uniform = np.linspace(0.01, 1, 100)
    np.testing.assert_allclose(benjamini_hochberg(uniform, adaptive=True), benjamini_hochberg(uniform))  # never above 1
    assert len(benjamini_hochberg(np.zeros(0), adaptive=True)) == 0


def test_adaptive_calls_keep_the_rate_and_gain_power():
    shares, recalls = {False: [], True: []}, {False: [], True: []}
    rng = np.random.default_rng(0)
    for _ in range(300):
        p = np.r_[stats.norm.sf(rng.normal(size=50) + 2.5), rng.uniform(size=50)]
        for adaptive in shares:
            called = benjamini_hochberg(p, adaptive) <= 0.1
            shares[adaptive].append(called[50:].sum() / max(1, called.sum()))
            recalls[adaptive].append(called[:50].mean())
    assert np.mean(shares[True]) < 0.11 and np.mean(recalls[True]) > np.mean(recalls[False]) + 0.05


def test_leaked_subjects_by_hand():
    found = leaked_subjects(np.array([0.01, 0.6, 0.9, 0.04, 0.8]), np.array([7, 7, 2, 4, 2]))
    assert found.subject.tolist() == [2, 4, 7]
    np.testing.assert_allclose(found.p_value, [1, 0.04, 0.02])
    np.testing.assert_allclose(found.q_value, [1, 0.06, 0.06])
    assert found.at(0.06 + 1e-9).tolist() == [4, 7] and found.at(0.05).tolist() == []
    assert len(leaked_subjects(np.zeros(0), np.zeros(0, int)).at(1)) == 0


@pytest.mark.parametrize(("images", "subjects", "correction"), [(300, 99, 1), (50, 30, 2), (7, 60, 1)])
def test_rank_calls_needed_is_where_the_first_call_appears(images, subjects, correction):
    needed = rank_calls_needed(images, subjects, correction, 0.05)
    floor = np.full(images, 1.0)
    for copies, called in ((needed - 1, False), (needed, True)):
        floor[:copies] = correction / (subjects + 1)
        assert (benjamini_hochberg(floor).min() <= 0.05 + 1e-12) == (called and copies <= images)


def test_exact_interval_inverts_two_binomial_tests():
    low, high = exact_interval(12, 40)
    assert stats.binom.sf(11, 40, low) == pytest.approx(0.025) and stats.binom.cdf(12, 40, high) == pytest.approx(0.025)
    assert exact_interval(0, 100) == pytest.approx((0, 1 - 0.025**0.01)) and exact_interval(0, 0) == (0, 1)
    assert exact_interval(0, 100, 0.9)[1] == pytest.approx(3 / 100, rel=0.02)  # one-sided 95 %: the rule of three
    for count, total in ((11, 10), (-1, 10), (1, 0)):
        with pytest.raises(ValueError, match=f"total of {total}, got {count}"):
            exact_interval(count, total)


@pytest.mark.parametrize("adaptive", [False, True])
def test_a_p_value_that_joins_others_has_the_q_of_the_longer_list(adaptive):
    rng = np.random.default_rng(0)
    for count in (0, 1, 7, 60):
        p = np.round(rng.random(count) ** 3, 2)  # with ties
        more = np.r_[np.round(rng.random(20) ** 3, 2), 0, 1, p[:3]]
        expected = [benjamini_hochberg(np.r_[p, value], adaptive)[-1] for value in more]
        np.testing.assert_allclose(added_q_values(p, more, adaptive), expected, rtol=1e-13)


@pytest.mark.parametrize(("p", "more"), [([0.5, 1.1], [0.5]), ([0.5], [-0.1]), ([0.5], [np.nan])])
def test_what_is_no_p_value_joins_none(p, more):
    with pytest.raises(ValueError, match="between 0 and 1"):
        added_q_values(np.array(p), np.array(more))


def test_a_clustered_interval_does_not_depend_on_the_memory(monkeypatch):
    rng = np.random.default_rng(0)
    flag, cluster = rng.random(300) < 0.3, rng.integers(0, 40, 300)
    whole = clustered_interval(flag, cluster, np.random.RandomState(0))
    monkeypatch.setattr("scripts.decision.rates.MOST_COUNTS", 100)
    assert clustered_interval(flag, cluster, np.random.RandomState(0)) == whole


def test_clustered_interval_covers_where_the_exact_one_does_not():
    rng, exact, clustered, sizes = np.random.RandomState(0), [], [], 8
    for _ in range(150):
        shares = rng.beta(0.4, 1.6, 60)  # whole clusters are flagged, or hardly any of them: mean 0.2
        flag = (rng.rand(60, sizes) < shares[:, None]).ravel()
        for found, (low, high) in (
            (exact, exact_interval(flag.sum(), len(flag))),
            (clustered, clustered_interval(flag, np.repeat(np.arange(60), sizes), rng, 400)),
        ):
            found.append(low <= 0.2 <= high)
    assert np.mean(exact) < 0.8 < 0.88 < np.mean(clustered)


@pytest.mark.parametrize(("level", "deviations"), [(0.95, 1.96), (0.8, 1.2816)])
def test_clustered_interval_of_single_images_is_the_normal_one_at_its_level(level, deviations):
    flag = np.arange(400) % 10 < 3
    low, high = clustered_interval(flag, np.arange(400), np.random.RandomState(0), 20_000, level)
    half = deviations * np.sqrt(0.3 * 0.7 / 400)
    np.testing.assert_allclose([low, high], [0.3 - half, 0.3 + half], atol=0.05 * half)


def test_clustered_interval_without_spread_is_the_exact_one_over_clusters():
    cluster = np.array([3, 3, 3, 5, 8])
    assert clustered_interval(np.zeros(5), cluster, np.random.RandomState(0)) == exact_interval(0, 3)
    assert clustered_interval(np.ones(5), cluster, np.random.RandomState(0)) == exact_interval(3, 3)


def test_groups_by_hand():
    names, p, q = group_p_values(np.array([0.01, 0.3, 0.04, 0.5, 0.9]), ["b", "b", "a", "b", "c"])
    assert names == ["a", "b", "c"]
    np.testing.assert_allclose(p, [0.04, 0.03, 0.9])
    np.testing.assert_allclose(q, [0.06, 0.06, 0.9])
    assert group_p_values(np.zeros(0), [])[0] == []


def test_leaked_at_sample_sizes_equals_drawing_samples():
    copies, total = np.array([0, 1, 3, 10]), 40
    expected = leaked_at_sample_sizes(copies, total, np.array([0, 1, 15, 40]))
    assert expected[[0, 3]].tolist() == [0, 3]  # nothing, and all that have a copy
    assert expected[1] == pytest.approx(14 / 40)  # one image leaks one subject if it is a copy
    owner = np.r_[np.repeat(np.arange(4), copies), np.full(26, -1)]
    rng = np.random.default_rng(0)
    drawn = [len(set(rng.choice(owner, 15, replace=False)) - {-1}) for _ in range(4000)]
    assert expected[2] == pytest.approx(np.mean(drawn), abs=0.05)
    with pytest.raises(ValueError, match="within 13 images, got 14"):
        leaked_at_sample_sizes(copies, 13, np.array([1]))


def test_auc_counts_pairs_and_ties_by_half():
    positive, negative = np.array([1, 3, 3, 8.0]), np.array([0, 3, 9.0])
    assert auc(positive, negative) == np.mean([(p > n) + 0.5 * (p == n) for p in positive for n in negative])


def test_the_error_of_an_auc_is_its_spread_among_samples_that_are_alike():
    rng = np.random.default_rng(3)
    for sizes in ((12, 30), (40, 8)):
        values = [auc(*(rng.normal(size=size) for size in sizes)) for _ in range(4000)]
        assert auc_error(*sizes) == pytest.approx(np.std(values), rel=0.05)
    assert auc_error(0, 5) == auc_error(5, 0) == 0.0


def test_one_flagged_image_is_enough_to_resample():
    """Of 20 images a sample of 20 holds the flagged one B(20, 1 / 20) times: 3 at most in 97.5 % and more."""
    low, high = clustered_interval(np.arange(20) == 7, np.arange(20), np.random.RandomState(0))
    assert (low, high) == pytest.approx((0, stats.binom.ppf(0.975, 20, 1 / 20) / 20))
