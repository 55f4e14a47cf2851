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
from scripts.decision.statistic import LocalStatistic, clearest, local_statistic


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


def test_single_precision_is_widened_before_it_is_computed_with():
    single = np.random.default_rng(0).uniform(0.1, 0.9, (20, 6)).astype(np.float32)
    np.testing.assert_array_equal(local_statistic(single), local_statistic(single.astype(float)))


def test_another_number_of_candidates_by_hand():
    # d = 1/16, 1/8, 1/4: T = (4 - (3 + 2) / 2) log 2
    three = LocalStatistic(subjects=3)
    np.testing.assert_allclose(three([0.75, 0.9375, 0.875, 0.5]), 1.5 * np.log(2), rtol=1e-12)
    assert three.words.endswith("than the next two") and LocalStatistic().words.endswith("than the next four")
    assert np.isneginf(three([[0.9, 0.1]])).all()


def test_the_clearest_of_two_comparisons_decides_and_names_the_best():
    first = np.array([[0.75, 0.9375, -0.5, 0, 0.875, 0.5], [0.5, 0.5, 0.5, 0.5, 0.5, 0.5], [0.9] * 6, [-np.inf] * 6])
    second = np.array([[0.5] * 6, [0, 0.75, 0, 0, 0, 0], [0.2] * 6, [-np.inf] * 6])
    value, best = clearest(LocalStatistic(), (first, second))
    np.testing.assert_allclose(value, [2.5 * np.log(2), 2 * np.log(2), 0, -np.inf], atol=1e-12)
    assert best.tolist() == [1, 1, 0, 0]
    swapped, other = clearest(LocalStatistic(), (second, first))
    np.testing.assert_array_equal(swapped, value)
    assert other[:2].tolist() == [1, 1]
    alone = clearest(LocalStatistic(), (first,))
    np.testing.assert_array_equal(alone[0], local_statistic(first))


@pytest.mark.parametrize("arguments", [{"subjects": 1}, {"least_distance": 0.0}])
def test_errors_name_what_was_given(arguments):
    with pytest.raises(ValueError, match="subjects must be at least 2 and least_distance positive, got"):
        LocalStatistic(**arguments)
