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
from scripts.studies.image_tables import export_images, subject_rows
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
    lacking = {"s00", "s01", "s02"}
    free, bound = (Cell("a", 7, condition=condition) for condition in ("none", "variables"))
    for seed in range(5):
        plain, known, unseen = (
            {row["subject_id"] for row in subject_rows(tables, ["age", "sex"], cell, seed, training)}
            for cell, training in ((free, True), (bound, True), (bound, False))
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
