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
from scripts.similarity.squares import grid_of_squares, ssim_of_squares
from scripts.similarity.ssim import ssim_pairs
from textures import textured

SHAPE = (96, 112)


def pair(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    x = textured(seed).astype(np.float32)
    y = np.clip(0.8 * x + 0.2 * textured(seed + 1), 0, 1).astype(np.float32)
    return x, y, x > 0.05


def test_each_square_has_the_ssim_of_that_square_alone():
    x, y, mask = (np.stack(parts) for parts in zip(pair(0), pair(5)))
    grid = grid_of_squares(SHAPE, (16, 24))
    found = ssim_of_squares(x, y, mask, grid)
    known = np.flatnonzero(np.isfinite(found).all(0))
    assert len(known) > 300
    for w in known[::23]:
        row, column, side = grid[w]
        part = (slice(None), slice(row, row + side), slice(column, column + side))
        a, b, m = (np.ascontiguousarray(array[part]) for array in (x, y, mask))
        alone = ssim_pairs(a, b, form="foreground", data_range=1.0, foreground_x=m, foreground_y=m)
        np.testing.assert_allclose(found[:, w], alone, atol=1e-5)


def test_equal_images_agree_everywhere_and_background_is_not_compared():
    x, _, mask = pair(0)
    grid = grid_of_squares(SHAPE, (16,))
    found = ssim_of_squares(x[None], x[None], mask[None], grid)[0]
    np.testing.assert_allclose(found[np.isfinite(found)], 1, atol=1e-6)
    shown = np.array([mask[i : i + side, j : j + side].mean() for i, j, side in grid])
    assert (np.isfinite(found) == (shown > 0.6)).all() and np.isnan(found).any()
    assert np.isnan(ssim_of_squares(x[None], x[None], mask[None] & False, grid)).all()
    assert ssim_of_squares(x[None][:0], x[None][:0], mask[None][:0], grid).shape == (0, len(grid))


def test_a_square_that_shows_nothing_of_the_first_image_is_not_compared():
    x, _, mask = pair(0)
    half = mask.copy()
    half[:, 56:] = False
    cut, grid = np.where(half, x, 0)[None], grid_of_squares(SHAPE, (16,))
    found = ssim_of_squares(cut, cut, mask[None], grid, half[None])[0]
    shown = np.array([half[i : i + side, j : j + side].mean() for i, j, side in grid])
    assert (np.isfinite(found) == (shown > 0.6)).all()


def test_squares_lie_inside_the_image_and_reach_its_ends():
    grid = grid_of_squares((30, 20), (12, 18, 50))
    assert set(grid[:, 2]) == {12, 18, 20}, "a side is cut to the image's shorter one"
    for side in (12, 18, 20):
        first = grid[grid[:, 2] == side, :2]
        assert first.min() == 0 and (first.max(0) + side + side // 6 > [30, 20]).all()
        assert (first.max(0) + side <= [30, 20]).all()
    assert grid_of_squares((30, 20), ()).shape == (0, 3)


@pytest.mark.parametrize("square", [(0, 0, 6), (90, 0, 7), (0, -1, 12)])
def test_squares_that_cannot_be_compared_are_errors(square):
    images = np.zeros((1, *SHAPE), np.float32)
    with pytest.raises(ValueError, match="squares must be at least 7 pixels a side and inside images of"):
        ssim_of_squares(images, images, images > 0, np.array([square]))


def test_shapes_that_differ_are_errors():
    images = np.zeros((1, *SHAPE), np.float32)
    with pytest.raises(ValueError, match="expected images and mask of one shape"):
        ssim_of_squares(images, images[:, :90], images > 0, grid_of_squares(SHAPE, (16,)))
