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

import pytest

from scripts.decision.criteria import Criteria


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"fdr": 0}, r"fdr must be in \(0, 1\), got 0"),
        ({"p_value": "t"}, "p_value must be tail or rank, got 't'"),
        ({"tail_least": 1}, "tail_least must be at least 2, got 1"),
        ({"tail_share": 0.0}, r"tail_share must be in \(0, 1\], got 0.0"),
        ({"tail_most": 10}, "tail_most must be at least tail_least, got 10"),
        ({"matched_auc": (0.6, 0.4)}, r"matched_auc must be two ascending shares, got \(0.6, 0.4\)"),
        ({"agreement": 2.0}, "agreement must be a share, got 2.0"),
        ({"similar_percentile": 101}, r"similar_percentile must be in \[0, 100\], got 101"),
        ({"duplicate_percentile": -1}, r"duplicate_percentile must be in \[0, 100\], got -1"),
        ({"copy_detail": 1.1}, r"copy_detail must be in \[-1, 1\], got 1.1"),
        ({"near_copy_fdr": 0}, r"near_copy_fdr must be in \(0, 1\), got 0"),
    ],
)
def test_errors_name_the_key(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        Criteria(**arguments)


@pytest.mark.parametrize(("subjects", "tail"), [(0, -1), (1, 0), (3, 2), (10, 5), (50, 20), (150, 30), (1000, 60)])
def test_the_tail_is_a_share_of_the_subjects_within_bounds(subjects, tail):
    assert Criteria().tail_subjects(subjects) == tail


def test_matched_includes_the_ends():
    assert [Criteria().matched(auc) for auc in (0.39, 0.4, 0.5, 0.6, 0.61)] == [False, True, True, True, False]
