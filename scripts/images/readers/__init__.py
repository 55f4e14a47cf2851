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

"""Read image files of every kind: one reader class a format.

A reader class decorated by :func:`reads` is found in folders, listed in error messages and tried by the bundle's chain.
A file may hold several images, as a stack of samples does: each is told by its part, as in ``samples.npy#17``.
"""

from __future__ import annotations

from . import archives, arrays, dicom, itk, nifti, pictures  # each registers its classes
from .arrays import NpyReader, described_axes
from .dicom import SUFFIXES as DICOM_SUFFIXES
from .dicom import series_of
from .layouts import LAYOUTS, check_key, check_layout
from .nifti import NiftiReader
from .pictures import GreyImageReader
from .registry import (
    REGISTRY,
    ImageRefused,
    doubts_of,
    file_of,
    files_of,
    format_of,
    image_readers,
    image_suffixes,
    parts_of,
    reads,
    split_part,
    suffix_of,
)

__all__ = [
    "DICOM_SUFFIXES",
    "LAYOUTS",
    "REGISTRY",
    "GreyImageReader",
    "ImageRefused",
    "NiftiReader",
    "NpyReader",
    "archives",
    "arrays",
    "check_key",
    "check_layout",
    "described_axes",
    "dicom",
    "doubts_of",
    "file_of",
    "files_of",
    "format_of",
    "image_readers",
    "image_suffixes",
    "itk",
    "nifti",
    "parts_of",
    "pictures",
    "reads",
    "series_of",
    "split_part",
    "suffix_of",
]
