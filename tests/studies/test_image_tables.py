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

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image
from scripts.bundle.files import read_table, write_table
from scripts.studies.image_tables import export_images, one_scan_each, subject_rows
from scripts.studies.study_results import Cell


def test_slices_are_exported_once_with_their_columns(tmp_path):
    volume = [{"image": torch.full((1, 8, 6), i / 10), "level": 10.0 * i} for i in range(5)]
    calls = []

    def chain(item):
        calls.append(item)
        return volume

    items = [{"image": "a.nii", "id": "a.nii", "subject_id": "a", "age": "40"}]
    for _ in range(2):
        path = export_images(items, chain, [21.0], tmp_path / "slices")
    assert read_table(path) == [{"image": "a.png", "subject_id": "a", "age": "40"}] and len(calls) == 1
    assert np.asarray(Image.open(path.parent / "a.png")).shape == (6, 8)
    assert np.asarray(Image.open(path.parent / "a.png"))[0, 0] == 51
    many = export_images(items, chain, [9.0, 31.0], tmp_path / "many")
    assert [row["image"] for row in read_table(many)] == ["a_0.png", "a_1.png"]
    assert np.asarray(Image.open(many.parent / "a_1.png"))[0, 0] == 76


def test_several_scans_of_a_person_are_files_of_their_own(tmp_path):
    items = [{"image": f"{n}.nii", "id": f"{n}.nii", "subject_id": "ab"[n == 2], "value": n} for n in range(3)]

    def chain(item):
        return [{"image": torch.full((1, 8, 6), item["value"] / 5), "level": 10.0}]

    rows = read_table(export_images(items, chain, [10.0], tmp_path))
    assert [(row["image"], row["subject_id"]) for row in rows] == [("a.png", "a"), ("a_scan2.png", "a"), ("b.png", "b")]
    assert [int(np.asarray(Image.open(tmp_path / row["image"])).max()) for row in rows] == [0, 51, 102]


def test_one_scan_of_each_person_whose_values_are_known():
    ages = [("a", "n/a"), ("a", 30), ("a", 31), ("b", 40), ("c", None)]
    items = [{"image": f"{n}", "id": f"{n}", "subject_id": name, "age": age} for n, (name, age) in enumerate(ages)]
    assert [item["id"] for item in one_scan_each(items, ["age"])] == ["1", "3"]
    assert [item["id"] for item in one_scan_each(items)] == ["0", "3", "4"]
    with pytest.raises(
        ValueError, match="expected images of people with age and sex, found none among 5; give people_"
    ):
        one_scan_each(items, ["age", "sex"])


def test_volumes_are_exported_whole(tmp_path):
    volume = torch.rand(1, 8, 6, 5)
    items = [{"image": "a.nii", "id": "a.nii", "subject_id": "a"}]
    path = export_images(items, lambda item: {"image": volume}, None, tmp_path / "volumes", pixel_mm=4.0)
    assert [row["image"] for row in read_table(path)] == ["a.nii.gz"]
    written = nibabel.load(path.parent / "a.nii.gz")
    assert np.allclose(written.get_fdata(), volume[0]) and written.header.get_zooms() == (4.0, 4.0, 4.0)
    assert nibabel.aff2axcodes(written.affine) == ("R", "A", "S")


@pytest.fixture
def tables(tmp_path):
    """A table of 14 subjects, three of whom lack a value."""
    rows = [{"image": f"s{n:02d}.png", "subject_id": f"s{n:02d}", "age": 20 + n, "sex": "MF"[n % 2]} for n in range(14)]
    rows[0]["age"], rows[1]["sex"], rows[2]["age"] = "n/a", "", "n/a"
    write_table(tmp_path / "slices.csv", rows)
    return {"one": tmp_path / "slices.csv"}


def test_a_conditioned_cell_trains_on_subjects_with_all_values(tables):
    lacking, cell = {"s00", "s01", "s02"}, Cell("a", 7)
    for seed in range(5):
        plain, known, unseen = (
            {row["subject_id"] for row in subject_rows(tables, needed, cell, seed, training)}
            for needed, training in (([], True), (["age", "sex"], True), (["age", "sex"], False))
        )
        assert len(plain) == len(known) == 7 and known | unseen == {f"s{n:02d}" for n in range(14)}
        assert not known & lacking
        assert plain - lacking <= known  # as few others as can be


def test_fewer_subjects_are_among_the_more_and_paths_are_absolute(tables, tmp_path):
    few, more = (subject_rows(tables, [], Cell("a", count), 3, True) for count in (4, 9))
    assert {row["subject_id"] for row in few} < {row["subject_id"] for row in more}
    assert few[0]["image"] == str(tmp_path / f"{few[0]['subject_id']}.png")
    with pytest.raises(ValueError, match="slices: expected one of one, got 'all'"):
        subject_rows(tables, [], Cell("a", 4, slices="all"), 0, True)
