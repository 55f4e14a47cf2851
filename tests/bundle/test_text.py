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

import csv
import io

import pytest
from scripts.bundle.text import encodable, spreadsheet_cell, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("scan 1.png", "scan 1.png"),
        ("Größe 脳.png", "Größe 脳.png"),
        ("a\x1b[2Jb", "a\\x1b[2Jb"),
        ("a\nb\tc", "a\\nb\\tc"),
        ("exe\u202egnp.b", "exe\\u202egnp.b"),
        ("line\u2028end", "line\\u2028end"),
        ("\udcff", "\\udcff"),  # a byte of a name that is no UTF-8
        ("", ""),
    ],
)
def test_what_would_be_obeyed_is_shown(text, shown):
    assert visible(text) == shown
    assert visible(shown) == shown, "what is shown once stays as it is"


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_a_formula_is_text_in_a_spreadsheet(text):
    cell = spreadsheet_cell(text)
    assert cell == "'" + visible(text)
    assert next(csv.reader(io.StringIO(cell))) == [cell]


@pytest.mark.parametrize(("encoding", "shown"), [("ascii", "Gr\\xf6\\xdfe"), ("latin-1", "Größe"), (None, "Größe")])
def test_what_a_terminal_cannot_show_is_escaped(encoding, shown):
    assert encodable("Größe", encoding) == shown


def test_other_cells_stay():
    assert [spreadsheet_cell(text) for text in ("", "a=b", "1.5", "scan.png")] == ["", "a=b", "1.5", "scan.png"]
