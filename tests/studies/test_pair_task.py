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
from scripts.studies.pair_task import PairTask
from scripts.studies.pairs import moved
from scripts.studies.rivals import SSIM, CalibratedL2


@pytest.fixture
def trials(validation, test_slices, copies, flip):
    """Pairs of both parts, at rest and moved, and the bootstrap's weights."""
    task, rng = PairTask(pairs=15, draws=50), np.random.RandomState(0)
    still = [task.draw(part, copies, rng) for part in (validation, test_slices)]
    turned = [replace(trial, moved=moved(trial.pairs.second, flip, 0)) for trial in still]
    return task, still, turned, task.weights(still[1], rng)


def test_an_oracle_and_noise_get_what_they_deserve(trials, oracle, noise):
    task, _, turned, weights = trials
    best, worst = (task(method, *turned, weights) for method in (oracle, noise))
    assert best.duplicate_auc > 0.95 > 0.75 > worst.duplicate_auc
    assert best.macro_f1 > worst.macro_f1 and best.tpr > 0.9 > worst.tpr
    for row in (best, worst):
        low, high = row.ci95["macro_f1"]
        assert 0 <= low <= row.macro_f1 <= high <= 1 and len(row.draws["macro_f1"]) == 50
        assert [len(quantiles) for quantiles in row.scores] == [101] * 3
        assert row.ssim_error is None  # their scores are meant to be no SSIM
    assert worst.against(best).reference_minus["macro_f1"][0] > 0
    assert best.against(best).reference_minus["macro_f1"] == [0, 0]


def test_ssim_of_images_at_rest_is_exact_and_of_moved_ones_is_not(trials):
    """The copies are hardly bent."""
    task, still, turned, weights = trials
    errors = [task(SSIM(), *parts, weights).ssim_error.mean_of_bins for parts in (still, turned)]
    assert errors[0] < 1e-5 < 0.1 < errors[1]


def test_a_method_is_fitted_on_the_part_that_it_scores(trials):
    _, (validation, test), _, _ = trials
    method = CalibratedL2(nearest=3)
    for trial in (validation, test):
        expected = method.fit(trial.references).pairs(trial.pairs.first, trial.pairs.second)
        np.testing.assert_array_equal(trial.scores(method), expected)
