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

import json

import numpy as np
import pytest
from helpers import ROOT
from scripts.studies.benchmark_results import BenchmarkResult, ConditionResult, PairScores, SearchScores, interval


@pytest.mark.parametrize("name", ["benchmark.json", "benchmark_chest.json"])
def test_a_file_comes_back_as_it_was(name, tmp_path):
    for content in json.loads((ROOT / "docs" / name).read_text()).values():
        result = BenchmarkResult.of_json(content)
        assert json.dumps(result.json()) == json.dumps(content)
        result.write(tmp_path / "a.json")
        assert BenchmarkResult.read(tmp_path / "a.json") == result


def test_a_second_share_of_false_searches_is_kept_where_it_is_known(tmp_path):
    rows = {name: SearchScores({"1": 1.0}, 0.5, {}, 3.0, strict) for name, strict in (("old", None), ("new", 0.25))}
    result = BenchmarkResult({"a": ConditionResult(search=rows)}, 0.5, 1, 1, 0, {})
    written = result.json()["conditions"]["a"]["search"]
    assert "strict_tpr" not in written["old"] and written["new"]["strict_tpr"] == 0.25
    result.write(tmp_path / "a.json")
    assert BenchmarkResult.read(tmp_path / "a.json") == result


def test_draws_are_left_out_where_results_are_merged():
    row = PairScores((0.1, 0.2), 0.5, 0.5, 0.5, {}, draws={"tpr": [0.1]})
    content = {"conditions": {}, "cap": 0.5, "pairs": 1, "queries": 1, "seed": 0, "subjects": {}}
    result = BenchmarkResult.of_json(content)
    result.conditions["a"] = BenchmarkResult.of_json(
        {**content, "conditions": {"a": {"pairs": {"absent": {"missing": "weights not given"}}, "search": {}}}}
    ).conditions["a"]
    result.conditions["a"].pairs["given"] = row
    whole, merged = (result.json(draws=draws)["conditions"]["a"] for draws in (True, False))
    assert whole["pairs"]["given"]["draws"] == {"tpr": [0.1]} and "draws" not in merged["pairs"]["given"]
    assert whole["pairs"]["absent"] == merged["pairs"]["absent"] == {"missing": "weights not given"}
    assert "audit" not in whole and "reference_minus" not in whole["pairs"]["given"]


def test_differences_are_taken_draw_by_draw():
    """Draws that move together differ by a constant, whatever their spread."""
    draws = np.random.default_rng(0).random(200)
    rows = [PairScores((0, 1), 0, 0, 0, {}, draws={"tpr": (draws + d).tolist()}) for d in (0.25, 0.0)]
    assert rows[1].against(rows[0]).reference_minus == {"tpr": [0.25, 0.25]}
    without = PairScores((0, 1), 0, 0, 0, {})
    assert without.against(rows[0]) is without


def test_interval_holds_the_middle_of_the_draws():
    assert interval(np.arange(1001)) == [25, 975]
