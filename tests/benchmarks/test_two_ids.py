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

"""The study of people under two ids: what it plants is what it counts, and its table adds up."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT
from two_ids import SECOND, Row, TwoIds, table


@pytest.fixture(scope="module")
def slices(ixi: Path, tmp_path_factory: pytest.TempPathFactory) -> TwoIds:
    """A slice of each of 16 subjects."""
    split = tmp_path_factory.mktemp("split") / "split.json"
    parts = json.loads((ROOT / "configs" / "splits" / "ixi.json").read_text())
    split.write_text(json.dumps({"few": parts["test"][:16]}))
    quick = {"control_images": 1, "null_transform": "none", "bends": []}
    return TwoIds(str(ixi / "participants.tsv"), str(split), parts=["few"], levels=1, **quick)


def test_a_second_scan_is_another_image_of_the_same_person(slices):
    both, once, generated, pairs = slices.draw(10, 0.3, seed=0)
    assert pairs == 3 and len(both) == 13 and len(once) == 10 and len(generated) == 40
    ids = both.subject_ids.tolist()
    for name in ids[:3]:
        first, second = (both.images[ids.index(n)].astype(float) for n in (name, name + SECOND))
        assert 0.9 < np.corrcoef(first.ravel(), second.ravel())[0, 1] < 1 - 1e-4


def test_what_is_planted_is_counted(slices):
    row = slices.row(10, 0.2, seed=1)
    assert (row.people, row.pairs, row.wrong) == (10, 2, 0) and row.found <= 2
    assert 0 <= row.false_share <= 1 and 0 <= row.recall <= 1 and 0 <= row.one_id <= 1
    assert slices.row(10, 0.0, seed=1).pairs == 0


def test_the_table_adds_up():
    rows = [
        Row(20, 0.1, 0, 2, 2, 0, 0.9, 0.0, 1.0),
        Row(20, 0.1, 1, 2, 1, 1, 0.7, 0.1, 0.8),
        Row(20, 0, 0, 0, 0, 0, 1, 0, 1),
    ]
    assert table(rows).splitlines()[2:] == [
        "| 20 | 0% | 1 | - | 0 | 1.00; 1.00 | 0.000 |",
        "| 20 | 10% | 2 | 3 of 4 | 1 | 0.80; 0.90 | 0.050 |",
    ]
