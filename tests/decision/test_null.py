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
from scipy.spatial.distance import cdist
from scripts.decision.criteria import Criteria
from scripts.decision.null import Null, NullSample, p_values
from scripts.decision.statistic import local_statistic


def one_each(values) -> NullSample:
    return NullSample(np.asarray(values, float), np.ones(len(values)))


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


def test_the_criteria_say_how_many_subjects_make_the_tail():
    null = np.random.default_rng(1).gumbel(size=150)
    ordered = np.sort(null)[::-1]
    few = Criteria(tail_least=5, tail_share=0.05, tail_most=10)
    assert few.tail_subjects(150) == 8 and Criteria().tail_subjects(150) == 30
    excess = (ordered[:8] - ordered[8]).sum()
    expected = 9 / 151 * (1 + (4 - ordered[8]) / excess) ** -8
    assert p_values(4.0, one_each(null), 1, criteria=few) == pytest.approx(expected, rel=1e-9)


def test_at_a_level_whom_a_subject_was_nearest_to_is_told_by_the_same_slice():
    null = Null(np.arange(4.0), np.array([4, 4, 9, 9]), np.array([10, 20, 12, 22.0]), 2, np.array([9, 7, 4, 5]))
    sample = null.at(21.0)
    assert sample.subject.tolist() == [4, 9] and sample.nearest.tolist() == [7, 5]
    assert null.at(np.nan).nearest.tolist() == [9, 7, 4, 5]


def test_an_image_is_judged_against_its_own_kind():
    rng = np.random.default_rng(0)
    values, kind = rng.normal(size=80) + np.repeat([0.0, 5.0], 40), np.repeat([0, 1], 40)
    both = Null(values, np.arange(80), np.full(80, np.nan), 2, np.roll(np.arange(80), 1), kind)
    apart = [
        Null(values[kind == k], np.arange(40), np.full(40, np.nan), 2, np.roll(np.arange(80), 1)[kind == k])
        for k in (0, 1)
    ]
    statistic, of = np.array([1.0, 6.0, 3.0, 9.0]), np.array([0, 1, 0, 1])
    expected = [apart[k].p_values(np.array([t]), np.array([np.nan]))[0] for t, k in zip(statistic, of)]
    found = both.p_values(statistic, np.full(4, np.nan), kind=of)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert both.p_values(statistic, np.full(4, np.nan))[0] > found[0]  # without kinds 5 is not rare
    assert both.subjects(np.full(4, np.nan), of) == 40 and both.subjects(np.full(4, np.nan)) == 80
