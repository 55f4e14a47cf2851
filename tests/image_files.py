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

"""Image files that several tests write: a stack of samples, a shard, a DICOM series."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset

RNG = np.random.default_rng(0)
# five pictures that have nothing in common, (rows, columns), 8 bits
SAMPLES = np.stack([np.kron(RNG.integers(0, 256, (7, 5)), np.ones((6, 6), int)) for _ in range(5)]).astype(np.uint8)


def write_tar(path: Path, array: NDArray) -> None:
    with tarfile.open(path, "w") as archive:
        for number, page in enumerate(array):
            Image.fromarray(page).save(content := io.BytesIO(), "PNG")
            for name, data in ((f"{number}.png", content.getvalue()), (f"{number}.json", b"{}")):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))


VOXELS = np.random.default_rng(0).integers(0, 900, (9, 11, 7)).astype(np.int16)  # (columns, rows, slices)
AXIAL = (1, 0, 0, 0, 1, 0)
OBLIQUE = (0.8, 0.6, 0, 0, 0, -1)  # a tilted coronal plane


def a_slice(pixels: NDArray, position: NDArray | None, orientation=AXIAL, **tags: object) -> Dataset:
    """Return a DICOM image of pixels (rows, columns), 3 mm between rows and 2 mm between columns."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = pydicom.uid.MRImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = pydicom.uid.generate_uid()
    data.SeriesInstanceUID, data.PatientID, data.Modality = "1.2.3", "P7", "MR"
    data.Rows, data.Columns = pixels.shape
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.PixelRepresentation, data.SamplesPerPixel = 15, 1, 1
    data.PhotometricInterpretation, data.PixelData = "MONOCHROME2", pixels.astype("<i2").tobytes()
    if position is not None:
        data.ImagePositionPatient, data.ImageOrientationPatient = list(position), list(orientation)
        data.PixelSpacing, data.SliceThickness = [3, 2], 4
    for name, value in tags.items():
        setattr(data, name, value)
    return data


def write_series(folder: Path, orientation=AXIAL, skip: tuple[int, ...] = (), start: int = 0, **tags: object) -> Path:
    """Write the volume as a file a slice, in an order of names that is not that of places; 4 mm between slices."""
    folder.mkdir(parents=True, exist_ok=True)
    normal = np.cross(orientation[:3], orientation[3:])
    for number in range(VOXELS.shape[2]):
        if number not in skip:
            position = np.array([-20.0, 10.0, 5.0]) + 4 * number * normal
            data = a_slice(VOXELS[..., number].T, position, orientation, InstanceNumber=99 - number, **tags)
            data.save_as(folder / f"IM{start + (5 * number) % 7:03}.dcm", enforce_file_format=True)
    return folder
