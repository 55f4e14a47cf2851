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

from scripts.bundle.files import read_table, replacing, write_table


def test_file_takes_its_name_when_it_is_whole(tmp_path):
    target = tmp_path / "new" / "image.nii.gz"
    with replacing(target) as path:
        path.write_text("half")
        assert not target.exists() and path.name.startswith(".") and path.name.endswith(".nii.gz")
    assert target.read_text() == "half" and list(target.parent.iterdir()) == [target]


def test_an_error_leaves_what_was_there(tmp_path):
    target = tmp_path / "table.csv"
    target.write_text("old")
    with pytest.raises(OSError, match="No space left"), replacing(target) as path:
        path.write_text("new, but not all of i")
        raise OSError(28, "No space left on device")
    assert target.read_text() == "old" and list(tmp_path.iterdir()) == [target]


def test_a_block_that_writes_nothing_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "table.csv"):
        pass


def test_a_table_is_read_as_it_was_written(tmp_path):
    write_table(tmp_path / "new" / "table.csv", [{"a": 1, "b": 'x, "y"'}, {"a": 2, "c": 0.5}])
    assert read_table(tmp_path / "new" / "table.csv") == [
        {"a": "1", "b": 'x, "y"', "c": ""},
        {"a": "2", "b": "", "c": "0.5"},
    ]
