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
from scripts.studies.pairs import moved
from scripts.studies.search_task import SearchTask


def test_an_oracle_finds_the_source_and_noise_does_not(test_slices, copies, flip, oracle, noise):
    task = SearchTask(queries=12, draws=50)
    still = task.draw(test_slices, copies, np.random.RandomState(0))
    trial = replace(still, images=moved(still.images, flip, 0))
    best, worst = task(oracle, trial), task(noise, trial)
    assert best.recall["1"] > 0.9 > worst.recall["1"] and best.tpr > 0.9 > worst.tpr
    assert worst.recall["20"] == 1  # there are only 14 subjects
    for row in (best, worst):
        assert list(row.recall) == list(row.ci95["recall"]) == ["1", "6", "20"]
        assert sorted(row.recall.values()) == list(row.recall.values()) and row.searches_per_second > 0
        low, high = row.ci95["recall"]["6"]
        assert low <= row.recall["6"] <= high


def test_a_source_is_the_subject_of_the_copied_image(test_slices, copies, oracle):
    trial = SearchTask(queries=8).draw(test_slices, copies, np.random.RandomState(1))
    nearest = oracle.matrix(trial.images, test_slices.images).argmax(1)
    np.testing.assert_array_equal(test_slices.subject[nearest], trial.source)
