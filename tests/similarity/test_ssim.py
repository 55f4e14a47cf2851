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
import torch
from scipy.ndimage import gaussian_filter
from scripts.similarity.ssim import _pairs_torch, ssim_cross, ssim_matrix, ssim_pairs
from skimage.metrics import structural_similarity


@pytest.fixture
def images() -> np.ndarray:
    rng = np.random.default_rng(0)
    smooth = gaussian_filter(rng.normal(size=(6, 40, 33)), (0, 2, 2))
    noisy = smooth[:3] + 0.05 * rng.normal(size=(3, 40, 33))
    return np.concatenate([smooth, noisy, 3 + smooth[:1], np.full((1, 40, 33), 0.5)]).astype(np.float32)


def reference_pair(x, y, data_range, weight=None):
    mean, full = structural_similarity(x.astype(float), y.astype(float), data_range=data_range, full=True)
    return mean if weight is None else full[3:-3, 3:-3][weight[3:-3, 3:-3]].mean()


def test_matrix_equals_scikit_image_for_each_form(images):
    foreground = np.abs(images) > 0.05
    spans = np.ptp(images, axis=(1, 2))
    spans[spans == 0] = 1
    got = {form: ssim_matrix(images, form=form) for form in ("published", "symmetric")}
    got["foreground"] = ssim_matrix(images, form="foreground", foreground=foreground)
    for i, j in [(0, 1), (1, 0), (0, 6), (2, 8), (0, 9), (9, 0), (3, 10), (5, 4)]:
        both = float(max(np.ptp(images[i]), np.ptp(images[j])))
        x, y = images[i], images[j]
        assert got["published"][i, j] == pytest.approx(reference_pair(x, y, float(spans[i])), abs=1e-5)
        assert got["symmetric"][i, j] == pytest.approx(reference_pair(x, y, both), abs=1e-5)
        weight = foreground[i] | foreground[j]
        assert got["foreground"][i, j] == pytest.approx(reference_pair(x, y, both, weight), abs=1e-5)


def test_pairs_are_entries_of_the_matrix(images):
    matrix = ssim_matrix(images, data_range=1.0)
    np.testing.assert_allclose(ssim_pairs(images[:-1], images[1:], data_range=1.0), np.diag(matrix, 1), atol=1e-6)


@pytest.mark.parametrize("scale, shift", [(1, 0), (1000, 0), (1, 100)])
def test_pairs_equal_scikit_image_where_much_is_background(scale, shift):
    """Running sums leave their rounding behind them, which a flat background shows."""
    texture = gaussian_filter(np.random.default_rng(1).random((4, 130, 61)), (0, 2, 2))
    images = np.zeros((2, 4, 130, 61), np.float32)
    images[0, :, 20:70, 10:50] = scale * texture[:, 20:70, 10:50]
    images[1, :, 22:72, 11:51] = scale * texture[:, 20:70, 10:50]
    x, y = images + np.float32(shift)
    span = float(np.ptp(images))
    expected = [reference_pair(*pair, span) for pair in zip(x, y)]
    np.testing.assert_allclose(ssim_pairs(x, y, data_range=span), expected, atol=2e-5)


def test_symmetric_with_unit_diagonal_except_the_published_form(images):
    symmetric, published = ssim_matrix(images, form="symmetric"), ssim_matrix(images, form="published")
    np.testing.assert_array_equal(symmetric, symmetric.T)
    np.testing.assert_array_equal(np.diag(symmetric), 1)
    assert np.abs(published - published.T).max() > 1e-3


def test_torch_path_equals_the_numba_kernel(images):
    tensor = torch.from_numpy(images)
    first, second = torch.triu_indices(len(images), len(images), offset=1)
    weight = torch.ones(len(images), 34, 27)
    got = _pairs_torch(tensor, weight, first, second, torch.ones(len(first)), block=7)
    np.testing.assert_allclose(got, ssim_matrix(images, data_range=1.0)[first, second], atol=1e-5)


@pytest.fixture
def volumes() -> np.ndarray:
    """Four smooth ones, of which a third is flat, as the air around a head."""
    noise = np.random.default_rng(1).normal(size=(4, 14, 12, 19))
    smooth = gaussian_filter(noise, (0, 1, 1, 1)).astype(np.float32)
    smooth -= smooth.min()
    smooth[..., :6] = 0
    return smooth


def test_volumes_equal_scikit_image(volumes):
    found = ssim_matrix(volumes[:, None], data_range=1.0)
    for i, j in ((0, 1), (2, 3), (3, 0), (2, 2)):
        expected = structural_similarity(volumes[i].astype(float), volumes[j].astype(float), data_range=1.0)
        assert found[i, j] == pytest.approx(expected, abs=1e-5)
    assert ssim_pairs(volumes[:1, None], volumes[1:2, None], data_range=1.0)[0] == pytest.approx(found[0, 1], abs=1e-6)


def test_the_foreground_of_volumes_is_averaged_as_scikit_images_map(volumes):
    mask = volumes > 0.5
    (found,) = ssim_pairs(
        volumes[:1, None],
        volumes[1:2, None],
        form="foreground",
        data_range=1.0,
        foreground_x=mask[:1, None],
        foreground_y=mask[1:2, None],
    )
    full = structural_similarity(*volumes[:2].astype(float), data_range=1.0, full=True)[1]
    inner = (slice(3, -3),) * 3
    assert found == pytest.approx(full[inner][(mask[0] | mask[1])[inner]].mean(), abs=1e-5)


def test_torch_gives_the_same_for_volumes(volumes):
    first, second = torch.triu_indices(4, 4, offset=1)
    weight = torch.ones(4, 8, 6, 13)
    got = _pairs_torch(torch.from_numpy(volumes), weight, first, second, torch.ones(len(first)))
    np.testing.assert_allclose(got, ssim_matrix(volumes[:, None], data_range=1.0)[first, second], atol=1e-4)


def test_constant_images_and_empty_foreground_are_defined(images):
    constant = np.full((2, 9, 9), 0.5, np.float32)
    assert ssim_matrix(constant)[0, 1] == 1
    nothing = np.zeros_like(images, bool)
    empty = ssim_matrix(images, form="foreground", foreground=nothing)
    np.testing.assert_allclose(empty, ssim_matrix(images, form="symmetric"))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"x": np.zeros((2, 6, 9))}, "each side at least 7"),
        ({"data_range": 0.0}, "data_range must be positive, got 0"),
        ({"form": "foreground"}, "needs a foreground mask"),
        ({"form": "foreground", "foreground": np.ones((2, 8, 9))}, "must have the images' shape"),
        ({"form": "colour"}, "colour"),
    ],
)
def test_errors_name_the_argument(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        ssim_matrix(**{"x": np.zeros((2, 9, 9)), **change})


@pytest.mark.parametrize("form", ["published", "symmetric", "foreground"])
def test_cross_equals_the_pairs(form):
    rng = np.random.default_rng(3)
    x, y = rng.random((3, 12, 9)).astype(np.float32), rng.random((4, 12, 9)).astype(np.float32)
    masks = {"foreground_x": x > 0.3, "foreground_y": y > 0.6} if form == "foreground" else {}
    got = ssim_cross(x, y, form=form, **masks)
    for i in range(3):
        rows = np.repeat(x[i : i + 1], 4, 0)
        same = {"foreground_x": np.repeat(x[i : i + 1] > 0.3, 4, 0), "foreground_y": y > 0.6} if masks else {}
        np.testing.assert_allclose(got[i], ssim_pairs(rows, y, form=form, **same), rtol=1e-5, atol=1e-6)
    assert ssim_cross(x[:0], y).shape == (0, 4)
    with pytest.raises(ValueError, match="images of one shape"):
        ssim_cross(x, y[:, 1:])
