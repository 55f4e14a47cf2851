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


"""The verifier's recovery of known moves, and what is made of many audits."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import ROOT
from PIL import Image
from real_slices import Outcome, Scenario
from real_studies import blurred, false_alarms, known_transforms, known_truth, noisy


class Rehearsed:
    """Gives outcomes that are known beforehand, in place of audits."""

    def __init__(self, *outcomes: Outcome) -> None:
        self.outcomes, self.asked = outcomes, []

    def run(self, seed: int, scenario: Scenario, raw: bool = False) -> Outcome:
        self.asked.append((scenario, raw))
        return self.outcomes[seed]


CLEAN, WRONG = Outcome(0, 0.0, 0.0, 0.5), Outcome(4, 0.02, 0.5, 1.0)


def test_false_alarms_are_audits_with_a_call():
    audits = Rehearsed(CLEAN, WRONG, CLEAN, CLEAN)
    found = false_alarms(audits, 4, blurred, raw=True)
    assert (found["audits"], found["with_a_call"], found["type_one"]) == (4, 1, pytest.approx(0.005))
    # Clopper and Pearson's interval of 1 in 4, from tables
    assert found["ci95"] == pytest.approx([0.0063, 0.8059], abs=1e-4)
    assert set(audits.asked) == {(Scenario(change=blurred), True)}


def test_known_truth_counts_wrong_calls_over_all_audits():
    scenario = Scenario(share=0.2)
    found = known_truth(Rehearsed(CLEAN, WRONG), scenario, splits=2)
    assert found == {"audits": 2, "recall": 0.75, "mean_false_share": 0.25, "called": 4, "wrong": 2}


def slices() -> np.ndarray:
    files = sorted((ROOT / "demo" / "train").glob("*.png"))[:6]
    return np.stack([np.asarray(Image.open(file), np.float32).T / 255 for file in files])


def test_known_transforms_of_brains_are_recovered():
    found = known_transforms(slices(), count=12)
    assert (found["failures"], found["pairs"]) == (0, 12)
    assert 0 < found["median_error_pixels"] <= found["largest_error_pixels"] < 1


def test_a_turn_that_nothing_shows_is_a_failure():
    y, x = np.mgrid[-1:1:96j, -1:1:112j]
    disc = np.exp(-4 * (x**2 + y**2)).astype(np.float32)[None]
    assert known_transforms(disc, count=8)["failures"] >= 6


def test_changes_blur_and_add_noise():
    images, rng = slices(), np.random.RandomState(0)
    grain = [np.abs(np.diff(made, axis=2)).mean() for made in (blurred(images, rng), images, noisy(images, rng))]
    assert grain == sorted(grain)
    assert np.std(noisy(np.full((1, 96, 112), 0.5), rng)) == pytest.approx(0.04, rel=0.05)
