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
from scipy.spatial.distance import cdist

from scripts.decision.null import Null, NullSample, p_values
from scripts.decision.rates import (
    auc,
    benjamini_hochberg,
    clustered_interval,
    compare_nulls,
    exact_interval,
    group_p_values,
    leaked_at_sample_sizes,
    leaked_subjects,
    rank_calls_needed,
    set_level,
)
from scripts.decision.statistic import local_statistic


def one_each(values) -> NullSample:
    return NullSample(np.asarray(values, float), np.ones(len(values)))


def test_statistic_worked_out_by_hand():
    # d = 1/16, 1/8, 1/4, 1/2, 1, so T = (4 - (3 + 2 + 1 + 0) / 4) log 2; the sixth and the order do not count
    got = local_statistic([[0.75, 0.9375, -0.5, 0, 0.875, 0.5], [0.5, -0.5, 0.9375, 0.875, 0, 0.75]])
    np.testing.assert_allclose(got, 2.5 * np.log(2), rtol=1e-12)


def test_statistic_is_unchanged_when_all_distances_are_scaled():
    distance = np.random.default_rng(0).uniform(0.1, 0.5, (20, 7))
    np.testing.assert_allclose(local_statistic(1 - 3 * distance), local_statistic(1 - distance), rtol=1e-9)


def test_statistic_of_perfect_missing_and_no_candidates():
    assert local_statistic([1, 0, 0, 0, 0])[0] == pytest.approx(6 * np.log(10))
    assert local_statistic([0.5] * 5)[0] == 0
    np.testing.assert_array_equal(local_statistic([[0.9, 0.1, 0.2, 0.3]]), -np.inf)
    np.testing.assert_array_equal(
        local_statistic([[0.9, 0.1, 0.2, 0.3, np.nan], [0.9, 0.1, 0.2, 0.3, -np.inf]]), -np.inf
    )
    assert local_statistic([[0.9, 0.1, 0.2, 0.3, -np.inf, 0.4]]) == local_statistic([[0.9, 0.1, 0.2, 0.3, 0.4]])
    assert local_statistic(np.zeros((0, 6))).shape == (0,)


@pytest.mark.parametrize("correction", [1, 2])
def test_p_value_equals_a_loop(correction):
    null = np.random.default_rng(1).gumbel(size=150)
    ordered = sorted(null, reverse=True)
    k = 30  # a fifth of 150
    threshold, excess = ordered[k], sum(value - ordered[k] for value in ordered[:k])
    for t in (-1.0, ordered[40], threshold, threshold + 0.01, 3.0, 9.0):
        rank = min(1, (correction + sum(value >= t for value in null)) / 151)
        tail = (k + correction) / 151 * (1 + (t - threshold) / excess) ** -k if t > threshold else rank
        assert p_values(t, one_each(null), correction, "rank") == pytest.approx(rank, rel=1e-9)
        assert p_values(t, one_each(null), correction, "tail") == pytest.approx(tail, rel=1e-9)


def test_tail_of_three_subjects_by_hand():
    # K = 2, threshold 0, excesses 1 + 3: 3/4 (1 + 4/4)^-2
    assert p_values(4.0, one_each([1, 0, 3]), 1) == pytest.approx(0.1875)


@pytest.mark.parametrize("method", ["rank", "tail"])
def test_p_value_falls_as_the_statistic_grows_and_slices_share_their_subject(method):
    values = np.random.default_rng(2).normal(size=80)
    shared = NullSample(np.repeat(values, 3), np.full(240, 1 / 3))
    grid = np.linspace(-4, 8, 200)
    p = np.array([p_values(t, one_each(values), 2, method) for t in grid])
    assert p[0] == 1 and p[-1] < 0.03 and (np.diff(p) <= 1e-12).all() and (p > 0).all()
    np.testing.assert_allclose([p_values(t, shared, 2, method) for t in grid], p, rtol=1e-6)


def test_p_values_hold_with_a_holdout():
    rng = np.random.default_rng(3)
    drawn = rng.exponential(size=(8000, 101))  # the tail's assumption
    p = {m: np.array([p_values(r[0], one_each(r[1:]), 1, m) for r in drawn]) for m in ("rank", "tail")}
    assert (p["rank"] <= 0.05).mean() == pytest.approx(5 / 101, abs=0.01)
    assert (p["tail"] <= 0.05).mean() == pytest.approx(0.05, abs=0.01)
    assert (p["tail"] <= 0.01).mean() == pytest.approx(0.01, rel=0.5)


def test_leaving_one_subject_out_needs_the_correction_2():
    rng = np.random.default_rng(4)
    p = {1: [], 2: []}
    for _ in range(3000):
        points = rng.normal(size=(41, 3))
        similarity = 1 - cdist(points, points) / 4
        np.fill_diagonal(similarity, -np.inf)
        query = local_statistic(similarity[:1])[0]
        null = one_each(local_statistic(similarity[1:, 1:]))
        for correction, found in p.items():
            found.append(p_values(query, null, correction, "rank"))
    assert (np.array(p[2]) <= 0.05).mean() <= 0.06
    assert (np.array(p[1]) <= 1 / 41 + 1e-9).mean() > 1.5 / 41


@pytest.mark.parametrize("method", ["rank", "tail"])
def test_degenerate_nulls(method):
    assert p_values(9.0, one_each([]), 1, method) == 1
    assert p_values(-np.inf, one_each(range(30)), 1, method) == 1
    assert p_values(9.0, one_each([0]), 1, method) == 0.5
    assert p_values(9.0, one_each(np.zeros(19)), 1, method) == pytest.approx(0.05)  # no tail to fit: the rank
    assert p_values(9.0, one_each(np.full(19, -np.inf)), 2, method) == pytest.approx(0.1)


@pytest.mark.parametrize(("method", "correction"), [("median", 1), ("rank", 0)])
def test_p_value_errors_name_what_was_given(method, correction):
    with pytest.raises(ValueError, match=f"got '{method}' and {correction}"):
        p_values(1.0, one_each([1, 2]), correction, method)


def test_q_values_equal_a_loop_and_are_monotone_in_p():
    p = np.random.default_rng(5).uniform(size=40) ** 3
    ordered = np.sort(p)
    expected = [min(40 * ordered[j] / (j + 1) for j in range(40) if ordered[j] >= value) for value in p]
    q = benjamini_hochberg(p)
    np.testing.assert_allclose(q, expected)
    assert (np.diff(q[np.argsort(p)]) >= 0).all() and (q >= p).all() and q.max() <= 1
    assert len(benjamini_hochberg(np.zeros(0))) == 0
    with pytest.raises(ValueError, match="between 0 and 1"):
        benjamini_hochberg([0.5, 1.5])


def test_leaked_subjects_by_hand():
    names, p, q = leaked_subjects(np.array([0.01, 0.6, 0.9, 0.04, 0.8]), np.array([7, 7, 2, 4, 2]))
    assert names.tolist() == [2, 4, 7]
    np.testing.assert_allclose(p, [1, 0.04, 0.02])
    np.testing.assert_allclose(q, [1, 0.06, 0.06])
    assert [len(part) for part in leaked_subjects(np.zeros(0), np.zeros(0, int))] == [0, 0, 0]


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
    with pytest.raises(ValueError):
        exact_interval(11, 10)


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


def test_null_at_a_level_is_each_subjects_nearest_slice():
    null = Null(np.arange(6.0), np.array([4, 4, 4, 9, 9, 9]), np.array([10, 20, 30, 12, 22, 32.0]), 2)
    sample = null.at(21.4)
    assert sample.values.tolist() == [1, 4] and sample.weights.tolist() == [1, 1]
    everything = null.at(np.nan)
    assert everything.values.tolist() == list(range(6)) and everything.subjects == 2
    np.testing.assert_allclose(everything.weights, 1 / 3)
    assert null.subjects(np.array([10.0, np.nan])) == 2 and null.subjects(np.zeros(0)) == 0


def test_p_values_of_many_levels_are_those_of_each():
    rng = np.random.default_rng(8)
    null = Null(rng.normal(size=240), np.repeat(np.arange(60), 4), np.tile([1.0, 2, 3, 4], 60), 2)
    statistic, level = rng.normal(size=30) + 1, rng.choice([1.0, 2.2, np.nan], 30)
    expected = [p_values(t, null.at(at), 2) for t, at in zip(statistic, level)]
    np.testing.assert_allclose(null.p_values(statistic, level), expected, rtol=1e-12)


def test_auc_counts_pairs_and_ties_by_half():
    positive, negative = np.array([1, 3, 3, 8.0]), np.array([0, 3, 9.0])
    assert auc(positive, negative) == np.mean([(p > n) + 0.5 * (p == n) for p in positive for n in negative])


def test_set_level_sees_a_shift_and_nothing_else():
    rng = np.random.RandomState(0)
    subjects = np.repeat(np.arange(50), 4)
    null = rng.normal(size=200)
    same = set_level(rng.normal(size=100), null, subjects, rng)
    nearer = set_level(rng.normal(size=100) + 1, null, subjects, rng)
    assert same["ci95"][0] < 0.5 < same["ci95"][1] and same["p_value"] > 0.05
    assert nearer["auc"] == pytest.approx(stats.norm.cdf(1 / np.sqrt(2)), abs=0.06)
    assert nearer["ci95"][0] > 0.5 and nearer["p_value"] == pytest.approx(1 / 501)
    none = {"auc": None, "ci95": None, "p_value": None}
    assert set_level(np.full(3, -np.inf), null, subjects, rng) == none == set_level(null, null - np.inf, subjects, rng)


def test_set_level_of_whole_subjects_that_shift_is_not_certain_of_itself():
    """Slices of a subject rise and fall together; to resample them one by one would make the interval too narrow."""
    rng = np.random.RandomState(1)
    subjects = np.repeat(np.arange(20), 30)
    null = (rng.normal(size=20)[subjects] + 0.1 * rng.normal(size=600)).astype(float)
    clustered = np.diff(set_level(rng.normal(size=400), null, subjects, rng)["ci95"])[0]
    alone = np.diff(set_level(rng.normal(size=400), null, np.arange(600), rng)["ci95"])[0]
    assert clustered > 2 * alone


def test_two_nulls_agree_or_not():
    rng = np.random.default_rng(9)
    level = np.full(40, np.nan)
    statistic = np.r_[rng.gumbel(size=30).clip(max=1.5), np.full(10, 20.0)]

    def null(shift: float, correction: int) -> Null:
        return Null(rng.gumbel(size=200) + shift, np.arange(200), np.full(200, np.nan), correction)

    same = compare_nulls(null(0, 1), null(0, 2), statistic, level, "tail", 0.05)
    assert same["agrees"] and same["calls"] == 10 and same["auc"] == pytest.approx(0.5, abs=0.08)
    # images of a training set that resemble each other stand out among themselves
    apart = compare_nulls(null(0, 1), null(3, 2), statistic, level, "tail", 0.05)
    assert not apart["agrees"] and apart["auc"] < 0.2
    few = compare_nulls(
        null(0, 1), Null(np.full(3, -np.inf), np.arange(3), np.full(3, np.nan), 2), statistic, level, "tail", 0.05
    )
    assert few == {"calls": 0, "auc": None, "agrees": False}


def test_two_subjects_that_are_each_others_neighbour_are_one_excess():
    """By hand: K = 4 of 8 above threshold 0, excesses 4, 4, 2, 2; subjects 0 and 1 are a pair, 2 and 3 are not."""
    values = np.array([4.0, 4, 2, 2, 0, -1, -1, -1])
    nearest = np.array([1, 0, 5, 6, 7, 4, 4, 4])
    alone = NullSample(values, np.ones(8))
    paired = NullSample(values, np.ones(8), np.arange(8), nearest)
    base = (4 + 2) / 9
    assert p_values(6.0, alone, 2) == pytest.approx(base * (1 + 6 / (4 * 3)) ** -4)
    assert p_values(6.0, paired, 2) == pytest.approx(base * (1 + 6 / (3 * 3)) ** -3)
    # slices that share their subject's weight: the pair weighs as much as the heavier of the two
    shared = NullSample(np.repeat(values, 2), np.full(16, 0.5), np.repeat(np.arange(8), 2), np.repeat(nearest, 2))
    assert p_values(6.0, shared, 2) == pytest.approx(p_values(6.0, paired, 2))


def test_a_null_of_pairs_needs_them_counted_as_one():
    """Five dimensions and 50 subjects: excesses come in pairs, and taken for independent they promise too much."""
    rng, hits = np.random.default_rng(3), {True: 0, False: 0}
    for _ in range(150):
        points, queries = rng.normal(size=(50, 5)), rng.normal(size=(400, 5))
        own = cdist(points, points)
        np.fill_diagonal(own, np.inf)
        null, unknown = local_statistic(1 - own), np.full(50, np.nan)
        statistic = local_statistic(1 - cdist(queries, points))
        for counted in hits:
            nearest = own.argmin(1) if counted else None
            p = Null(null, np.arange(50), unknown, 2, nearest).p_values(statistic, np.full(400, np.nan))
            hits[counted] += int((p <= 1e-3).sum())
    assert hits[True] <= 0.75 * hits[False] and hits[True] <= 2.2 * 1e-3 * 150 * 400
