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
from scripts.decision.set_level import SetLevel, set_level


def test_set_level_sees_a_shift_and_nothing_else():
    rng = np.random.RandomState(0)
    subjects = np.repeat(np.arange(50), 4)
    null = rng.normal(size=200)
    same = set_level(rng.normal(size=100), null, subjects, rng)
    nearer = set_level(rng.normal(size=100) + 1, null, subjects, rng)
    assert same.ci95[0] < 0.5 < same.ci95[1] and same.p_value > 0.05
    assert nearer.auc == pytest.approx(stats.norm.cdf(1 / np.sqrt(2)), abs=0.06)
    assert nearer.ci95[0] > 0.5 and nearer.p_value == pytest.approx(1 / 501)
    none = SetLevel(None, None, None)
    assert set_level(np.full(3, -np.inf), null, subjects, rng) == none == set_level(null, null - np.inf, subjects, rng)


def test_set_level_of_whole_subjects_that_shift_is_not_certain_of_itself():
    """Slices of a subject rise and fall together; to resample them one by one would make the interval too narrow."""
    rng = np.random.RandomState(1)
    subjects = np.repeat(np.arange(20), 30)
    null = (rng.normal(size=20)[subjects] + 0.1 * rng.normal(size=600)).astype(float)
    clustered = np.diff(set_level(rng.normal(size=400), null, subjects, rng).ci95)[0]
    alone = np.diff(set_level(rng.normal(size=400), null, np.arange(600), rng).ci95)[0]
    assert clustered > 2 * alone


def test_a_set_of_one_value_that_the_null_has_too_is_at_chance():
    found = set_level(np.ones(5), np.ones(8), np.arange(8), np.random.RandomState(0))
    assert found == SetLevel(0.5, [0.5, 0.5], 1.0)


def test_the_interval_of_single_images_is_delongs():
    rng = np.random.RandomState(0)
    statistic, null = rng.normal(size=60) + 0.2, rng.normal(size=60)
    found = set_level(statistic, null, np.arange(60), rng, draws=2000)
    higher = statistic[:, None] > null
    deviation = np.sqrt(higher.mean(1).var() / 60 + higher.mean(0).var() / 60)  # DeLong et al. 1988
    expected = higher.mean() + 1.96 * deviation * np.array([-1, 1])
    np.testing.assert_allclose(found.ci95, expected, atol=0.08 * deviation)
    assert found.auc == pytest.approx(higher.mean())
