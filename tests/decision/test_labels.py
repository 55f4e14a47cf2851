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
from scripts.decision.criteria import Criteria
from scripts.decision.labels import Label, Thresholds


def test_cuts_are_percentiles_of_the_null_and_of_the_control():
    null, control = np.r_[np.linspace(0, 0.5, 101), -np.inf], np.linspace(0.6, 1.0, 101)
    cuts = Thresholds.fit(null, control, Criteria())
    np.testing.assert_allclose([cuts.similar, cuts.duplicate], [0.495, 0.62])
    assert cuts.separable
    assert [cuts.label(value) for value in (0.49, 0.5, 0.61, 0.63)] == [
        Label.DIFFERENT, Label.SIMILAR, Label.SIMILAR, Label.DUPLICATE,
    ]  # fmt: skip
    wider = Thresholds.fit(null, control, Criteria(similar_percentile=50, duplicate_percentile=50))
    np.testing.assert_allclose([wider.similar, wider.duplicate], [0.25, 0.8])


def test_where_copies_and_strangers_overlap_nothing_is_a_duplicate():
    cuts = Thresholds.fit(np.linspace(0, 1, 11), np.linspace(0.2, 1, 11), Criteria())
    assert not cuts.separable and cuts.label(1.0) is Label.SIMILAR


def test_without_a_null_nothing_is_similar():
    cuts = Thresholds.fit(np.full(4, -np.inf), np.array([0.9]), Criteria())
    assert np.isposinf(cuts.similar) and cuts.label(1.0) is Label.DIFFERENT


def test_where_the_two_cuts_are_one_nothing_is_a_duplicate():
    cuts = Thresholds.fit(np.full(3, 0.5), np.full(3, 0.5), Criteria())
    assert not cuts.separable and cuts.label(0.5) is Label.SIMILAR


def test_what_lies_on_a_cut_is_above_it():
    cuts = Thresholds(0.5, 0.75, True)
    assert [cuts.label(value) for value in (0.5, 0.75)] == [Label.SIMILAR, Label.DUPLICATE]
