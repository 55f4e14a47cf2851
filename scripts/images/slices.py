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

"""From an image file of any kind to 2-D images on the network's field: MONAI dictionary transforms.

A volume becomes several images (a list of dicts, which ``monai.transforms.Compose`` maps over); a planar image one.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import numpy as np
import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.data import MetaTensor
from monai.transforms import Compose, MapTransform, Resize, Transform
from numpy.typing import NDArray
from scipy import ndimage

from .items import Data, NewData

__all__ = [
    "AxialSlicesd",
    "PerDimensionalityd",
    "PlanarSliced",
    "ShrinkToFitd",
    "check_structure",
    "SkullStripd",
    "finite_sides",
    "fitting_size",
    "object_mask",
    "planar",
    "two_sides",
    "voxels",
]

# of a volume's range: brighter voxels are its object; within so much of the brightest they are alike; and the share of
# the object that is alike where it shows nothing
DIM, FLAT, ALIKE = 0.1, 1e-3, 0.95


class PerDimensionalityd(Transform):
    """Apply `volume` transforms to dicts whose image has three spatial axes, `planar` ones where it has two.

    The image is channel first; a volume with one slice, (1, H, W, 1), is a volume.

    Raises:
        ValueError: for an image of other axes.
    """

    def __init__(self, key: Hashable, planar: Sequence[Callable], volume: Sequence[Callable]) -> None:
        self.key = key
        self.planar, self.volume = Compose(planar), Compose(volume)

    def __call__(self, data: Data) -> NewData | list[NewData]:
        shape = tuple(data[self.key].shape)
        if len(shape) not in (3, 4):
            raise ValueError(
                f"{data.get('id', self.key)}: expected a 2-D image or a 3-D volume, found shape {shape[1:]}"
            )
        return (self.planar if len(shape) == 3 else self.volume)(data)


class SkullStripd(MapTransform):
    """Set everything outside the brain to zero where a dict has a mask; dicts without one pass unchanged."""

    def __init__(self, keys: KeysCollection, mask_key: Hashable = "mask", allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.mask_key = mask_key

    def __call__(self, data: Data) -> NewData:
        result = dict(data)
        mask = result.pop(self.mask_key, None)
        if mask is not None:
            for key in self.key_iterator(result):
                image = result[key]
                placed = isinstance(mask, MetaTensor) and isinstance(image, MetaTensor)
                if mask.shape != image.shape or (placed and not np.allclose(mask.affine, image.affine, atol=1e-3)):
                    raise ValueError(f"{data.get('id', key)}: expected a mask on the image's grid, found another grid")
                result[key] = image * (mask > 0)
        return result


class AxialSlicesd(MapTransform):
    """Cut a RAS volume (1, X, Y, Z) into axial images: a list of dicts, each with an image (1, X, Y).

    Slices lie every `spacing` mm, counted down from the top of the object, so that one `level` (mm below the top)
    shows about the same anatomy in every subject.

    Args:
        keys: the volume's key; one key.
        spacing: distance of the slices in mm; slices are picked, not interpolated.
        levels: first and last level in mm below the top of the object.
        min_foreground: least object area of a slice in cm2.
        allow_missing_keys: pass a dict without the key, in a list.

    A volume of one slice gives that slice, its level unknown unless the dict has one.

    Every dict gets `level` (mm), `slice` (index along Z) and the other entries of the volume's dict; an `id` gets the
    slice's index.

    Raises:
        ValueError: if the volume has no object or no slice meets the conditions.
    """

    def __init__(
        self,
        keys: KeysCollection,
        spacing: float = 4.0,
        levels: tuple[float, float] = (12.0, 112.0),
        min_foreground: float = 40.0,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if spacing <= 0 or levels[0] > levels[1]:
            raise ValueError(f"spacing must be positive and levels ascending, got {spacing} and {levels}")
        if min_foreground < 0:
            raise ValueError(f"min_foreground must be 0 or more, got {min_foreground}")
        self.spacing, self.levels, self.min_foreground = spacing, levels, min_foreground

    def __call__(self, data: Data) -> list[NewData]:
        (key,) = self.keys
        if key not in data and self.allow_missing_keys:
            return [dict(data)]
        name = data.get("id", key)
        array, voxel_mm = voxels(data[key], name)
        if 1 in array.shape[:2]:
            raise ValueError(f"{name}: expected axial slices, found one of another plane")
        if array.shape[2] == 1:
            level = float(data.get("level", "nan"))
            return [{**data, key: torch.from_numpy(array[..., 0])[None], "level": level, "slice": 0}]
        check_structure(array, name)
        area = object_mask(array).sum((0, 1)) * voxel_mm[0] * voxel_mm[1] / 100  # voxels -> cm2
        top = np.flatnonzero(area >= 0.1 * area.max())[-1]
        result = []
        for level in np.arange(self.levels[0], self.levels[1] + 1e-6, self.spacing):
            z = int(top - round(level / voxel_mm[2]))
            if z >= 0 and area[z] >= self.min_foreground:
                image = torch.from_numpy(np.ascontiguousarray(array[..., z]))[None]
                own: NewData = {"id": f"{data['id']}#z={z}"} if "id" in data else {}
                result.append({**data, **own, key: image, "level": float(level), "slice": z})
        if not result:
            raise ValueError(
                f"{name}: no slice between {self.levels[0]} and {self.levels[1]} mm below the top has "
                f"{self.min_foreground} cm2 of foreground; lower min_foreground or change levels"
            )
        return result


def voxels(volume: NdarrayOrTensor, name: object) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Return the voxels (X, Y, Z) of one channel and their size in mm (3,), 1 mm where no affine says it."""
    if volume.ndim != 4:
        raise ValueError(f"{name}: expected a volume, found an image of {volume.ndim - 1} axes")
    affine = volume.affine if isinstance(volume, MetaTensor) else torch.eye(4)
    array = np.asarray(volume, np.float32)
    if array.shape[0] != 1:
        raise ValueError(
            f"{name}: expected a volume of one channel, found {array.shape[0]}; save each as a file of its own"
        )
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: expected finite values, found NaN or infinite ones")
    return array[0], np.linalg.norm(np.asarray(affine, float)[:3, :3], axis=0)


def check_structure(array: NDArray[np.float32], name: object) -> None:
    """Raise a ValueError for a volume whose object has one value everywhere, as a mask: it shows nobody, and so may be
    nearer to one person than to the others."""
    lowest, highest = array.min(), array.max()
    if lowest == highest:
        raise ValueError(f"{name}: the volume shows no object (all voxels alike)")
    bright = np.count_nonzero(array > lowest + DIM * (highest - lowest))
    if np.count_nonzero(array >= highest - FLAT * (highest - lowest)) >= ALIKE * bright:
        raise ValueError(
            f"{name}: expected a scan, found a volume whose object has the value {highest:g} everywhere; exclude masks"
        )


def object_mask(array: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return the largest connected bright part of a volume (X, Y, Z), with its holes filled slice by slice."""
    smooth = ndimage.uniform_filter(array - array.min(), 3)
    labels, count = ndimage.label(smooth > 0.1 * np.percentile(smooth, 99))
    if count == 0:
        return np.zeros(array.shape, bool)
    largest = labels == 1 + np.argmax(np.bincount(labels.ravel())[1:])
    return np.stack([ndimage.binary_fill_holes(largest[..., z]) for z in range(array.shape[2])], axis=-1)


def planar(image: NdarrayOrTensor, name: object) -> tuple[int, ...]:
    """Return the sides (H, W) of a planar image (1, H, W).

    Raises:
        ValueError: for a volume.
    """
    if image.ndim != 3:
        raise ValueError(
            f"{name}: expected a planar image (1, H, W), found shape {tuple(image.shape)}; PerDimensionalityd gives "
            "volumes other transforms"
        )
    return tuple(image.shape[1:])


def finite_sides(image: NdarrayOrTensor, name: object) -> tuple[int, ...]:
    """Return the sides (H, W) of a planar image (1, H, W) as :func:`planar` does.

    Raises:
        ValueError: for a volume, and for NaN or infinite values: scaling would turn the others into one value.
    """
    if not np.isfinite(np.asarray(image)).all():
        raise ValueError(f"{name}: expected finite values, found NaN or infinite ones")
    return planar(image, name)


def two_sides(spatial_size: Sequence[int]) -> tuple[int, int]:
    """Return the sides of a planar field.

    Raises:
        ValueError: for another number of sides.
    """
    if len(spatial_size) != 2:
        raise ValueError(
            f"spatial_size: expected two sides for planar images, found {list(spatial_size)}; for whole volumes "
            "lay configs/inference_3d.yaml over inference.yaml, of ldm/ an overlay that ends in _3d"
        )
    return spatial_size[0], spatial_size[1]


def fitting_size(sides: Sequence[int], spatial_size: Sequence[int]) -> tuple[int, int] | None:
    """Return the largest size, aspect kept, that fits into a field; None for sides that do.

    >>> fitting_size((128, 128), (96, 112)), fitting_size((90, 112), (96, 112))
    ((96, 96), None)
    """
    factor = min(field / max(side, 1) for field, side in zip(spatial_size, sides))  # nothing stays so
    if factor >= 1:
        return None
    height, width = (max(1, min(field, round(side * factor))) for field, side in zip(spatial_size, sides))
    return height, width


class PlanarSliced(MapTransform):
    """Make a planar image (1, H, W) look like the only slice of a volume, and no larger than `frame` pixels.

    Larger images are scaled down, aspect kept, by a factor that depends on their frame, not on their content, so that
    images of one size keep their relative scale. `slice` becomes -1; `level` stays as a datalist gives it, else NaN.
    """

    def __init__(self, keys: KeysCollection, frame: int, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.frame = frame
        self.resize = Resize(frame, size_mode="longest", mode="area")

    def __call__(self, data: Data) -> NewData:
        result = dict(data)
        for key in self.key_iterator(result):
            if max(finite_sides(result[key], data.get("id", key))) > self.frame:
                result[key] = self.resize(result[key])
        result["slice"] = -1
        result["level"] = float(result.get("level", "nan"))
        return result


class ShrinkToFitd(MapTransform):
    """Scale a planar image (1, H, W) down, aspect kept, where it does not fit into `spatial_size`.

    A chest X-ray fills its frame: cropping it to the network's field would cut the sides off. Slices of volumes
    (`slice` 0 or more) stay as they are, since a pixel of theirs has a size in mm.
    """

    def __init__(self, keys: KeysCollection, spatial_size: Sequence[int], allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.spatial_size = two_sides(spatial_size)

    def __call__(self, data: Data) -> NewData:
        result = dict(data)
        for key in self.key_iterator(result) if result.get("slice", -1) < 0 else ():
            size = fitting_size(planar(result[key], data.get("id", key)), self.spatial_size)
            if size is not None:
                result[key] = Resize(size, mode="area")(result[key])
        return result
