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


"""Bounds on the true among the strongest: closed testing by brute force, and how often they fail."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from scripts.decision.bounds import true_discoveries


def by_closed_testing(p: np.ndarray, count: int, alpha: float) -> int:
    """`count` less the most of the smallest that stand together in a set which Simes' test does not reject."""
    order = np.argsort(p, kind="stable")
    chosen, most = set(order[:count].tolist()), 0
    for size in range(1, len(p) + 1):
        for members in combinations(range(len(p)), size):
            ordered = np.sort(p[list(members)])
            if (ordered > alpha * np.arange(1, size + 1) / size).all():
                most = max(most, len(chosen & set(members)))
    return count - most


@pytest.mark.parametrize("seed", range(8))
def test_the_bounds_are_those_of_closed_testing(seed):
    rng = np.random.default_rng(seed)
    p = rng.uniform(size=8) ** rng.integers(1, 7)
    counts = np.arange(9)
    expected = [by_closed_testing(p, count, 0.1) for count in counts]
    assert true_discoveries(p, counts, 0.1).tolist() == expected


def test_any_bound_fails_in_hardly_more_audits_than_alpha():
    fails, audits, counts = 0, 2000, np.arange(1, 61)
    rng = np.random.default_rng(0)
    for _ in range(audits):
        null = rng.uniform(size=60) < 0.8
        p = np.where(null, rng.uniform(size=60), rng.uniform(size=60) ** 8)
        true = np.cumsum(~null[np.argsort(p)])
        fails += bool((true_discoveries(p, counts) > true).any())
    assert 0 < fails <= audits * 0.05 + 3 * np.sqrt(audits * 0.05)


def test_certain_and_hopeless_cases():
    assert true_discoveries(np.zeros(5), np.array([0, 3, 5])).tolist() == [0, 3, 5]
    assert true_discoveries(np.ones(5), np.array([1, 5])).tolist() == [0, 0]
    assert true_discoveries(np.zeros(0), np.array([0])).tolist() == [0]
    assert true_discoveries(np.r_[np.full(40, 1e-9), np.ones(10_000)], np.array([40, 10_040])).tolist() == [40, 40]


@pytest.mark.parametrize(("counts", "alpha"), [([4], 0.05), ([-1], 0.05), ([1], 0.0), ([1], 1.0)])
def test_errors(counts, alpha):
    with pytest.raises(ValueError, match="counts must lie within 3 images"):
        true_discoveries(np.full(3, 0.5), np.array(counts), alpha)


@pytest.mark.parametrize("sixteenths", [[2, 2, 3, 10, 10, 16], [2, 3, 3, 11, 11, 16], [6, 8], [3, 5, 8, 8]])
def test_a_p_value_on_the_line_of_simes_test_counts(sixteenths):
    """Binary fractions, so that both sides of the comparison are exact."""
    p, counts = np.array(sixteenths) / 16, np.arange(len(sixteenths) + 1)
    assert true_discoveries(p, counts, 0.5).tolist() == [by_closed_testing(p, count, 0.5) for count in counts]


def test_no_count_has_no_bound():
    none = true_discoveries(np.zeros(3), np.zeros(0, int))
    assert none.dtype == np.int64 and len(none) == 0
