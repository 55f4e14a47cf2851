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
from dataclasses import replace

from scripts.studies.study_results import CellResult


def test_a_file_comes_back_as_it_was(documented, documented_json, tmp_path):
    assert json.dumps(documented.json()) == json.dumps(documented_json)
    cell = documented.cells[0]
    cell.write(tmp_path / "result.json")
    assert CellResult.read(tmp_path / "result.json") == cell


def test_a_study_without_repeated_subjects_says_so(documented):
    found = replace(documented, by_copies=None).json()
    assert list(found) == ["samples", "cells", "copies", "seen"] and found["copies"] is None
