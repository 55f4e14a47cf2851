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

import errno
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import read
from scripts.report.report import Report
from scripts.report.summary import Timing

FILES = ["candidates.csv", "matches.csv", "report.html", "report.json", "slices.csv"]


@pytest.fixture
def report(tmp_path) -> Report:
    (tmp_path / "model.pt").write_bytes(b"abc")
    return Report(tmp_path / "out", tmp_path / "model.pt")


def written(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if not path.name.startswith(".")}


def test_everything_is_written_and_said(report, result):
    text = report.write(result, Timing(1.0, 3)).text
    assert list(written(report.output_dir)) == FILES
    assert text.splitlines()[-1] == f"Report: {report.output_dir / 'report.html'}"
    timing = json.loads((report.output_dir / "report.json").read_text())["timing"]
    assert timing["embedded"] == 3 and timing["seconds"] >= 1
    assert "data:image/png" in (report.output_dir / "report.html").read_text()


def test_a_parquet_table_stands_beside_a_large_one_and_goes_with_it(report, result, monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow, an extra")
    with monkeypatch.context() as patch:
        patch.setattr("scripts.report.report.PARQUET_ABOVE", 5)  # of six rows
        report.write(result, Timing(1.0, 3))
    assert list(written(report.output_dir)) == sorted([*FILES, "matches.parquet"])
    table = parquet.read_table(report.output_dir / "matches.parquet")
    assert table["generated_id"].to_pylist() == [item["id"] for item in result.generated.items]
    report.write(result, Timing(1.0, 3))  # a smaller audit
    assert list(written(report.output_dir)) == FILES


def test_without_pyarrow_the_csv_is_enough(report, result, monkeypatch, caplog):
    monkeypatch.setattr("scripts.report.report.PARQUET_ABOVE", 5)
    monkeypatch.setattr("scripts.report.report.find_spec", lambda name: None)
    caplog.set_level("INFO")
    report.write(result, Timing(1.0, 3))
    assert list(written(report.output_dir)) == FILES and "pyarrow is not installed" in caplog.text


def test_the_time_that_pictures_take_counts(report, result, monkeypatch):
    monkeypatch.setattr("scripts.report.report.draw_pictures", lambda *_: time.sleep(0.3))
    report.write(result, Timing(1.0, 3))
    assert json.loads((report.output_dir / "report.json").read_text())["timing"]["seconds"] >= 1.3


def test_without_thumbnails_the_page_shows_no_image(report, result):
    report.thumbnails = False
    report.write(result, Timing(1.0, 3))
    assert "data:image/png" not in (report.output_dir / "report.html").read_text()


def test_files_of_two_audits_never_stand_side_by_side(report, result, volumes, monkeypatch):
    report.write(result, Timing(1.0, 3))
    before, replace = written(report.output_dir), Path.replace

    def full(path: Path, target: Path) -> Path:
        if Path(target).name == "report.json":
            raise OSError(errno.ENOSPC, "no space")
        return replace(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        with pytest.raises(OSError, match="no space"):
            report.write(volumes, Timing(2.0, 0))
    after = written(report.output_dir)
    assert "report.html" not in after and "report.json" not in after
    assert after["matches.csv"] != before["matches.csv"] and after["slices.csv"] != before["slices.csv"]
    report.write(volumes, Timing(2.0, 0))
    assert list(written(report.output_dir)) == FILES


def test_names_are_shown_unless_they_are_to_be_hidden(report, result):
    text = report.write(result, Timing(1.0, 3)).text
    assert "patient003" in text and "patient003" in (report.output_dir / "matches.csv").read_text()


def test_folders_that_do_not_exist_are_made(result, tmp_path):
    (tmp_path / "model.pt").write_bytes(b"abc")
    Report(tmp_path / "one" / "two", tmp_path / "model.pt").write(result, Timing(1.0, 3))
    assert list(written(tmp_path / "one" / "two")) == FILES


def test_what_is_as_alike_as_copies_and_not_called_stands_in_a_table_of_its_own(report, result):
    uncalled = replace(result, decision=replace(result.decision, memorized=np.zeros(6, bool)))
    report.write(uncalled, Timing(1.0, 3))
    assert [row["generated_id"] for row in read(report.output_dir / "candidates.csv")] == ["sample000", "sample001"]
    candidates = json.loads((report.output_dir / "report.json").read_text())["candidates"]
    assert candidates == {"count": 2, "ids": ["sample000", "sample001"]}
