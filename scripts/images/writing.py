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

"""Write slices and volumes as image files."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .loading import load_file
from .slices import object_mask, voxels

__all__ = ["write_image", "write_object"]


def write_image(image: NDArray, path: Path, pixel_mm: float = 2.0) -> None:
    """Write a slice (left-right, posterior-anterior) in [0, 1] as 8-bit PNG or as NIfTI, by the path's suffix.

    A volume (left-right, posterior-anterior, inferior-superior) becomes NIfTI.

    Raises:
        ValueError: for a volume as PNG.
    """
    if path.suffix == ".png":
        if image.ndim != 2:
            raise ValueError(f"{path}: expected a slice, found an array of {image.ndim} axes; write volumes as .nii.gz")
        Image.fromarray((image.T * 255).round().astype(np.uint8)).save(path)
    else:
        affine = np.diag([pixel_mm, pixel_mm, pixel_mm, 1.0])
        volume = image[..., None] if image.ndim == 2 else image
        nibabel.Nifti1Image(volume.astype(np.float32), affine).to_filename(path)


def write_object(source: str, path: Path, value: int) -> None:
    """Write where the volume of a file shows its object, as NIfTI: `value` there, 0 elsewhere, on the volume's grid.

    Raises:
        ValueError: if the volume has several channels, or values that are not finite.
    """
    volume = load_file(source)
    mask = object_mask(voxels(volume, source)[0])
    nibabel.Nifti1Image(mask.astype(np.uint8) * np.uint8(value), np.asarray(volume.affine)).to_filename(path)
