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

"""Volumes are registered to known motions: of any voxels and fields of view, from several starts, in batches."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.spatial.transform import Rotation
from scripts.similarity.volume_registration import register_volumes
from scripts.similarity.volume_sampling import resample_volumes

WAVES = np.random.default_rng(0).normal(size=(3, 40, 3)) / 12  # radians a mm, of each head
PHASES = np.random.default_rng(1).uniform(0, 2 * np.pi, (3, 40))


def head(number: int, points: np.ndarray) -> np.ndarray:
    """The value at points (..., 3) in mm: an ellipsoid of smooth texture, known everywhere."""
    texture = np.sin(points @ WAVES[number].T + PHASES[number]).mean(-1)
    inside = (points**2 / np.array([44, 62, 52]) ** 2).sum(-1)
    return (0.5 + texture) / (1 + np.exp(40 * (inside - 1)))


def volume(number: int, shape: tuple, spacing: tuple, matrix=None) -> np.ndarray:
    """A head on a grid about its centre; seen through a map (3, 4) in mm."""
    matrix = np.eye(3, 4) if matrix is None else matrix
    axes = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, spacing)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
    return head(number, points @ matrix[:, :3].T + matrix[:, 3]).astype(np.float32)


def motion(degrees, shift, scale=1.0, mirrored=False) -> np.ndarray:
    linear = scale * Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
    return np.column_stack([linear @ np.diag([1, 1, -1 if mirrored else 1]), shift])


SHAPE, SPACING = (28, 40, 34), (4.0, 4.0, 4.0)
START, MIRRORED = np.eye(3, 4), motion((0, 0, 0), (0, 0, 0), mirrored=True)
ONE = np.zeros(1, int)


def close(found: np.ndarray, truth: np.ndarray) -> None:
    """Within half a millimetre, half a degree and half a percent."""
    np.testing.assert_allclose(found[:, :3], truth[:, :3], atol=0.008)
    np.testing.assert_allclose(found[:, 3], truth[:, 3], atol=0.5)


@pytest.mark.parametrize(
    "truth",
    [
        motion((0, 0, 0), (0, 0, 0)),
        motion((12, 0, 0), (6, -4, 3)),
        motion((0, -12, 0), (0, 8, 0), 1.08),
        motion((5, 6, -12), (-5, 0, 7), 0.92),
    ],
)
def test_a_motion_is_recovered_whatever_the_contrast(truth):
    query = volume(0, SHAPE, SPACING, truth)
    reference = volume(0, SHAPE, SPACING)
    for changed in (query, 0.8 * query**1.3 + 0.1 * (query > 0.1)):
        found = register_volumes(
            changed[None], reference[None], (ONE, ONE), START[None, None], (np.array(SPACING), np.array(SPACING))
        )
        close(found[0], truth)


def by_simpleitk(query: np.ndarray, reference: np.ndarray, start: np.ndarray) -> np.ndarray:
    """SimpleITK's map (3, 4) of a similarity transform, from the query's to the reference's mm about the centre."""
    itk = pytest.importorskip("SimpleITK", reason="needs SimpleITK, the oracle of registration")
    images = [itk.GetImageFromArray(volume.transpose(2, 1, 0).astype(np.float64)) for volume in (query, reference)]
    for image in images:
        image.SetSpacing(SPACING)
        image.SetOrigin([-(n - 1) / 2 * s for n, s in zip(image.GetSize(), SPACING)])
    transform = itk.Similarity3DTransform()
    transform.SetTranslation(start[:, 3].tolist())
    registration = itk.ImageRegistrationMethod()
    registration.SetMetricAsCorrelation()  # no brightness matters, nor to ours
    registration.SetOptimizerAsRegularStepGradientDescent(2.0, 1e-6, 2000, 0.5, 1e-9)
    registration.SetOptimizerScalesFromPhysicalShift()
    registration.SetShrinkFactorsPerLevel([2, 1])
    registration.SetSmoothingSigmasPerLevel([4.0, 0.0])
    registration.SetInterpolator(itk.sitkLinear)
    registration.SetInitialTransform(transform, inPlace=True)
    registration.Execute(*images)
    return np.column_stack([np.reshape(transform.GetMatrix(), (3, 3)), transform.GetTranslation()])


@pytest.mark.parametrize("seed", range(4))
def test_it_registers_as_simpleitk_does(seed):
    rng = np.random.default_rng(seed)
    truth = motion(rng.uniform(-12, 12, 3), rng.uniform(-8, 8, 3), rng.uniform(0.93, 1.07))
    noise = 0.03 * rng.normal(size=(2, *SHAPE)).astype(np.float32)
    query, reference = volume(0, SHAPE, SPACING, truth) + noise[0], volume(0, SHAPE, SPACING) + noise[1]
    oracle = by_simpleitk(query, reference, START)
    spacing = (np.array(SPACING), np.array(SPACING))
    found = register_volumes(query[None], reference[None], (ONE, ONE), START[None, None], spacing)[0]
    points = np.c_[rng.uniform(-1, 1, (500, 3)) * [40, 55, 48], np.ones(500)]  # mm, in the head
    errors = [np.linalg.norm(points @ (matrix - truth).T, axis=1).mean() for matrix in (found, oracle)]
    assert errors[1] < 1.0  # mm: the oracle is one
    assert errors[0] < errors[1] + 0.2
    assert np.linalg.norm(points @ (found - oracle).T, axis=1).max() < 1.0  # a quarter of a voxel


def test_voxels_and_fields_of_view_may_differ():
    truth = motion((4, -6, 3), (3, -2, 5))
    query = volume(0, (22, 70, 60), (5.0, 2.0, 2.0), truth)
    reference = volume(0, (41, 50, 44), (3.0, 3.0, 3.0))
    steps = np.array((5.0, 2.0, 2.0)), np.array((3.0, 3.0, 3.0))
    found = register_volumes(query[None], reference[None], (ONE, ONE), START[None, None], steps)
    close(found[0], truth)
    laid = resample_volumes(reference[None], ONE, found, query.shape, steps)[0]
    assert np.abs(laid - query)[query > 0.2].mean() < 0.02


def test_of_several_starts_that_of_the_right_side_wins():
    truth = motion((6, 4, -5), (2, 3, -4), mirrored=True)
    query, reference = volume(0, SHAPE, SPACING, truth), volume(0, SHAPE, SPACING)
    starts = np.stack([START, MIRRORED])[None]
    found = register_volumes(query[None], reference[None], (ONE, ONE), starts, (np.array(SPACING),) * 2)
    assert np.linalg.det(found[0, :, :3]) < 0
    close(found[0], truth)


def test_a_batch_is_its_pairs():
    truths = [motion((7, 0, 0), (0, 3, 0)), motion((0, -8, 4), (2, 0, 0))]
    queries = np.stack([volume(1, SHAPE, SPACING, truths[0]), volume(2, SHAPE, SPACING, truths[1])])
    references = np.stack([volume(number, SHAPE, SPACING) for number in range(3)])
    pairs = np.array([1, 0, 0]), np.array([2, 0, 1])
    steps = (np.array(SPACING),) * 2
    together = register_volumes(queries, references, pairs, np.tile(START, (3, 1, 1, 1)), steps)
    close(together[0], truths[1])
    close(together[2], truths[0])
    for n, (q, r) in enumerate(zip(*pairs)):
        alone = register_volumes(queries[q][None], references[r][None], (ONE, ONE), START[None, None], steps)
        np.testing.assert_allclose(alone[0], together[n], atol=1e-6)


def test_resampled_as_scipy_does():
    rng = np.random.default_rng(3)
    reference = gaussian_filter(rng.random((12, 14, 13)), 1).astype(np.float32)
    matrix = motion((10, -5, 8), (2, -3, 1), 1.05)
    steps = np.array([2.0, 3.0, 4.0]), np.array([3.0, 2.0, 2.5])
    found = resample_volumes(reference[None], ONE, matrix[None], (9, 10, 11), steps)[0]
    axes = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip((9, 10, 11), steps[0])]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), -1) @ matrix[:, :3].T + matrix[:, 3]
    voxels = points / steps[1] + (np.array(reference.shape) - 1) / 2
    inside = ((voxels >= 0) & (voxels <= np.array(reference.shape) - 1)).all(-1)
    expected = map_coordinates(reference, np.moveaxis(voxels, -1, 0), order=1)
    np.testing.assert_allclose(found, np.where(inside, expected, 0), atol=1e-5)


@pytest.mark.parametrize("empty", ["query", "reference", "both"])
def test_where_nothing_is_shown_the_map_is_finite(empty):
    nothing, something = np.zeros((1, *SHAPE), np.float32), volume(0, SHAPE, SPACING)[None]
    query = something if empty == "reference" else nothing
    reference = something if empty == "query" else nothing
    found = register_volumes(query, reference, (ONE, ONE), START[None, None], (np.array(SPACING),) * 2)
    assert np.isfinite(found).all()
    assert 0.5 < np.linalg.det(found[0, :, :3]) < 2


def test_a_volume_of_one_slice_is_an_error():
    flat = np.zeros((1, 1, 20, 20), np.float32)
    with pytest.raises(ValueError, match=r"at least 2 a side, got \(1, 20, 20\) and"):
        register_volumes(flat, flat, (ONE, ONE), START[None, None], (np.array(SPACING),) * 2)


@pytest.mark.parametrize("shift", [-1e-6, 0.0, 1e-6])
def test_the_edge_of_a_volume_survives_rounding(shift):
    volume = np.random.default_rng(0).random((1, 8, 9, 10)).astype(np.float32) + 0.5
    matrix = np.eye(3, 4)[None].copy()
    matrix[0, :, 3] = shift
    spacing = (np.full(3, 2.0), np.full(3, 2.0))
    moved = resample_volumes(volume, np.zeros(1, np.int64), matrix, volume.shape[1:], spacing)
    np.testing.assert_allclose(moved, volume, atol=1e-5)
    matrix[0, 0, 3] = 2.0  # a whole voxel: what lies outside is 0
    moved = resample_volumes(volume, np.zeros(1, np.int64), matrix, volume.shape[1:], spacing)
    assert (moved[0, -1] == 0).all() and (moved[0, :-1] > 0.4).all()
