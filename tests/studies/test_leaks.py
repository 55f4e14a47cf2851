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
from scripts.studies.leaks import copies_slope, leaks_by_copies, leaks_by_sight
from scripts.studies.study_results import Cell, CellResult, Group, Quality, SubjectLeak


def result(name="a", duplication="none", passes=1, counts=()) -> CellResult:
    """A model whose subjects have these copies and leaks."""
    subjects = [SubjectLeak(f"s{i}", copies, leaked) for i, (copies, leaked) in enumerate(counts)]
    cell = Cell(name, len(subjects), duplication=duplication, passes=passes)
    return CellResult(cell, 0, {}, 0, 0, {}, {}, {}, subjects, {}, Quality(0, 0), {})


def simulated(people: int, slope: float, *intercepts: float) -> tuple[np.ndarray, ...]:
    """Copies, leaks, subjects and models of people who were in a training for each intercept."""
    rng, parts = np.random.RandomState(0), []
    for number, intercept in enumerate(intercepts):
        copies = rng.randint(1, 15, size=people)
        leaked = rng.rand(people) < 1 / (1 + np.exp(-intercept - slope * np.log2(copies)))
        parts.append((copies, leaked, np.arange(people), np.full(people, f"m{number}")))
    return tuple(map(np.concatenate, zip(*parts)))


def test_slope_is_that_of_the_simulated_odds():
    found = copies_slope(*simulated(3000, 1.2, -3, 0), draws=200)
    assert found.per_doubling == pytest.approx(1.2, abs=0.2)
    assert found.intercepts == {"m0": pytest.approx(-3, abs=0.5), "m1": pytest.approx(0, abs=0.3)}
    low, high = found.ci95
    assert low < 1.2 < high and high - low < 0.4
    none = copies_slope(*simulated(3000, 0, -1), draws=200).ci95
    assert none[0] < 0 < none[1]


def test_a_model_that_leaks_more_is_no_slope():
    """Few copies in a model that leaks much, many in one that does not: pooled, copies would seem to protect."""
    copies, leaked, subjects, models = simulated(3000, 0, -2, 2)
    few = models == "m1"
    keep = np.where(few, copies <= 4, copies >= 4)
    low, high = copies_slope(*(a[keep] for a in (copies, leaked, subjects, models)), draws=200).ci95
    assert low < 0 < high
    assert copies_slope(*(a[keep] for a in (copies, leaked, subjects)), np.zeros(keep.sum()), draws=50).ci95[1] < -1


def test_trainings_of_the_same_people_are_no_new_evidence():
    one = simulated(300, 1.2, -3)
    once = np.diff(copies_slope(*one, draws=300).ci95)
    copies, leaked, people, models = (np.tile(a, 4) for a in one)
    assert np.diff(copies_slope(copies, leaked, people, models, draws=300).ci95) == pytest.approx(once, rel=0.15)
    # a half, if people were taken for four
    assert np.diff(copies_slope(copies, leaked, np.arange(1200), models, draws=300).ci95) < 0.65 * once


def test_slope_exists_where_copies_separate_the_leaked_and_where_nothing_leaked():
    copies, model = np.arange(1, 15), np.zeros(14)
    assert 1 < copies_slope(copies, copies > 7, copies, model, draws=50).per_doubling < 100
    assert copies_slope(copies, copies > 20, copies, model, draws=50).per_doubling <= 0


def test_slope_is_that_of_an_earlier_minimizer():
    """Expected: the same penalised likelihood by SciPy's BFGS."""
    copies = np.array([1, 1, 2, 2, 3, 4, 5, 6, 8, 9, 12, 14] * 2)
    leaked = np.array([0, 0, 0, 1, 0, 0, 1, 0, 1, 1, 0, 1, 0, 1, 0, 1, 1, 0, 1, 1, 1, 1, 1, 1], bool)
    found = copies_slope(copies, leaked, np.arange(24) % 12, np.repeat(["a", "b"], 12), draws=200)
    assert found.per_doubling == pytest.approx(0.902232, abs=1e-3)
    assert found.intercepts == pytest.approx({"a": -2.255541, "b": -0.417746}, abs=1e-3)
    assert found.ci95 == pytest.approx((0.003222, 3.042909), abs=1e-3)


def test_a_study_of_18_models_leaks_as_documented(documented):
    trained = [(s, r.model) for r in documented.cells if r.cell.duplication != "none" for s in r.subjects]
    columns = [(s.copies, s.leaked, s.subject_id, model) for s, model in trained]
    slope, expected = copies_slope(*map(np.array, zip(*columns)), draws=2), documented.by_copies.slope
    assert slope.per_doubling == pytest.approx(expected.per_doubling, abs=1e-3)
    assert slope.intercepts == pytest.approx(expected.intercepts, abs=1e-3)
    seen = [(list(row.seen), row.subjects, row.leaked) for row in leaks_by_sight(documented.cells)]
    assert seen == [(row.seen, row.subjects, row.leaked) for row in documented.seen]


def test_leaks_are_counted_by_how_often_an_image_was_seen():
    cells = [
        result(passes=50, counts=[(1, False), (2, True), (4, False)]),
        result(passes=200, counts=[(1, True), (9, True)]),
    ]
    found = leaks_by_sight(cells, (0, 100, 200, 300))
    assert [(row.seen, row.leaked, row.subjects) for row in found] == [
        ((50, 50), 0, 1),
        ((100, 100), 1, 1),  # 2 x 50
        ((200, 200), 1, 2),  # 4 x 50 and 200
        ((1800, 1800), 1, 1),  # 9 x 200
    ]
    assert found[0].ci95 == pytest.approx([0, 0.975])  # Clopper and Pearson: 1 - 0.025 ** (1 / n)
    assert len(leaks_by_sight(cells, (0, 10_000))) == 1  # no subject, no row


def test_leaks_are_counted_by_copies_and_duplication():
    cells = [
        result("once", "none", counts=[(1, True)]),
        result("low", "low", counts=[(1, True), (1, False), (4, True)]),
        result("high", "high", counts=[(1, False), (1, False), (12, True), (14, False), (9, True)]),
    ]
    found = leaks_by_copies(cells)
    assert {(row.duplication, row.copies): (row.leaked, row.subjects) for row in found.copies} == {
        ("low", 1): (1, 2),
        ("low", 4): (1, 1),
        ("high", 1): (0, 2),
        ("high", 9): (1, 1),
        ("high", 12): (1, 1),
        ("high", 14): (0, 1),
    }
    # of the model that has subjects of ten copies or more
    assert found.leaked_once == Group(subjects=2, leaked=0)
    assert found.leaked_often == Group(subjects=2, leaked=1)
    assert found.slope.intercepts.keys() == {"low_0", "high_0"}
    assert leaks_by_copies(cells[:1]) is None
