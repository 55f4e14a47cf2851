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
from scripts.images.rows import read_json, read_rows


@pytest.mark.parametrize("name", ["a.json", "a.csv"])
def test_a_byte_order_mark_is_passed_over(tmp_path, name):
    text = '[{"image": "a.png"}]' if name.endswith("json") else "image\na.png\n"
    (tmp_path / name).write_text(text, encoding="utf-8-sig")
    assert read_rows(tmp_path / name) == [{"image": "a.png"}]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('[{"image": "a.png", "image": "b.png"}]', "a key twice in one object \\(image, image\\)"),
        ("[" * 99_999, "lists too deep in each other"),
        (f"[{'9' * 5000}]", "a number of 5000 digits"),
        ("[", "Expecting value: line 1"),
    ],
)
def test_json_that_cannot_be_read_is_one_sentence(tmp_path, text, found):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=f"^.*a.json: expected JSON, found {found}.*; repair the file$"):
        read_json(tmp_path / "a.json")
    with pytest.raises(ValueError, match=f"a.json: expected a datalist in UTF-8, found {found}"):
        read_rows(tmp_path / "a.json")


@pytest.mark.parametrize("column", ["Subject_ID", "subject id", "SubjectID", "subject-id", "subject", "SUBJECT"])
def test_a_column_by_another_name_is_not_passed_over(tmp_path, column):
    """Its ids would be left out without a word, and every file be a subject."""
    path = tmp_path / "a.csv"
    path.write_text(f"image,{column}\na.png,1\n")
    with pytest.raises(ValueError, match=f"a.csv: expected a column 'subject_id', found '{column}'; rename it"):
        read_rows(path)
    path.write_text(f"image,{column},subject_id\na.png,1,2\n")
    assert read_rows(path) == [{"image": "a.png", column: "1", "subject_id": "2"}]


def test_columns_that_mean_nothing_here_pass(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("image,sub,levels,Age,\na.png,1,2,3,4\n")
    assert len(read_rows(path)[0]) == 5


def test_semicolons_separate_where_the_header_has_no_comma(tmp_path):
    path = tmp_path / "l.csv"
    path.write_bytes("\ufeffimage;subject_id;level\r\na.png;P1;48,0\r\n".encode())
    assert read_rows(path) == [{"image": "a.png", "subject_id": "P1", "level": "48,0"}]
    path.write_text("image,note\na.png,one; two\n")
    assert read_rows(path) == [{"image": "a.png", "note": "one; two"}]


def test_another_encoding_is_said(tmp_path):
    (tmp_path / "l.csv").write_bytes("image\na.png\n".encode("utf-16"))
    with pytest.raises(ValueError, match="a datalist in UTF-8, found another encoding; save it as UTF-8"):
        read_rows(tmp_path / "l.csv")


def test_several_files_of_one_image_are_refused(tmp_path):
    (tmp_path / "a.json").write_text('[{"image": ["t1.nii", "t2.nii"]}]')
    with pytest.raises(ValueError, match="expected a path under 'image', found 2 in row 1; give one image a row"):
        read_rows(tmp_path / "a.json")
