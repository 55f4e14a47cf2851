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
import re
from dataclasses import replace

import pytest
from helpers import ROOT
from scripts.studies.benchmark_report import plot_scores, tables
from scripts.studies.benchmark_results import BenchmarkResult


@pytest.fixture(scope="module")
def result():
    return BenchmarkResult.of_json(json.loads((ROOT / "docs" / "benchmark.json").read_text())["whole"])


def test_tables_are_those_of_the_documentation(result):
    """Whose page shows this file's tables."""
    text, page = tables(result), (ROOT / "docs" / "benchmark.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("|") and "---" not in line]
    assert len(rows) > 40 and all(line.count("|") == 7 or line.count("|") == 5 for line in rows)
    assert "| SSCD | weights not given | | | | |" in rows
    shown = [row for row in rows if re.search(r"[0-9]\.[0-9]{3}", row)]
    assert sum(row in page for row in shown) == len(shown)


def test_tables_of_chest_x_rays_are_those_of_the_documentation():
    """Where a method was added later its audits may lack."""
    result = BenchmarkResult.of_json(json.loads((ROOT / "docs" / "benchmark_chest.json").read_text())["whole"])
    rows = [line for line in tables(result).splitlines() if re.search(r"[0-9]\.[0-9]{3}", line)]
    page = (ROOT / "docs" / "benchmark.md").read_text()
    assert len(rows) > 40 and all(row in page for row in rows)
    lacking = set(result.conditions["strong"].search) - set(result.conditions["strong"].audit)
    assert lacking and all(
        any(row.startswith(f"| {name} |") and row.endswith("|  |  |") for row in rows) for name in lacking
    )


def test_a_second_share_of_false_searches_is_a_column_where_it_is_known(result):
    first, *others = result.conditions["aligned"].search.items()
    known = replace(first[1], strict_tpr=0.25, ci95={**first[1].ci95, "strict_tpr": [0.125, 0.5]})
    condition = replace(result.conditions["aligned"], search=dict([(first[0], known), *others]))
    lines = tables(replace(result, conditions={"aligned": condition})).splitlines()
    head = next(line for line in lines if "TPR at 0.1 % false searches" in line)
    rows = lines[lines.index(head) + 2 :]
    assert all(row.count("|") == head.count("|") == 6 for row in rows)
    assert "| 0.25 (0.12 to 0.50) |" in rows[0] and "|  |" in rows[1]
    assert "0.1 %" not in tables(result)


def test_figure_has_a_panel_for_each_method_and_condition(result, tmp_path):
    plot_scores(result, tmp_path / "scores.png")
    assert (tmp_path / "scores.png").read_bytes().startswith(b"\x89PNG")
