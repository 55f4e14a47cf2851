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


"""Copies agree in their detail, strangers and mixtures less, whatever blur does to either."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scripts.similarity.detail import detail_agreement
from scripts.similarity.verification import Verifier
from textures import SHAPE, textured

EVERYWHERE = np.ones((1, *SHAPE), bool)


def agreement(query: np.ndarray, reference: np.ndarray, mask: np.ndarray = EVERYWHERE) -> float:
    return detail_agreement(query[None].astype(np.float32), reference[None].astype(np.float32), mask)[0]


@pytest.fixture(scope="module")
def people() -> list[np.ndarray]:
    return [textured(seed, smoothness=1.2) for seed in range(4)]


def test_a_copy_agrees_whatever_its_blur_noise_and_contrast(people):
    rng = np.random.default_rng(0)
    for image in people:
        assert agreement(image, image) == pytest.approx(1)
        for sigma in (0.5, 1.0, 1.5):
            assert agreement(gaussian_filter(image, sigma), image) > 0.98
        assert agreement(0.2 + 0.5 * image, image) == pytest.approx(1)
        assert agreement(image + 0.02 * rng.normal(size=SHAPE), image) > 0.95
        assert agreement(1 - image, image) == pytest.approx(-1, abs=0.2)


def test_a_mixture_agrees_as_far_as_its_share(people):
    """Of independent textures the correlation is w / sqrt(w^2 + (1 - w)^2)."""
    mask = np.zeros((1, *SHAPE), bool)
    mask[:, 20:76, 24:88] = True  # without the outlines, which agree
    for weight in (0.3, 0.5, 0.7, 0.9):
        mixed = weight * people[0] + (1 - weight) * people[1]
        expected = weight / np.hypot(weight, 1 - weight)
        assert agreement(mixed, people[0], mask) == pytest.approx(expected, abs=0.1)
    assert abs(agreement(people[0], people[1], mask)) < 0.2


def test_nothing_to_compare_is_no_agreement(people):
    flat = np.full(SHAPE, 0.5)
    assert agreement(flat, people[0]) == agreement(people[0], flat) == 0
    assert agreement(people[0], people[0], ~EVERYWHERE) == 0
    assert agreement(people[0], people[0], np.indices(SHAPE)[0][None] == 5) == 0  # a line has no inside
    assert len(detail_agreement(np.zeros((0, *SHAPE)), np.zeros((0, *SHAPE)), np.zeros((0, *SHAPE), bool))) == 0


def test_the_verifier_aligns_first_and_blocks_change_nothing(people):
    queries = np.stack([image[:, ::-1] for image in people])
    references = np.stack(people)
    matrix = Verifier().align(queries, references).matrix
    found = Verifier().detail(queries, references, matrix)
    assert found.min() > 0.98
    assert Verifier().detail(queries, references, np.repeat(np.eye(2, 3)[None], 4, 0)).max() < 0.95
    np.testing.assert_allclose(Verifier(block=3).detail(queries, references, matrix), found)
