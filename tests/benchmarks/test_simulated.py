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

"""The error rates hold, and a wrong method would be noticed. Fast versions; the whole table is docs/validity.md."""

from __future__ import annotations

import pytest
import simulated


def test_rank_floor_holds_only_with_the_correction():
    assert 0.75 <= simulated.rank_floor(50, audits=1000) <= 1.15
    assert simulated.rank_floor(50, audits=1000, corrected=False) > 1.5


def test_type_one_error_holds_only_at_the_querys_level():
    assert 0.6 <= simulated.slice_levels(audits=60) <= 1.2
    assert simulated.slice_levels(audits=60, corrected=False) > 2


def test_nothing_memorized_calls_nothing_only_with_benjamini_hochberg():
    # 35 of 400 is what the whole run allows; 12 of 60 is its 99.9 % point at a rate of 0.0875
    assert simulated.nothing_memorized("iid", 100, 100, audits=60) <= 12
    assert simulated.nothing_memorized("low-dimensional", 100, 100, audits=60) <= 12
    assert simulated.nothing_memorized("iid", 100, 100, audits=60, corrected=False) > 50


def test_false_discovery_share_holds_where_some_are_copies():
    found = simulated.mixed("iid", 0.05, audits=30)
    assert found["false_share"] <= 0.05 + 3 * found["standard_error"] and found["recall"] > 0.95
    assert simulated.mixed("iid", 0.01, audits=10, corrected=False)["false_share"] > 0.5


def test_smoothing_generator_misleads_raw_similarity_and_not_the_local_statistic():
    assert simulated.smoothing(audits=100) <= 0.07
    assert simulated.smoothing(audits=100, corrected=False) > 0.20


def test_leaked_subjects_need_their_own_test():
    found = simulated.leaked(audits=15)
    assert found["power"] >= 0.9 and found["false_share"] <= 0.05
    assert simulated.leaked(audits=15, corrected=False)["false_share"] > 0.15


def test_copies_of_scans_stored_twice_are_found_only_if_merged():
    assert simulated.stored_twice(audits=15) >= 0.9
    assert simulated.stored_twice(audits=15, corrected=False) < 0.1


@pytest.mark.slow
@pytest.mark.parametrize("population", ["iid", "low-dimensional", "clustered"])
@pytest.mark.parametrize(("subjects", "generated"), [(20, 1000), (100, 1000), (500, 1000)])
def test_nothing_memorized_in_other_populations(population, subjects, generated):
    assert simulated.nothing_memorized(population, subjects, generated) <= 35


@pytest.mark.slow
@pytest.mark.parametrize(("population", "power"), [("iid", 0.95), ("eight-dimensional", 0.95)])
def test_power_at_one_percent_copies(population, power):
    assert simulated.mixed(population, 0.01)["recall"] >= power
