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

from dataclasses import replace

import numpy as np
import pytest
from heads import FIELD, copy, head
from scripts.auditing.field_of_view import scrambled, shown_as, template_of
from scripts.embedder.embedding_set import EmbeddingSet


class Flat:
    """Embeds a volume as its coarse voxels."""

    def embed_images(self, images) -> np.ndarray:
        small = np.asarray(images, np.float32)[:, ::4, ::4, ::4].reshape(len(images), -1)
        return small / np.linalg.norm(small, axis=1, keepdims=True)


def volumes(images: np.ndarray) -> EmbeddingSet:
    count = len(images)
    items = [{"id": f"v{i}", "image": f"v{i}", "subject_id": f"v{i}"} for i in range(count)]
    places, levels = np.full(count, -1), np.full(count, np.nan)
    half = images.astype(np.float16)
    return EmbeddingSet(items, np.arange(count), places, levels, np.eye(count, 8, dtype=np.float32), half, [])


def test_volumes_are_laid_on_the_template_and_shown_where_it_shows_something():
    core = np.zeros(FIELD, bool)
    core[12:36, 14:42, 8:32] = True
    heads = np.stack([head(seed) for seed in range(4)])
    template = heads[1] * core  # a part of the second subject's head
    moved = np.stack([heads[0], copy(heads[1], 8, bend=0.0, turn=8.0), heads[2]])
    shown = shown_as(volumes(moved), template, 4.0, Flat())
    outside = shown.images.astype(np.float32)[:, ~core]
    assert (outside == 0).mean() > 0.8 and shown.images.max() == 1
    inside = [np.corrcoef(image[core].astype(float), template[core])[0, 1] for image in shown.images]
    assert np.argmax(inside) == 1
    np.testing.assert_allclose(shown.vectors, Flat().embed_images(shown.images), atol=1e-6)
    assert shown.items == volumes(moved).items


def test_the_template_is_the_volume_that_the_others_resemble():
    heads = np.stack([head(0), copy(head(0), 1, 0.0, 2.0), head(0), head(9)])
    data = volumes(heads.astype(np.float16))
    vectors = np.array([[1, 0], [0.9, 0.44], [0.6, -0.8], [0, 1]], np.float32)
    chosen = template_of(replace(data, vectors=vectors))
    np.testing.assert_array_equal(chosen, data.images[1].astype(np.float32))


def test_of_scrambled_volumes_the_outline_is_left():
    heads = np.stack([head(0), head(1), np.zeros(FIELD, np.float32)])
    found = scrambled(heads, np.random.RandomState(0))
    assert ((found > 0) == (heads > 0)).all()
    for before, after in zip(heads[:2], found):
        inside = before > 0
        assert after[inside].mean() == pytest.approx(before[inside].mean(), abs=0.05)
        assert abs(np.corrcoef(after[inside], before[inside])[0, 1]) < 0.1


def test_an_empty_template_shows_nothing():
    shown = shown_as(volumes(np.stack([head(0)])), np.zeros(FIELD, np.float32), 4.0, Safe())
    assert not shown.images.any()


class Safe(Flat):
    def embed_images(self, images) -> np.ndarray:
        return np.ones((len(images), 2), np.float32)
