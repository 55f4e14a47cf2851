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
        ({"fdr": 1}, r"fdr must be in \(0, 1\), got 1"),
        ({"tail_share": 1.5}, r"tail_share must be in \(0, 1\], got 1.5"),
        ({"matched_auc": (0.5, 0.5)}, r"matched_auc must be two ascending shares, got \(0.5, 0.5\)"),
        ({"matched_auc": (-0.1, 0.5)}, r"matched_auc must be two ascending shares, got \(-0.1, 0.5\)"),
        ({"matched_auc": (0.5, 1.5)}, r"matched_auc must be two ascending shares, got \(0.5, 1.5\)"),
        ({"agreement": -0.1}, "agreement must be a share, got -0.1"),
        ({"similar_percentile": -1}, r"similar_percentile must be in \[0, 100\], got -1"),
        ({"duplicate_percentile": 101}, r"duplicate_percentile must be in \[0, 100\], got 101"),
        ({"copy_detail": -1.1}, r"copy_detail must be in \[-1, 1\], got -1.1"),
        ({"near_copy_fdr": 1}, r"near_copy_fdr must be in \(0, 1\), got 1"),
        ({"least_recall": 1.0}, "least_recall must be a share below 1, got 1.0"),
        ({"least_nearest": 1.1}, "least_nearest must be a share, got 1.1"),
        ({"least_recall": -0.1}, "least_recall must be a share below 1, got -0.1"),
        ({"most_skipped": 1.1}, "most_skipped must be a share, got 1.1"),
        ({"most_skipped": -0.1}, "most_skipped must be a share, got -0.1"),
    ],
)
def test_errors_name_the_key(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        Criteria(**arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        {"tail_least": 2, "tail_most": 2, "tail_share": 1},
        {"matched_auc": (0, 1), "agreement": 0, "least_recall": 0, "most_skipped": 0},
        {"similar_percentile": 0, "duplicate_percentile": 0, "copy_detail": -1},
        {"similar_percentile": 100, "duplicate_percentile": 100, "copy_detail": 1, "agreement": 1, "most_skipped": 1},
    ],
)
def test_the_ends_of_the_ranges_that_hold_them_may_be_given(arguments):
    criteria = Criteria(**arguments)
    assert {key: getattr(criteria, key) for key in arguments} == arguments


@pytest.mark.parametrize(
    ("subjects", "tail"), [(0, -1), (1, 0), (3, 2), (4, 2), (5, 2), (10, 5), (50, 20), (150, 30), (1000, 60)]
)
def test_the_tail_is_a_share_of_the_subjects_within_bounds(subjects, tail):
    assert Criteria().tail_subjects(subjects) == tail


def test_matched_includes_the_ends():
    assert [Criteria().matched(auc) for auc in (0.39, 0.4, 0.5, 0.6, 0.61)] == [False, True, True, True, False]
