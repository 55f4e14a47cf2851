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
import pytest
from helpers import slices
from PIL import Image
from scripts.bundle.files import read_table, write_table
from scripts.similarity.verification import Verifier
from scripts.studies.contact_sheets import contact_sheets

IMAGES = slices(4, 2).images


def chain(item):
    return {"image": IMAGES[[int(item["image"])]], "level": np.nan, "slice": -1}


@pytest.fixture
def study(tmp_path):
    """Two audited models, of eight generated images each, three of them called."""
    for cell in ("a_0", "b_0"):
        rows = [
            {
                "generated_id": f"{n}.png",
                "generated_path": str(n),
                "train_path": str(n // 2 * 2),
                "train_subject": f"s{n // 2}",
                "aligned_ssim": 0.5,
                "q_value": 0.01 if n < 3 else 1,
                "label": "similar",
                "memorized": int(n < 3),
            }
            for n in range(8)
        ]
        write_table(tmp_path / "cells" / cell / "audit" / "matches.csv", rows)
    return tmp_path


def test_pairs_are_drawn_shuffled_and_named(study):
    pages = contact_sheets(study, chain, Verifier(), count=4, page=3)
    rows = read_table(study / "contact_sheet.csv")
    called = [row["memorized"] for row in rows]
    assert called.count("1") == called.count("0") == 4 and called != sorted(called)
    assert [row["pair"] for row in rows] == [str(n) for n in range(8)]
    assert len({(row["cell"], row["generated_id"]) for row in rows}) == 8
    assert [page.name for page in pages] == [f"contact_sheet_{n}.png" for n in (1, 2, 3)]  # 3, 3 and 2 pairs
    with Image.open(pages[0]) as sheet:
        assert sheet.size == (1320, 550) and np.asarray(sheet).std() > 10


def test_all_of_a_kind_are_shown_where_fewer_exist(study):
    contact_sheets(study, chain, Verifier(), count=8, page=20)
    assert [row["memorized"] for row in read_table(study / "contact_sheet.csv")].count("1") == 6
