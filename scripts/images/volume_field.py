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

"""From a volume of any orientation and resolution to voxels on the volume network's field."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import GaussianSmooth, MapTransform, Spacing

from .items import Data, Item, NewData
from .loading import load_file
from .slices import check_structure, object_mask, voxels

__all__ = ["VolumeFieldd", "whole_volumes"]

logger = logging.getLogger(__name__)

LEAST_MM = 60.0  # a side of a volume that is compared whole; what is thinner is a stack of slices

ABOVE = 2  # voxels of the field above the top of the object
SMOOTHING = 0.5  # sigma of the Gaussian before voxels become larger, in voxels of the field


class VolumeFieldd(MapTransform):
    """Resample a RAS volume (1, X, Y, Z) and cut the network's field out: from the top of the object down, centred.

    What lies between voxels of the field is averaged, not skipped. `level` becomes NaN and `slice` -1: the volume is
    one image.

    Args:
        keys: the volume's key; one key.
        spatial_size: voxels of the field: left-right, posterior-anterior, inferior-superior.
        pixel_mm: their side in mm.
        most_mm: longest side that the volume's own voxels may have; None: any.
        allow_missing_keys: pass a dict without the key.

    Raises:
        ValueError: for another number of sides, or if the volume has several channels, no object, values that are not
            finite, is a plane, or has longer voxels.
    """

    def __init__(
        self,
        keys: KeysCollection,
        spatial_size: Sequence[int],
        pixel_mm: float,
        most_mm: float | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if len(spatial_size) != 3:
            raise ValueError(
                f"spatial_size: expected three sides for whole volumes, found {list(spatial_size)}; of ldm/ take a "
                "size of volumes, and overlays that end in _3d_cpu last"
            )
        self.spatial_size, self.pixel_mm, self.most_mm = tuple(spatial_size), pixel_mm, most_mm
        self.resample = Spacing([pixel_mm] * 3, mode="bilinear", padding_mode="border")

    def __call__(self, data: Data) -> NewData:
        (key,) = self.keys
        if key not in data and self.allow_missing_keys:
            return dict(data)
        name = data.get("id", key)
        array, voxel_mm = voxels(data[key], name)
        if 1 in array.shape:
            raise ValueError(f"{name}: expected a volume, found a plane of {' x '.join(map(str, array.shape))} voxels")
        if self.most_mm is not None and (longest := float(np.max(voxel_mm))) > self.most_mm:
            raise ValueError(
                f"{name}: expected voxels of at most {self.most_mm:g} mm, found {longest:g} mm; take a finer scan"
            )
        check_structure(array, name)
        smoothing = np.where(voxel_mm < 0.75 * self.pixel_mm, SMOOTHING * self.pixel_mm / voxel_mm, 0.0)
        smooth = GaussianSmooth(smoothing.tolist())(data[key]) if smoothing.any() else data[key]
        array = np.asarray(self.resample(smooth), np.float32)[0]
        mask = object_mask(array)
        area = mask.sum((0, 1))
        top = int(np.flatnonzero(area >= 0.1 * area.max())[-1]) + ABOVE
        low = top + 1 - self.spatial_size[2]
        seen = mask[:, :, max(0, low) : top + 1]
        starts = []
        for axis, size in enumerate(self.spatial_size[:2]):
            inside = np.flatnonzero(seen.any(axis=(1 - axis, 2)))
            starts.append((int(inside[0]) + int(inside[-1]) + 1 - size) // 2)
        field = np.zeros(self.spatial_size, np.float32)
        source, target = [], []
        for start, size, length in zip([*starts, low], self.spatial_size, array.shape):
            source.append(slice(max(0, start), max(0, min(length, start + size))))
            target.append(slice(source[-1].start - start, source[-1].stop - start))
        field[tuple(target)] = array[tuple(source)]
        return {**data, key: torch.from_numpy(field)[None], "level": float("nan"), "slice": -1}


class _Files(Protocol):
    """What knows the files of an audit, as :class:`~scripts.detect.AuditData`."""

    array_layout: str | None
    array_key: str | Sequence[str] | None

    def items(self) -> Mapping[str, Sequence[Item]]:
        """Return the items of train, generated and, if given, holdout."""


def whole_volumes(
    choice: Literal["auto", "whole", "slices"], data: _Files, own_choice: bool = False, planar: str | None = None
) -> bool:
    """Return whether an audit takes each volume as a whole, rather than its slices.

    Args:
        choice: `whole` and `slices` decide. `auto`: whole, if the first and last files of every set are volumes of at
            least 60 mm a side, and nothing else was asked for.
        data: the files.
        own_choice: the caller asks for what only slices have: a network of one's own, or copies of a part.
        planar: name of a network that embeds images alone, if one was chosen; then volumes are cut.

    Raises:
        ValueError: for another choice, `whole` beside a planar network, or as finding the files does.
    """
    if choice not in ("auto", "whole", "slices"):
        raise ValueError(f"volumes must be auto, whole or slices, got {choice!r}")
    if planar is not None:
        if choice == "whole":
            raise ValueError(
                f"volumes: expected auto or slices, as network {planar} embeds images, found whole; cut them"
            )
        return False
    if choice != "auto":
        return choice == "whole"
    if own_choice:
        return False
    sets = data.items()
    ends = {name: [_is_volume(files[place]["image"], data) for place in (0, -1)] for name, files in sets.items()}
    for name, found in ends.items():
        if any(found) and not all(found):
            volume, other = (sets[name][-found.index(state)]["image"] for state in (True, False))
            logger.warning(
                "%s holds volumes, as %s, and other files, as %s: all volumes are cut into slices, which finds fewer "
                "copies; to compare volumes whole, take them alone with include",
                name,
                Path(volume).name,
                Path(other).name,
            )
    return all(all(found) for found in ends.values())


def _is_volume(path: str, data: _Files) -> bool:
    """Return whether a file holds a volume; one that cannot be read does not, and is complained about later."""
    try:
        image = load_file(path, data.array_layout, data.array_key)
    except Exception:  # readers raise what they like
        return False
    if image.ndim != 4:
        return False
    sides = np.linalg.norm(np.asarray(image.affine, float)[:3, :3], axis=0) * image.shape[1:]
    return bool(min(image.shape[1:]) > 1 and sides.min() >= LEAST_MM)
