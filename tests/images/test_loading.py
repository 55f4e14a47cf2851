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

import numpy as np
import pytest
import torch
from scripts.images.loading import SliceSet, prepared_images


def test_slices_nearest_to_the_levels_are_taken():
    volume = [{"image": torch.full((1, 4, 4), float(i)), "level": 10.0 * i} for i in range(5)]
    planar = {"image": torch.zeros(1, 4, 4)}
    chain = {"v.nii": volume, "p.png": planar}
    items = [{"id": name, "subject_id": name[0], "path": name} for name in chain]
    chosen = prepared_images(items, lambda item: chain[item["path"]], levels=[12.0, 38.0, 41.0])
    assert [s["id"] for s in chosen] == ["v.nii#z=1", "v.nii#z=4", "p.png"]  # two levels may mean one slice
    assert [s["subject_id"] for s in chosen] == ["v", "v", "p"] and chosen[1]["level"] == 40.0
    assert len(prepared_images(items, lambda item: chain[item["path"]])) == 6


def test_a_set_of_slices_has_numbered_subjects_and_levels():
    volume = [{"image": torch.full((1, 4, 6), float(i)), "level": 10.0 * i} for i in range(2)]
    chain = {"v": volume, "p": {"image": torch.ones(1, 4, 6), "level": float("nan")}, "q": volume[1]}
    items = [{"id": n, "image": n, "subject_id": s} for n, s in (("v", "b"), ("p", "c"), ("q", "a"))]
    found = SliceSet.load(items, lambda item: chain[item["image"]])
    assert found.images.dtype == np.float32 and found.images[:, 0, 0].tolist() == [0, 1, 1, 1]
    assert found.images.shape == (4, 4, 6) and found.subjects == 3
    assert found.subject.tolist() == [1, 1, 2, 0]
    np.testing.assert_array_equal(found.level, [0, 10, np.nan, 10])


def test_the_items_are_left_as_they_are():
    item = {"id": "a", "image": "a.png", "subject_id": "s", "mask": "m.nii"}

    def chain(given):
        given.pop("mask")
        return given | {"image": torch.zeros(1, 2, 2)}

    prepared_images([item], chain)
    assert item == {"id": "a", "image": "a.png", "subject_id": "s", "mask": "m.nii"}


def test_levels_are_asked_of_slices_alone():
    volume = {"image": torch.zeros(1, 4, 4, 4), "level": np.nan, "slice": -1}
    assert len(prepared_images([{"id": "a"}], lambda item: volume)) == 1
    with pytest.raises(ValueError, match=r"levels: expected null, as volumes are kept whole, found \[48.0\]"):
        prepared_images([{"id": "a"}], lambda item: volume, levels=[48.0])
