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
from scripts.similarity.registration import register, solve
from scripts.similarity.sampling import resample
from textures import SHAPE, moved, similarity, textured


@pytest.mark.parametrize(
    "matrix", [similarity(9, (4, -3), 1.05), similarity(-11, (0, 6), 0.95, (1, -1)), similarity(0, flip=(-1, 1))]
)
def test_a_known_motion_is_found(matrix):
    """`moved` samples the image at matrix @ x, so the map from the moved image to the image is the matrix itself."""
    image = textured(0)
    found = register(moved(image, matrix)[None], image[None])[0]
    np.testing.assert_allclose(found[:, :2], matrix[:, :2], atol=0.01)
    np.testing.assert_allclose(found[:, 2], matrix[:, 2], atol=0.3)  # pixels


def test_resampling_equals_scipy():
    images, matrices = (
        np.stack([textured(1), textured(2)]),
        [similarity(7, (2.5, -3.25), 1.04, (1, -1)), similarity(-30)],
    )
    expected = [moved(image, matrix, order=1) for image, matrix in zip(images, matrices)]
    np.testing.assert_allclose(resample(images, np.stack(matrices)), expected, atol=2e-6)
    np.testing.assert_allclose(resample(images, np.stack([np.eye(2, 3)] * 2)), images, atol=1e-6)
    assert resample(np.zeros((0, *SHAPE), np.float32), np.zeros((0, 2, 3))).shape == (0, *SHAPE)


@pytest.mark.parametrize("size", [1, 2, 7])
def test_solve_equals_lapack(size):
    rng = np.random.default_rng(size)
    root = rng.normal(size=(size + 3, size))
    matrix, right = root.T @ root + 0.1 * np.eye(size), rng.normal(size=size)
    np.testing.assert_allclose(solve(matrix.copy(), right), np.linalg.solve(matrix, right), rtol=1e-9)
    assert np.isnan(solve(-np.eye(size), right)).all()  # not positive definite: no number at all


def test_pairs_of_rows_are_registered_as_each_alone():
    queries = np.stack([textured(0), moved(textured(1), similarity(5, (2, 1))), textured(2)])
    references = np.stack([textured(1), textured(0)])
    pairs = np.array([2, 1, 0, 1]), np.array([0, 0, 1, 1])
    expected = register(queries[pairs[0]], references[pairs[1]])
    np.testing.assert_allclose(register(queries, references, pairs), expected, atol=1e-9)


@pytest.mark.parametrize("flip", [(1, 1), (1, -1), (-1, 1), (-1, -1)])
def test_a_start_that_is_nearly_right_is_refined(flip):
    matrix, image = similarity(6, (3, -2), 1.04, flip), textured(0)
    start = matrix + [[0.02, -0.02 * flip[0] * flip[1], 0.6], [0.02, 0.02, -0.6]]
    found = register(moved(image, matrix)[None], image[None], start=start[None])[0]
    np.testing.assert_allclose(found[:, :2], matrix[:, :2], atol=0.01)
    np.testing.assert_allclose(found[:, 2], matrix[:, 2], atol=0.3)  # pixels
