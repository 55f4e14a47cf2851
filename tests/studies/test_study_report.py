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

from helpers import ROOT
from PIL import Image
from scripts.studies.study_report import plot_study, progress, table


def test_table_shows_what_the_documentation_does(documented):
    text, page = table(documented), (ROOT / "docs" / "case_study.md").read_text()
    assert "| many, 0 | 100 subjects x many slices, 44 passes | 0.000 (0.000 to 0.038) |  |" in text
    assert "100 subjects x 1-14 copies, 53 passes, variables" in text
    assert [row for row in text.splitlines() if row not in page] == []


def test_every_row_has_all_its_columns(documented):
    for line in table(documented).splitlines():
        assert not line or line.count("|") in (11, 8, 5)


def test_progress_is_one_line(documented):
    assert progress(documented.cells[0]).startswith(
        "many, seed 0: 0.0% of samples called (0.0% to 3.8%), 0 of 100 subjects leaked; positive control 98%; 20 min"
    )


def test_figure_shows_a_study_with_and_without_repeated_subjects(documented, tmp_path):
    plot_study(documented, tmp_path / "all.png")
    plot_study(replace(documented, cells=documented.cells[:1], by_copies=None), tmp_path / "once.png")
    for name in ("all.png", "once.png"):
        with Image.open(tmp_path / name) as figure:
            assert figure.size == (1980, 570)
