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

"""Volumes in the files that nibabel reads: NIfTI, one file or a pair, Analyze and FreeSurfer's MGH."""

from __future__ import annotations

import gzip
import math
import os
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import cast

import nibabel
import numpy as np
from monai.data import NibabelReader
from monai.utils import ensure_tuple
from nibabel.affines import apply_affine, voxel_sizes
from nibabel.analyze import AnalyzeHeader
from nibabel.spatialimages import SpatialImage

from .registry import ImageRefused, reads

__all__ = ["NiftiReader"]

LARGEST_MM = 5000.0  # of a volume, along an axis
SKEW = 0.01  # cosine of the angle between two axes that counts as a right one
LARGEST_M3 = 1.0  # of a volume; a whole body fits


@reads(".nii", ".nii.gz", ".img", ".mgz", ".mgh")
class NiftiReader(NibabelReader):
    """Read volumes or images with their affine; compressed ones to their end, where the checksum is.

    NibabelReader alone stops after the last voxel and never compares the checksum of a damaged file.
    """

    def read(self, data: Sequence[PathLike | str] | PathLike | str, **kwargs: object) -> object:
        """Return the image, or one for each of several files."""
        for path in map(Path, ensure_tuple(data)):
            length = path.stat().st_size
            if path.suffix.lower() in (".gz", ".mgz"):
                with gzip.open(path) as file:
                    while file.read(1 << 20):
                        pass
                    length = file.tell()
            self._check(cast(SpatialImage, nibabel.load(path)), length)
        return super().read(data, **kwargs)

    @staticmethod
    def _check(volume: SpatialImage, length: int) -> None:
        """Refuse what MONAI would repair by guessing, and what would fill the memory; `length` of the file in bytes."""
        unit = volume.header.get_xyzt_units()[0] if isinstance(volume.header, nibabel.Nifti1Header) else "mm"
        if unit in ("meter", "micron"):
            raise ImageRefused(
                f"expected a header in mm, found one in units of a {unit}; convert affine and units to mm"
            )
        sizes = voxel_sizes(volume.affine)
        if not (np.isfinite(volume.affine).all() and sizes.min() > 0 and abs(np.linalg.det(volume.affine)) > 0):
            raise ImageRefused("expected an affine that says where the voxels lie, found none; correct sform or qform")
        sides = np.multiply(volume.shape[:3], sizes[: len(volume.shape)]) / 1000  # in m
        if max(sides) > LARGEST_MM / 1000:  # resampled it would fill the memory
            raise ImageRefused(
                f"expected an image of at most {LARGEST_MM / 1000:g} m, found one of {max(sides):.4g} m; "
                "correct its voxel size"
            )
        if len(sides) == 3 and sides.prod() > LARGEST_M3:
            found = " x ".join(f"{side:.4g}" for side in sides)
            raise ImageRefused(
                f"expected a volume of at most {LARGEST_M3:g} m3, found one of {found} m; correct its voxel size"
            )
        needed = (
            int(getattr(volume.dataobj, "offset", 0))
            + math.prod(volume.shape) * volume.header.get_data_dtype().itemsize
        )
        if length < needed:
            raise ImageRefused(f"expected {needed} bytes, as its header says, found {length}; copy it again")

    def files(self, path: str, part: str | None = None) -> list[str]:
        """Return the files that make an image: of a pair, .img and .hdr."""
        start, suffix = os.path.splitext(path)
        if suffix.lower() != ".img":
            return [path]
        header = next((start + end for end in (".hdr", ".HDR") if os.path.isfile(start + end)), None)
        return [path, header] if header else [path]

    def doubts(self, path: str) -> list[str]:
        """Return what the header leaves open, so that two programs may read the volume differently."""
        image = cast(SpatialImage, nibabel.load(path))
        header = image.header
        if not isinstance(header, nibabel.Nifti1Header):
            return ["left and right are not told apart"] if isinstance(header, AnalyzeHeader) else []
        said = [words for words in (self._odd_numbers(path), self._skew(image)) if words]
        sform, qform = header.get_sform(coded=True)[0], header.get_qform(coded=True)[0]
        if sform is None and qform is None:
            said += ["its header has no orientation; axes are taken as right to left, back to front, up"]
        elif sform is not None and qform is not None and len(image.shape) >= 3:
            corners = np.array([*np.ndindex(2, 2, 2)]) * np.subtract(image.shape[:3], 1)
            apart = np.abs(apply_affine(sform, corners) - apply_affine(qform, corners)).max()
            if apart > voxel_sizes(image.affine).max():
                said += [f"sform and qform differ by up to {apart:.3g} mm; the sform is taken"]
        return said

    @staticmethod
    def _odd_numbers(path: str) -> str:
        """Return what a header says that nibabel puts right without a word, as it stands in the file."""
        kind = cast(type[nibabel.Nifti1Header], type(cast(SpatialImage, nibabel.load(path)).header))
        file = path if kind.is_single else os.path.splitext(path)[0] + ".hdr"
        with nibabel.openers.ImageOpener(file) as opened:
            raw = kind.from_fileobj(opened, check=False)
        sizes = raw["pixdim"][1 : 1 + min(3, int(raw["dim"][0]))]
        if (sizes == 0).any():
            return "its header has a voxel size of 0; 1 mm is taken"
        if (sizes < 0).any():
            return "its header has a voxel size below 0; the sign is left out"
        if np.isinf(raw["scl_slope"]):
            return "its header scales values by infinity; they are taken as they are stored"
        return ""

    @staticmethod
    def _skew(image: SpatialImage) -> str:
        """Return whether the axes are at right angles, in words where they are not."""
        axes = image.affine[:3, :3] / voxel_sizes(image.affine)
        if np.abs(axes.T @ axes - np.eye(3)).max() > SKEW:
            return "its axes are not at right angles, which other programs refuse or straighten"
        return ""
