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
from scripts.studies.rivals import SearchMethod
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
        low, high = row.ci95["strict_tpr"]
        assert low <= row.strict_tpr <= high and row.strict_tpr <= row.tpr


def test_a_source_is_the_subject_of_the_copied_image(test_slices, copies, oracle):
    trial = SearchTask(queries=8).draw(test_slices, copies, np.random.RandomState(1))
    nearest = oracle.matrix(trial.images, test_slices.images).argmax(1)
    np.testing.assert_array_equal(test_slices.subject[nearest], trial.source)


class Graded(SearchMethod):
    """Scores 0.5 to 19.5 with the source of searches 0 to 19, and 0 to 4 with one stranger."""

    def __init__(self, trial):
        self.trial = trial

    def pairs(self, first, second):
        raise AssertionError("a search asks for no pairs")

    def matrix(self, queries, references):
        score = np.full((len(queries), len(references)), -1.0, np.float32)
        for row, source in enumerate(self.trial.source[: len(queries)]):
            own = self.trial.references.subject == source
            score[row, own], score[row, np.flatnonzero(~own)[0]] = row + 0.5, row % 5
        return score


def test_a_smaller_share_of_false_searches_is_a_higher_cut(test_slices, copies):
    """Of 20 searches without a source none passes 4, 8 pass 2; of the copies 16 and 18."""
    trial = SearchTask(queries=20).draw(test_slices, copies, np.random.RandomState(1))
    row = SearchTask(queries=20, draws=20, false_alarms=0.5, strict_false_alarms=0.001)(Graded(trial), trial)
    assert (row.tpr, row.strict_tpr) == (0.9, 0.8)
