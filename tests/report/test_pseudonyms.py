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
"""Audits of small synthetic sets: what must be called, what must not, and what is degenerate."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from scripts.report.pseudonyms import pseudonymised
from scripts.report.report import Report
from scripts.report.summary import Timing


def test_no_output_names_a_real_scan(result, tmp_path):
    (tmp_path / "model.pt").write_bytes(b"weights")
    for hidden in (True, False):
        folder = tmp_path / str(hidden)
        text = Report(folder, tmp_path / "model.pt", pseudonymize=hidden).write(result, Timing(1.0, 0))
        for path in [path for path in Path(folder).iterdir() if path.suffix in (".csv", ".json", ".html")]:
            text += path.read_text()
        assert "stranger" not in text, "no output names a holdout image"
        for name in ("patient0", "secret"):
            assert (name in text) is not hidden, f"{name}: {'must not be' if hidden else 'is expected'} in the outputs"
        assert ("subject-0003/image-000003" in text) is hidden and "sample000" in text


def test_numbers_stand_for_names_and_nothing_else_changes(result):
    hidden = pseudonymised(result)
    assert hidden.subject_names == [f"subject-{number:04d}" for number in range(20)]
    assert hidden.leaked == ["subject-0003", "subject-0008"] and result.leaked == ["patient003", "patient008"]
    assert hidden.train.skipped == [("train-0000", "unreadable")]
    assert hidden.holdout.skipped == [("holdout-0000", "unreadable")]
    assert len(set(hidden.train.subject_ids)) == len(set(result.train.subject_ids))
    assert hidden.generated is result.generated and hidden.decision is result.decision
    assert result.train.items[0]["id"] == "patient000", "the result itself keeps its names"


def test_a_merged_subject_has_one_number(result):
    names = ["patient000+patient001", *result.subject_names[2:]]
    number = (result.train_subject - 1).clip(0)
    merged = replace(result, subject_names=names, train_subject=number, merged=[["patient000", "patient001"]])
    hidden = pseudonymised(merged)
    assert hidden.merged == [["subject-0000"]]
    assert [item["id"] for item in hidden.train.items[:3]] == [
        "subject-0000/image-000000",
        "subject-0000/image-000001",
        "subject-0001/image-000002",
    ]
