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

import csv
import io
from dataclasses import replace

import numpy as np
import pytest
from scripts.report.tables import MatchRow, MatchRows, SliceRow, groups, slice_rows, write_csv, write_parquet


def test_a_row_names_the_match_of_each_image(result):
    rows = MatchRows(result)
    assert [row.generated_id for row in rows] == [item["id"] for item in result.generated.items]
    assert [(row.train_id, row.train_subject, row.memorized) for row in rows[:2]] == [
        ("patient003", "patient003", 1),
        ("patient008", "patient008", 1),
    ]
    for unit, row in enumerate(rows):
        assert row.memorized == (row.q_value <= result.fdr) == result.memorized[unit]
        assert (
            row.aligned_ssim == result.found.aligned_ssim[unit].max() and row.label == result.label[unit].name.lower()
        )
    assert list(slice_rows(result)) == []


def test_a_volume_is_one_row_and_its_slices_are_rows_of_another_table(volumes):
    rows, slices = MatchRows(volumes), list(slice_rows(volumes))
    assert [row.generated_id for row in rows] == ["sample000", "sample001"] and rows[0].train_id == "patient002"
    assert len(slices) == 16 and [row.slice for row in slices[:8]] == list(range(8))
    own = [row for row in slices if row.generated_id == "sample000"]
    assert {row.train_id for row in own} == {"patient002"} and [row.train_slice for row in own] == list(range(8))
    assert rows[0].aligned_ssim == pytest.approx(np.mean([row.aligned_ssim for row in own]), rel=1e-6)


def test_an_image_without_a_statistic_has_none(result):
    unknown = replace(result, found=replace(result.found, statistic=np.full(6, -np.inf)))
    assert [row.statistic for row in MatchRows(unknown)] == [None] * 6


@pytest.mark.parametrize("kind", [MatchRow, SliceRow])
def test_csv_keeps_every_value_and_its_header_without_rows(kind, result, volumes):
    rows = MatchRows(result) if kind is MatchRow else list(slice_rows(volumes))
    text = io.StringIO()
    write_csv(text, kind, rows)
    read = list(csv.DictReader(io.StringIO(text.getvalue())))
    assert len(read) == len(rows)
    for cells, row in zip(read, rows):
        assert cells == {name: "" if value is None else str(value) for name, value in vars(row).items()}
    empty = io.StringIO()
    write_csv(empty, kind, [])
    assert empty.getvalue().strip().split(",") == list(kind.__annotations__)


def test_a_parquet_table_holds_the_rows_of_the_csv(result, tmp_path, monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow, an extra")
    monkeypatch.setattr("scripts.report.tables.ROW_GROUP", 4)  # of six rows
    unknown = replace(result, found=replace(result.found, statistic=np.r_[-np.inf, result.statistic[1:]]))
    write_parquet(tmp_path / "matches.parquet", MatchRows(unknown))
    table = parquet.read_table(tmp_path / "matches.parquet")
    assert table.to_pylist() == [vars(row) for row in MatchRows(unknown)] and table["statistic"][0].as_py() is None


def test_rows_are_those_of_a_list(result):
    rows = MatchRows(result)
    assert len(rows) == 6 and rows[-1] == rows[5] == list(rows)[5] and rows[1:3] == [rows[1], rows[2]]
    with pytest.raises(IndexError):
        rows[6]


def test_groups_are_those_of_a_column(result):
    items = [item | {"prompt": "ab"[number > 1]} for number, item in enumerate(result.generated.items)]
    grouped = replace(result, generated=replace(result.generated, items=items))
    found = groups(grouped, "prompt")
    assert {name: (group.images, group.memorized, group.leaks) for name, group in found.items()} == {
        "a": (2, 2, True),
        "b": (4, 0, False),
    }
    assert found["b"].p_value == pytest.approx(min(1, 4 * result.p_value[2:].min()))
    with pytest.raises(ValueError, match="sample000: expected a datalist column 'prompt', found none"):
        groups(result, "prompt")


def test_the_first_training_slice_is_a_match_and_none_is_not(volumes):
    image = volumes.found.image.copy()
    best = volumes.found.best[volumes.units.unit]
    image[0, best[0]], image[1, best[1]] = 0, -1
    changed = list(slice_rows(replace(volumes, found=replace(volumes.found, image=image))))
    assert len(changed) == 15 and (changed[0].train_id, changed[0].train_slice) == ("patient000", 0)
    assert changed[1:] == list(slice_rows(volumes))[2:]


def test_paths_and_names_of_the_match_stand_where_there_is_one(result):
    assert [row.train_path for row in MatchRows(result)[:2]] == ["patient003", "patient008"]
    nobody = np.full_like(result.found.subject, -1)
    rows = MatchRows(replace(result, found=replace(result.found, subject=nobody)))
    assert {(row.train_id, row.train_path, row.train_subject) for row in rows} == {("", "", "")}
