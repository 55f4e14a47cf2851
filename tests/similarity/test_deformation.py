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


"""Bends between an image and its copy are found; what stays as it should does."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scripts.images.geometry import warp
from scripts.similarity.deformation import PIXELS, ROWS, STIFFNESS, _fit, _normal_equations, deform, solve_banded
from scripts.similarity.sampling import MARGIN, fill_cells
from textures import SHAPE, textured

EVERYWHERE = np.ones((1, *SHAPE), bool)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.stack([textured(seed) for seed in range(6)])


def bent(image: np.ndarray, pixels: float, seed: int = 0) -> np.ndarray:
    """An image moved by a smooth field of so many pixels (rms a direction), none at the edges."""
    rng = np.random.default_rng(seed)
    y, x = (np.linspace(0, np.pi, n) for n in SHAPE)
    field = np.zeros((2, *SHAPE))
    for _ in range(6):
        a, b = rng.integers(1, 4, 2)
        field += rng.normal(size=(2, 1, 1)) * np.sin(a * y)[:, None] * np.sin(b * x)
    field *= pixels / field.std()
    moved = warp(torch.from_numpy(image[None, None]), torch.eye(2, 3)[None], torch.from_numpy(field[None]).float())
    return moved[0, 0].numpy()


@pytest.mark.parametrize("pixels", [1.0, 2.0, 3.0])
def test_a_bend_is_undone(images, pixels):
    for seed, image in enumerate(images):
        query = bent(image, pixels, seed)
        inner = (slice(8, -8), slice(8, -8))
        before = np.abs(query - image)[inner].mean()
        after = np.abs(query - deform(query[None], image[None], EVERYWHERE)[0])[inner].mean()
        assert after < 0.35 * before


def test_images_that_agree_stay_and_different_ones_stay_different(images):
    same = deform(images, images, np.repeat(EVERYWHERE, 6, 0))
    np.testing.assert_allclose(same, images, atol=1e-4)
    others = np.roll(images, 1, 0)
    found = deform(images, others, np.repeat(EVERYWHERE, 6, 0))
    copies = np.stack([bent(image, 2.0, seed) for seed, image in enumerate(images)])
    undone = deform(copies, images, np.repeat(EVERYWHERE, 6, 0))
    assert np.abs(images - found).mean((1, 2)).min() > 3 * np.abs(copies - undone).mean((1, 2)).max()


def test_only_the_mask_decides_and_without_one_nothing_moves(images):
    query, image = bent(images[0], 2.0)[None], images[:1]
    assert np.array_equal(deform(query, image, ~EVERYWHERE), image)
    hidden = query.copy()
    mask = EVERYWHERE.copy()
    hidden[:, :20], mask[:, :20] = 0.5, False
    # a blurred image shows a little of what is hidden, near it
    np.testing.assert_allclose(deform(hidden, image, mask)[:, 40:], deform(query, image, mask)[:, 40:], atol=0.05)


@pytest.mark.parametrize("shape", [(2, 2), (9, 33), (64, 65)])
def test_any_size_and_flat_images(shape):
    flat = np.full((1, *shape), 0.5, np.float32)
    np.testing.assert_allclose(deform(flat, flat * 0.6, flat > 0), flat * 0.6)
    assert deform(flat[:0], flat[:0], flat[:0] > 0).shape == (0, *shape)


WORK = np.empty((ROWS, PIXELS), np.float32)


def cells_of(image):
    cells = np.empty((image.shape[0] + 2 * MARGIN, image.shape[1] + 2 * MARGIN, 4), np.float32)
    fill_cells(image, cells)
    return cells


def system(query, image, mask, field, spacing):
    count = field.size
    band, right = np.zeros((count, 2 * field.shape[1] + 4)), np.zeros(count)
    return _normal_equations(query, cells_of(image), mask, field, spacing, band, right, WORK), band, right


def test_the_right_side_is_the_energys_gradient(images):
    """Against differences of the energy itself."""
    query, image, spacing = bent(images[1], 1.0), images[1], 32
    field = np.random.default_rng(0).normal(size=(5, 4, 2))
    _, _, right = system(query, image, EVERYWHERE[0], field, spacing)
    step = 1e-4
    for n in (0, 9, 18, 27, 39):
        energies = []
        for sign in (1, -1):
            moved = field.copy()
            moved.flat[n] += sign * step
            energies.append(system(query, image, EVERYWHERE[0], moved, spacing)[0])
        # the anchor is no part of the energy; a bilinear image has kinks
        assert -(energies[0] - energies[1]) / (4 * step) == pytest.approx(right[n], rel=0.1, abs=0.02)


def test_the_band_is_symmetric_positive_and_solved_as_numpy_solves_it(images):
    field = np.zeros((5, 4, 2))
    _, band, right = system(bent(images[2], 1.0), images[2], EVERYWHERE[0], field, 32)
    full = np.zeros((40, 40))
    for n in range(40):
        for d in range(min(n, band.shape[1] - 1) + 1):
            full[n, n - d] = full[n - d, n] = band[n - d, d]
    assert np.linalg.eigvalsh(full).min() > 0
    expected = np.linalg.solve(full, right)
    solve_banded(band, right)
    np.testing.assert_allclose(right, expected, rtol=1e-6, atol=1e-9)


def test_the_energy_never_rises_and_the_membrane_counts(images):
    query, image = bent(images[3], 3.0), images[3]
    start = np.zeros((5, 4, 2))
    energies = [system(query, image, EVERYWHERE[0], start, 32)[0]]
    for steps in (1, 3, 6):
        found = _fit(query, cells_of(image), EVERYWHERE[0], start, 32, steps, WORK)
        energies.append(system(query, image, EVERYWHERE[0], found, 32)[0])
    assert np.diff(energies).max() <= 1e-9 and energies[-1] < 0.9 * energies[0]
    flat = np.full(SHAPE, 0.5, np.float32)
    one = start.copy()
    one[2, 2, 0] = 3.0  # four neighbours
    assert system(flat, flat, EVERYWHERE[0], one, 32)[0] == pytest.approx(4 * STIFFNESS * 9)


def test_queries_of_several_images_are_softened_once_and_bent_onto_alike():
    rng = np.random.default_rng(0)
    queries, images = rng.random((2, 24, 28), np.float32), rng.random((5, 24, 28), np.float32)
    masks, rows = np.ones(images.shape, bool), np.array([0, 1, 1, 0, 1])
    np.testing.assert_array_equal(deform(queries, images, masks, rows), deform(queries[rows], images, masks))
