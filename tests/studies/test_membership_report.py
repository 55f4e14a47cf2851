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

import pytest
from PIL import Image
from scripts.studies.coincidence import coincidence
from scripts.studies.membership_report import membership_table, plot_membership
from scripts.studies.study_report import table
from scripts.studies.study_results import AttackedSubject


@pytest.fixture
def attacked(documented):
    """Models of a study: not attacked, attacked, attacked where nobody leaked, and where nobody else was."""
    people = [AttackedSubject(f"m{i}", True, -0.1 * i, i < 4, max(0, 4 - i)) for i in range(10)]
    others = [AttackedSubject(f"o{i}", False, -0.55 - i, False, 0) for i in range(5)]
    none = [replace(person, leaked=False, called=0) for person in people]
    found = [None, *map(coincidence, (people + others, none + others, people))]
    return [replace(cell, membership=one) for cell, one in zip(documented.cells, found)]


def test_the_table_has_a_row_for_each_model_that_was_attacked(attacked):
    lines = list(membership_table(attacked))
    assert len(lines) == 5 and {line.count("|") for line in lines} == {9}
    assert lines[2].startswith("| high, 0 | 10, 5 | 0.92 (")
    assert "| 0.60 | 4 of 4 | 2 of 6 | 1.00 (0.40 to 1.00) | 0.89 |" in lines[2]
    assert lines[3].endswith("| 0 of 0 | 6 of 10 | none: no member leaked | none: no sample was called |")
    assert "| none: nobody whom the model never saw | none: nobody whom the model never saw |  |  |" in lines[4]


def test_the_study_shows_it_below_its_other_tables(documented, attacked):
    shown = table(replace(documented, cells=attacked))
    assert shown.startswith(table(replace(documented, cells=documented.cells[:4])))
    assert shown.endswith("\n\n" + "\n".join(membership_table(attacked)) + "\n")


def test_models_that_were_not_attacked_have_no_table_and_no_figure(documented, tmp_path):
    assert list(membership_table(documented.cells)) == []
    plot_membership(documented.cells, tmp_path / "none.png")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("models, size", [(1, (495, 465)), (3, (1485, 465)), (5, (1980, 930))])
def test_the_figure_has_a_panel_for_each_model(attacked, tmp_path, models, size):
    plot_membership([attacked[0], *(attacked[1:] * 2)[:models]], tmp_path / "membership.png")
    with Image.open(tmp_path / "membership.png") as figure:
        assert figure.size == size
