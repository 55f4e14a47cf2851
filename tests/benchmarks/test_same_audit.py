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

"""The table of the same audit: what differs is counted, and other images are no comparison."""

from __future__ import annotations

import math

import pytest
from same_audit import DECISIONS, NUMBERS, compared

ROW = {"generated_id": "a", **dict.fromkeys(DECISIONS, "x"), **dict.fromkeys(NUMBERS, "0.5")}
OTHER = {**ROW, "generated_id": "b"}


def test_equal_audits_differ_in_nothing():
    assert set(compared([ROW, OTHER], [ROW, OTHER]).values()) == {0}


def test_decisions_are_counted_and_the_greatest_difference_is_told():
    changed = [{**ROW, "train_id": "y", "p_value": "0.25"}, {**OTHER, "p_value": "0.4"}]
    found = compared([ROW, OTHER], changed)
    assert found["decisions"] == 1 and found["p_value"] == 0.25 and found["q_value"] == 0


def test_a_number_on_one_side_alone_differs_without_end():
    assert math.isinf(compared([ROW], [{**ROW, "statistic": ""}])["statistic"])
    assert compared([{**ROW, "statistic": ""}], [{**ROW, "statistic": ""}])["statistic"] == 0


def test_other_images_are_no_comparison():
    with pytest.raises(ValueError, match="the same generated images, found others"):
        compared([ROW], [OTHER])
