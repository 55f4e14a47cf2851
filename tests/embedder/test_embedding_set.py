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

import numpy as np
import pytest
from scripts.embedder.embedding_set import EmbeddedImage, EmbeddingSet


@pytest.fixture
def found() -> EmbeddingSet:
    """A planar image, a volume of three slices, and a planar image with the pixels of the first."""
    rng = np.random.default_rng(0)
    pixels = rng.random((4, 3, 2)).astype(np.float16)[[0, 1, 2, 3, 0]]
    vectors = rng.normal(size=(5, 6)).astype(np.float32)
    places, levels = [-1, 7, 9, 11, -1], [float("nan"), 12.0, 16.0, 20.0, 3.5]
    rows = [EmbeddedImage(*row) for row in zip(pixels, places, levels, vectors)]
    items = [{"image": f"/d/{n}", "id": n, "subject_id": s} for n, s in (("a.png", "s1"), ("v.nii", "s2"), ("b", "s1"))]
    return EmbeddingSet.of([(items[0], rows[:1]), (items[1], rows[1:4]), (items[2], rows[4:])], [("c.png", "damaged")])


def test_rows_are_the_images_of_the_files_in_order(found):
    assert len(found) == 5 and found.file.tolist() == [0, 1, 1, 1, 2]
    assert found.slice.tolist() == [-1, 7, 9, 11, -1]
    np.testing.assert_array_equal(found.level, [np.nan, 12, 16, 20, 3.5])
    assert found.images.shape == (5, 3, 2) and found.images.dtype == np.float16
    assert found.vectors.shape == (5, 6) and found.vectors.dtype == np.float32
    assert [item["id"] for item in found.items] == ["a.png", "v.nii", "b"]
    assert found.skipped == [("c.png", "damaged")]


def test_ids_tell_the_slice_of_a_volume(found):
    assert [found.row_id(row) for row in range(5)] == ["a.png", "v.nii#z=7", "v.nii#z=9", "v.nii#z=11", "b"]
    assert found.subject_ids.tolist() == ["s1", "s2", "s2", "s2", "s1"]


def test_files_of_the_same_pixels_are_listed_together(found):
    assert found.repeated() == [["a.png", "b"]]
    alone = EmbeddingSet.of([(found.items[0], [EmbeddedImage(found.images[0], -1, 0.0, found.vectors[0])])])
    assert alone.repeated() == [] and alone.skipped == []


def test_files_that_another_set_shows_too_are_named_whatever_their_names(found):
    other = EmbeddingSet(
        [{"id": "other", "image": "other", "subject_id": "x"}],
        np.zeros(1, int),
        np.array([-1]),
        np.array([np.nan]),
        found.vectors[:1],
        np.flip(found.images[:1], 1),
        [],
    )
    assert found.shared(other) == []
    assert found.shared(found) == [item["id"] for item in found.items]
