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

"""Volumes and images in the files of the Insight Toolkit: NRRD and MetaImage, by SimpleITK."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from os import PathLike

import numpy as np
from monai.data import ImageReader
from monai.utils import ensure_tuple, optional_import
from numpy.typing import NDArray

from .registry import ImageRefused, reads

__all__ = ["ItkReader"]

sitk, has_sitk = optional_import("SimpleITK")

DETACHED = re.compile(rb"(?mi)^\s*(?:ElementDataFile\s*=|data ?file:)\s*(.+?)\s*$")
HEADER = 1 << 16  # bytes within which the header names its file
TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@reads(".nrrd", ".nhdr", ".mha", ".mhd")
class ItkReader(ImageReader):
    """Read NRRD and MetaImage files with their affine, which these formats give towards left and back (LPS)."""

    def verify_suffix(self, filename: Sequence[PathLike | str] | PathLike | str) -> bool:
        """Return whether SimpleITK is there."""
        return bool(has_sitk)

    def files(self, path: str, part: str | None = None) -> list[str]:
        """Return header and data file.

        Raises:
            ImageRefused: where the header names a file of another folder, which is not trusted.
        """
        with open(path, "rb") as file:
            header = file.read(HEADER).partition(b"\n\n")[0]
        found = DETACHED.search(header)
        name = os.fsdecode(found[1]) if found else "LOCAL"
        if name.upper() == "LOCAL":
            return [path]
        data = os.path.join(os.path.dirname(path), name)
        if os.path.basename(name) != name or not os.path.isfile(data):
            raise ImageRefused(f"expected its data in one file beside it, found {name[:80]!r}; save both in one file")
        return [path, data]

    def read(self, data: Sequence[PathLike | str] | PathLike | str, **kwargs: object) -> object:
        """Return SimpleITK's image.

        Raises:
            ImageRefused: where SimpleITK is not installed, or the image has several channels or four axes.
        """
        (path,) = map(os.fspath, ensure_tuple(data))
        if not has_sitk:
            raise ImageRefused("expected the package SimpleITK to read it, found none; pip install SimpleITK")
        self.files(path)
        image = sitk.ReadImage(path)
        if image.GetNumberOfComponentsPerPixel() > 1 or image.GetDimension() not in (2, 3):
            found = f"{image.GetNumberOfComponentsPerPixel()} channels and {image.GetDimension()} axes"
            raise ImageRefused(f"expected one channel and two or three axes, found {found}; save each by itself")
        return image

    def get_data(self, img: object) -> tuple[NDArray, dict[str, object]]:
        """Return the array, x first, and its affine."""
        dims = img.GetDimension()  # type: ignore[attr-defined]
        affine = np.eye(4)
        direction = np.reshape(img.GetDirection(), (dims, dims))  # type: ignore[attr-defined]
        affine[:dims, :dims] = direction * img.GetSpacing()  # type: ignore[attr-defined]
        affine[:dims, 3] = img.GetOrigin()  # type: ignore[attr-defined]
        affine = TO_RAS @ affine
        array = sitk.GetArrayFromImage(img).T
        metadata = {"affine": affine, "original_affine": affine.copy(), "spatial_shape": np.array(array.shape)}
        return array, {**metadata, "original_channel_dim": float("nan"), "space": "RAS"}
