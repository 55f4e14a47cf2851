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

"""What people do to volumes on the way to a folder: for `fit.py`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from monai.transforms import Compose, Orientation
from nibabel.orientations import apply_orientation, inv_ornt_aff
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation
from scripts.images.items import Item
from scripts.images.loading import load_file

VolumeChange = Callable[[NDArray, NDArray, np.random.RandomState], tuple[NDArray, NDArray]]  # of RAS voxels and affine


def stripped(array: NDArray) -> NDArray[np.bool_]:
    """Return about where the brain of a whole head of 2 mm lies: its middle, without the outer 14 mm."""
    head = ndimage.binary_fill_holes(ndimage.binary_opening(array > 100, iterations=2))
    return ndimage.distance_transform_edt(head) > 7


def brain(item: Item) -> NDArray[np.float32]:
    """Return the voxels (1, X, Y, Z) of a volume inside its mask, RAS, in [0, 1]."""
    chain = Compose([load_file, Orientation("RAS", labels=None)])
    volume, mask = (np.asarray(chain(item[key]), np.float32) for key in ("image", "mask"))
    return (volume / np.percentile(volume, 99.5)).clip(0, 1) * (mask > 0)


def without_face(array: NDArray, affine: NDArray, rng: np.random.RandomState) -> tuple[NDArray, NDArray]:
    """Remove the front of the head below the eyes, as defacing does."""
    head = np.argwhere(array > 100)
    low, high = head.min(0), head.max(0)
    array = array.copy()
    array[:, int(low[1] + 0.72 * (high[1] - low[1])) :, : int(high[2] - 85 / 2)] = 0  # 85 mm below the top
    return array, affine


def cropped(array: NDArray, affine: NDArray, rng: np.random.RandomState) -> tuple[NDArray, NDArray]:
    """Cut the box of the brain out."""
    inside = np.argwhere(stripped(array))
    top = inside[:, 2].max()
    inside = inside[inside[:, 2] > top - 70]  # 140 mm
    low, high = inside.min(0), inside.max(0) + 1
    moved = affine.copy()
    moved[:3, 3] += affine[:3, :3] @ low
    return array[tuple(slice(a, b) for a, b in zip(low, high))], moved


def thick(array: NDArray, affine: NDArray, rng: np.random.RandomState) -> tuple[NDArray, NDArray]:
    """Average slices of 2 mm to slices of 6 mm."""
    count = array.shape[2] // 3
    moved = affine @ np.diag([1, 1, 3, 1])
    moved[:3, 3] += affine[:3, 2]
    return array[:, :, : 3 * count].reshape(*array.shape[:2], count, 3).mean(3), moved


def in_other_codes(array: NDArray, affine: NDArray, rng: np.random.RandomState) -> tuple[NDArray, NDArray]:
    """Store the axes in another order and direction, which the affine says."""
    axes = rng.permutation(3)
    turn = np.stack([axes, rng.choice([-1, 1], 3)], 1).astype(float)
    return apply_orientation(array, turn), affine @ inv_ornt_aff(turn, array.shape)


def shaded(array: NDArray, affine: NDArray, rng: np.random.RandomState) -> tuple[NDArray, NDArray]:
    """Multiply by a smooth field of up to about 20 %, as a coil's."""
    field = ndimage.zoom(rng.normal(size=(3, 3, 3)), [n / 3 for n in array.shape], order=3)
    return array * np.exp(0.2 * field / np.abs(field).max()).astype(np.float32), affine


def oblique(array: NDArray, affine: NDArray, rng: np.random.RandomState) -> tuple[NDArray, NDArray]:
    """Store the head on a grid that lies askew by 12 degrees, as planned along its axes; the affine says so."""
    turn = Rotation.from_euler("xz", [12, 8], degrees=True).as_matrix()
    centre = (np.array(array.shape) - 1) / 2
    turned = np.eye(4)
    turned[:3, :3], turned[:3, 3] = turn, centre - turn @ centre  # voxels of the new grid to those of the old
    return ndimage.affine_transform(array, turned, order=1), affine @ turned


def front_called_back(affine: NDArray) -> NDArray[np.float64]:
    """Return an affine that takes the front for the back, as where an array's second axis was reversed."""
    return np.diag([1.0, -1.0, 1.0, 1.0]) @ affine


VOLUMES: dict[str, VolumeChange] = {
    "volumes": lambda array, affine, rng: (array, affine),
    "volumes in [-1, 1]": lambda array, affine, rng: (array / 500 - 1, affine),
    "volumes, identity affine": lambda array, affine, rng: (array, np.eye(4)),
    "volumes, inverted": lambda array, affine, rng: (1000 - array, affine),
    "volumes, voxels of 1 mm": lambda array, affine, rng: (
        ndimage.zoom(array, 2, order=1),
        affine @ np.diag([0.5, 0.5, 0.5, 1]),
    ),
    "volumes, other orientation codes": in_other_codes,
    "volumes, front called back": lambda array, affine, rng: (array, front_called_back(affine)),
    "volumes, front called back in some": lambda array, affine, rng: (
        array,
        front_called_back(affine) if rng.random_sample() < 0.4 else affine,
    ),
    "volumes, oblique affine": oblique,
    "volumes, slices of 6 mm": thick,
    "volumes, bias field": shaded,
    "volumes, face removed": without_face,
    "volumes, cropped to the brain": cropped,
    "volumes, skull-stripped": lambda array, affine, rng: (array, affine),  # before they are moved: see `run`
}
