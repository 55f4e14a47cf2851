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
"""The alignment by torch does what the processor's kernels do: on the processor, and on a GPU if any."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scripts import component
from scripts.images.datalists import find_images
from scripts.similarity import batched_deformation, batched_registration, batched_rendering, rendering
from scripts.similarity.deformation import deform
from scripts.similarity.registration import register
from scripts.similarity.sampling import resample
from scripts.similarity.verification import Verifier, foreground_ssim
from sklearn.isotonic import IsotonicRegression
from textures import SHAPE, moved, similarity, textured

ROW = torch.arange(1)


@pytest.fixture(scope="module")
def people() -> np.ndarray:
    return np.stack([textured(seed) for seed in range(4)])


@pytest.fixture(scope="module")
def copies(people) -> np.ndarray:
    """The people's images turned, mirrored, shifted, scaled, in other contrast and with noise."""
    maps = [similarity(10, (2, -3)), similarity(-8, (3, -2.5), 1.05, (1, -1)), similarity(0, (0, 0)), similarity(4)]
    noise = np.random.default_rng(0).normal(size=(4, *SHAPE))
    images = np.stack([moved(image, matrix) ** 0.8 for image, matrix in zip(people, maps)])
    return (images + 0.02 * noise * (images > 0)).clip(0, 1).astype(np.float32)


def tensors(pairs):
    return tuple(torch.from_numpy(a) for a in pairs)


def by_torch(queries, references, pairs, start=None, bend=True):
    """Return the maps, aligned SSIM and that of unbent images of pairs, as `Verifier` returns them."""
    arrays = [torch.from_numpy(a) for a in (queries, references, *pairs)]
    known = None if start is None else torch.from_numpy(start)
    laid = batched_rendering.lay(*arrays[:2], tuple(arrays[2:]), known, 0.7)
    shown = laid._replace(references=batched_rendering.bent(*laid[1:])) if bend else laid
    return laid.matrix.numpy(), foreground_ssim(shown).numpy(), foreground_ssim(laid).numpy()


@pytest.mark.parametrize("bend", [True, False])
def test_copies_and_strangers_score_as_by_the_kernels(people, copies, bend):
    pairs = np.array([0, 1, 2, 3, 0, 1]), np.array([0, 1, 2, 3, 1, 3])
    expected = Verifier(bend=bend).align(copies, people, pairs)
    matrix, scores, unbent = by_torch(copies, people, pairs, bend=bend)
    np.testing.assert_allclose(scores, expected.aligned_ssim, atol=1e-3)
    np.testing.assert_allclose(unbent, expected.unbent_ssim, atol=1e-3)
    np.testing.assert_allclose(matrix[:4], expected.matrix[:4], atol=2e-3)
    assert scores[:4].min() > 0.9 > 0.6 > scores[4:].max()


def test_maps_that_are_nearly_right_are_refined(people, copies):
    pairs = (np.arange(4),) * 2
    exact = register(copies, people, pairs)
    rough = exact + np.array([[0.01, -0.01, 0.8], [0.01, 0.01, -0.8]])
    found, *_ = by_torch(copies, people, pairs, rough)
    np.testing.assert_allclose(found, register(copies, people, pairs, rough), atol=2e-3)
    np.testing.assert_allclose(found, exact, atol=0.05)


def test_a_blank_image_and_equal_images_are_as_by_the_kernels(people):
    blank = np.zeros_like(people[:1])
    queries, references = np.concatenate([blank, people[:1], blank]), np.concatenate([people[:1], people[:1], blank])
    expected = Verifier().align(queries, references)
    _, scores, _ = by_torch(queries, references, (np.arange(3),) * 2)
    # how anything lies on a blank image is arbitrary
    assert (np.abs(scores - expected.aligned_ssim) < [0.05, 1e-4, 1e-4]).all()
    assert scores[1] > 0.999


@pytest.mark.parametrize("sigma", [0.5, 2.0, 20.0])
@pytest.mark.parametrize("shape", [SHAPE, (5, 3)])
def test_smoothing_is_scipys(sigma, shape):
    images = np.random.default_rng(0).random((2, *shape), np.float32)
    found = batched_registration.smoothed(torch.from_numpy(images), sigma).numpy()
    np.testing.assert_allclose(found, gaussian_filter(images, (0, sigma, sigma)), atol=1e-6)


def test_positions_outside_an_image_are_zero_and_inside_bilinear(people):
    matrix = np.stack([similarity(20, (30, -40), 1.3, (1, -1)), similarity(0, (500, 0))])
    expected = resample(people[[2, 1]], matrix)
    found = batched_rendering.resample(*(torch.from_numpy(a) for a in (people, np.array([2, 1]), matrix)))
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-4)
    assert not found[1].any()


@pytest.mark.parametrize("seed", range(5))
def test_the_map_of_intensity_is_an_isotonic_regression(seed):
    rng = np.random.default_rng(seed)
    image, query = rng.random((2, 1, 40, 30), np.float32)
    query = (0.5 * query + rng.choice([0.5, -0.3]) * image + 0.3).astype(np.float32)
    union = rng.random(image.shape) > 0.4
    bins = np.minimum((image[union] * 32).astype(int), 31)
    known, size = np.unique(bins, return_counts=True)
    means = np.bincount(bins, query[union])[known] / size
    expected = IsotonicRegression().fit_transform(known, means, sample_weight=size)
    centres, values = batched_rendering._pools(*(torch.from_numpy(a).flatten(1) for a in (query, image, union)))
    there = centres.isfinite()
    assert (np.diff(centres[there]) > 0).all() and (np.diff(values[there]) > 0).all()
    np.testing.assert_allclose(np.unique(expected.round(9)), values[there], atol=1e-6)
    found = batched_rendering.fit_gains(*(torch.from_numpy(a) for a in (query, image, union)))
    np.testing.assert_allclose(found, rendering.fit_gains(query, image, union), atol=1e-5)
    found = batched_rendering.fit_gains(*(torch.from_numpy(a) for a in (query, image, union)), shading=True)
    np.testing.assert_allclose(found, rendering.fit_gains(query, image, union, shading=True), atol=1e-4)


def test_without_any_foreground_intensity_stays(people):
    queries, images = torch.from_numpy(people[:1]), torch.from_numpy(people[1:2])
    nowhere = torch.zeros_like(images, dtype=torch.bool)
    for shading in (False, True):
        assert torch.equal(batched_rendering.fit_gains(queries, images, nowhere, shading), images)


def test_bends_are_those_of_the_kernel(people):
    rng = np.random.default_rng(3)
    queries = np.stack([np.roll(gaussian_filter(image, 0.5), rng.integers(-2, 3, 2), (0, 1)) for image in people])
    masks = np.ones(people.shape, bool)
    masks[1, :, :50], masks[2] = False, False
    expected = deform(queries, people, masks)
    found = batched_deformation.deform(*(torch.from_numpy(a) for a in (queries, people, masks))).numpy()
    np.testing.assert_allclose(found, expected, atol=2e-3)
    np.testing.assert_allclose(found[2], people[2], atol=1e-5)


def test_the_elimination_of_blocks_solves_the_whole_system():
    rng = np.random.default_rng(0)
    rows, m = 4, 6
    square = rng.normal(size=(2, rows * m, rows * m))
    whole = square @ square.transpose(0, 2, 1) + 5 * np.eye(rows * m)
    apart = np.abs(np.subtract.outer(np.arange(rows * m) // m, np.arange(rows * m) // m)) > 1
    whole[:, apart] = 0
    whole += 40 * np.eye(rows * m)  # positive definite without the blocks that were taken out
    blocks = torch.from_numpy(whole.reshape(2, rows, m, rows, m))
    own = torch.stack([blocks[:, r, :, r] for r in range(rows)], 1)
    following = torch.stack([blocks[:, r, :, r + 1] for r in range(rows - 1)], 1)
    right = rng.normal(size=(2, rows, m))
    found = batched_deformation._solved(own, following, torch.from_numpy(right)).numpy()
    expected = np.linalg.solve(whole, right.reshape(2, -1, 1))[..., 0]
    np.testing.assert_allclose(found.reshape(2, -1), expected, atol=1e-9)


def test_energy_and_right_side_are_those_of_a_small_change(people):
    """The right side is minus half the gradient of the energy, which differences of it give."""
    images = torch.from_numpy(gaussian_filter(people[:1], (0, 3, 3)))
    queries, mask = torch.from_numpy(gaussian_filter(people[1:2], (0, 3, 3))), torch.ones(1, *SHAPE, dtype=torch.bool)
    grid = batched_deformation._Grid(*SHAPE, 32, images.device)
    values, cells = grid.by_cell(queries), batched_registration.Cells.of(images)
    generator = torch.Generator().manual_seed(0)
    field = torch.randn(1, grid.rows, grid.columns, 2, dtype=torch.float64, generator=generator)
    _, own, _, right = grid.equations(cells, ROW, values, grid.by_cell(mask), field)
    assert torch.equal(own, own.transpose(2, 3))
    for place in [(1, 1, 0), (2, 1, 1), (0, 2, 1)]:
        energies = []
        for step in (-0.02, 0.02):
            other = field.clone()
            other[0, *place] += step
            energies.append(grid.equations(cells, ROW, values, grid.by_cell(mask), other)[0].item())
        gradient = -(energies[1] - energies[0]) / 0.04 / 2
        row, column, axis = place
        assert right[0, row, 2 * column + axis].item() == pytest.approx(gradient, rel=0.05, abs=0.01)


def test_real_slices_score_as_by_the_kernels(ixi):
    preprocessing = component("configs/inference.yaml", "preprocessing", slice_spacing=30.0)
    items = find_images(ixi / "participants.tsv")[:6]
    slices = np.stack([np.asarray(one["image"])[0] for item in items for one in preprocessing(item)][:12])
    queries = np.stack([moved(image, similarity(6, (2, -3))) for image in slices[:4]])
    pairs = np.repeat(np.arange(4), 6), np.concatenate([np.r_[n, (np.arange(5) * 2 + n + 1) % 12] for n in range(4)])
    _, scores, _ = by_torch(queries, slices, pairs)
    np.testing.assert_allclose(scores, Verifier().align(queries, slices, pairs).aligned_ssim, atol=1e-3)


def test_a_gpu_without_float64_leaves_the_alignment_to_the_processor():
    assert Verifier(device="mps").device.type == "cpu" and Verifier(device="cuda:1").device.index == 1


@pytest.mark.skipif("not torch.cuda.is_available()", reason="needs a GPU; make gpu-check asks the same of one")
@pytest.mark.parametrize("window", [0, 16])
def test_on_a_gpu_it_is_as_on_the_processor(people, copies, window):
    pairs = np.array([0, 1, 2, 3, 0, 1]), np.array([0, 1, 2, 3, 1, 3])
    found, expected = (Verifier(window=window, device=where).align(copies, people, pairs) for where in ("cuda", "cpu"))
    np.testing.assert_allclose(found.aligned_ssim, expected.aligned_ssim, atol=2e-3)
    np.testing.assert_array_equal(found.mirrored, expected.mirrored)
