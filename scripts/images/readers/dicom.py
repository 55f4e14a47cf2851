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

"""DICOM: series of slices, multi-frame volumes, single images; by pydicom.

A folder of a series is an image, ``folder``; of several series, or of a series beside single images, the n-th one is
``folder#n``. What is no volume, as an X-ray, is a file of its own.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np
from monai.data import ImageReader
from monai.utils import ensure_tuple, optional_import
from numpy.typing import NDArray

from .layouts import LUMA
from .registry import ImageRefused, reads

__all__ = ["DicomReader", "Series", "is_dicom", "series_of"]

pydicom, has_pydicom = optional_import("pydicom")
pixels, _ = optional_import("pydicom.pixels")

SUFFIXES = (".dcm", ".dicom", ".ima")
MAGIC, PREAMBLE = b"DICM", 128
NO_IMAGES = ("SEG", "SR", "PR", "KO", "RTSTRUCT", "RTPLAN", "RTDOSE", "REG")  # modalities
SAME_GAP = 0.1  # relative difference of the distances of slices that counts as none
PARALLEL = 0.01  # difference of direction cosines that counts as none
SAME_SPACING = 1e-3  # relative
TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])  # DICOM's axes point left and back
HEADER = [
    "SeriesInstanceUID",
    "PatientID",
    "Modality",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "ImagePositionPatient",
    "ImageOrientationPatient",
]

Dataset = Any  # pydicom's, an optional package


def is_dicom(path: str) -> bool:
    """Return whether a file has DICOM's mark, or a folder holds images of DICOM."""
    try:
        if os.path.isdir(path):
            return bool(series_of(path))
        with open(path, "rb") as file:
            return file.read(PREAMBLE + len(MAGIC))[PREAMBLE:] == MAGIC
    except OSError:
        return False


@dataclass(frozen=True)
class Series:
    """Files of a folder that make one image.

    Attributes:
        files: in the order of their names.
        patient: PatientID, empty where there is none.
        volume: they are slices at several places.
    """

    files: tuple[str, ...]
    patient: str
    volume: bool


def series_of(folder: str | PathLike) -> list[Series]:
    """Return the images that the DICOM files of a folder make, those of its subfolders left out.

    Files of one SeriesInstanceUID, size and orientation that have positions are a volume. Reports, plans and
    segmentations are left out; a file that cannot be read is an image by itself, and complained about when it is read.
    """
    return list(_series_of(os.fspath(folder), os.stat(folder).st_mtime_ns))


@functools.lru_cache(maxsize=64)
def _series_of(folder: str, changed: int) -> tuple[Series, ...]:
    groups: dict[tuple[object, ...], list[str]] = {}
    patients: dict[str, str] = {}
    for path in sorted(entry.path for entry in os.scandir(folder) if entry.is_file()):
        name = os.path.basename(path)
        if name.startswith(".") or name.upper() == "DICOMDIR":
            continue
        if not (path.lower().endswith(SUFFIXES) or is_dicom(path)):
            continue
        key = _group(path, patients)
        if key is not None:
            groups.setdefault(key, []).append(path)
    ordered = [groups[key] for key in sorted(groups, key=repr)]
    return tuple(Series(tuple(files), patients.get(files[0], ""), len(files) > 1) for files in ordered)


def _group(path: str, patients: dict[str, str]) -> tuple[object, ...] | None:
    """Return what the files of one image have in common; None where a file holds no image. Notes the patient."""
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=HEADER, force=True)
        patients[path] = str(header.get("PatientID", "") or "").strip()
        if header.get("Modality") in NO_IMAGES or ("Rows" not in header and header.get("Modality")):
            return None
        position, orientation = header.get("ImagePositionPatient"), header.get("ImageOrientationPatient")
        if not position or not orientation or int(header.get("NumberOfFrames") or 1) > 1:
            return ("", path)
        size = (int(header.Rows), int(header.Columns))
        return (str(header.get("SeriesInstanceUID", "")), *size, *np.round(np.array(orientation, float), 2).tolist())
    except Exception:  # whatever a broken header makes pydicom raise
        return ("", path)


@reads(*SUFFIXES, recognises=is_dicom)
class DicomReader(ImageReader):
    """Read a DICOM file or the series of a folder, in the numbers that its header names, bright where it says so."""

    def verify_suffix(self, filename: Sequence[PathLike | str] | PathLike | str) -> bool:
        """Return whether pydicom is there."""
        return bool(has_pydicom)

    def parts(self, path: str) -> Sequence[str] | None:
        """Return the numbers of the images of a folder, None where it holds one, and for a file."""
        if not os.path.isdir(path):
            return None
        count = len(series_of(path))
        return list(map(str, range(count))) if count != 1 else None

    def files(self, path: str, part: str | None) -> Sequence[str]:
        """Return the files of an image."""
        if not os.path.isdir(path):
            return [path]
        series = series_of(path)
        number = int(part or 0) if (part or "0").isdecimal() else len(series)
        if number >= len(series):
            raise ImageRefused(f"expected an image number {part}, found {len(series)} in the folder, the first one 0")
        return series[number].files

    def read_part(self, path: str, part: str) -> tuple[NDArray, NDArray | None]:
        """Return the n-th image of a folder and its affine."""
        return self._image(self.files(path, part))

    def read(self, data: Sequence[PathLike | str] | PathLike | str, **kwargs: object) -> tuple[NDArray, NDArray | None]:
        """Return an image, x first, and its affine, None where it has no place in space.

        Raises:
            ImageRefused: where pydicom is not installed, slices are missing, or there is no image.
        """
        (path,) = map(os.fspath, ensure_tuple(data))
        return self._image(self.files(path, None))

    def get_data(self, img: tuple[NDArray, NDArray | None]) -> tuple[NDArray, dict[str, object]]:
        """Return the array, x first, and its affine."""
        array, affine = img
        affine = np.eye(4) if affine is None else affine
        metadata = {"affine": affine, "original_affine": affine.copy(), "spatial_shape": np.array(array.shape)}
        return array, {**metadata, "original_channel_dim": float("nan"), "space": "RAS"}

    @staticmethod
    def _image(files: Sequence[str]) -> tuple[NDArray, NDArray | None]:
        if not has_pydicom:
            raise ImageRefused("expected the package pydicom to read it, found none; pip install pydicom")
        frames: list[_Frame] = []
        for file in files:
            frames += _frames(pydicom.dcmread(file, force=True))
        if len(frames) == 1 and frames[0].position is None:
            return _bright(frames).astype(np.float32)[0].T, None
        return _stacked(frames)


@dataclass(frozen=True)
class _Frame:
    """A plane.

    `pixels` (rows, columns), its place in mm (LPS) or None, `orientation` (2, 3), `spacing` (2,) of rows
    and of columns, and `thickness` in mm.
    """

    pixels: NDArray[np.float32]
    dark: bool
    position: NDArray[np.float64] | None
    orientation: NDArray[np.float64] | None
    spacing: NDArray[np.float64]
    thickness: float


def _frames(data: Dataset) -> list[_Frame]:
    """Return the planes of a file."""
    if "PixelData" not in data and "FloatPixelData" not in data and "DoubleFloatPixelData" not in data:
        raise ImageRefused("expected an image, found a DICOM file without pixels")
    if data.file_meta.get("TransferSyntaxUID") is None:  # a file from before the file format had a header
        data.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
    count = int(data.get("NumberOfFrames") or 1)
    try:
        raw = np.asarray(data.pixel_array)
    except Exception as error:  # decoders raise what they like
        raise ImageRefused(_undecoded(str(error).strip() or type(error).__name__)) from None
    colours = int(data.get("SamplesPerPixel", 1)) == 3
    raw = raw.reshape(count, *raw.shape[-3 if colours else -2 :])
    if data.get("PhotometricInterpretation") == "PALETTE COLOR":
        raw, colours = np.asarray(pixels.apply_color_lut(raw, data)), True
    if colours:
        if str(data.get("PhotometricInterpretation", "")).startswith("YBR") and not _decoded_as_rgb(data):
            raw = pixels.convert_color_space(raw, data.PhotometricInterpretation, "RGB")
        raw = raw[..., :3] @ np.array(LUMA, np.float32)
    return [_frame(data, raw[number], number, count) for number in range(count)]


def _undecoded(reason: str) -> str:
    """Return in a sentence why pixels could not be decoded."""
    if "missing dependencies" in reason:
        return "expected a compression that pydicom decodes, found another; pip install 'pylibjpeg[all]'"
    return f"damaged or of another format: {reason.splitlines()[0].rstrip(':')}"


def _decoded_as_rgb(data: Dataset) -> bool:
    """Return whether the decoder has turned the colours already, as that of JPEG 2000 does."""
    return str(data.PhotometricInterpretation) in ("YBR_ICT", "YBR_RCT")


def _frame(data: Dataset, raw: NDArray, number: int, count: int) -> _Frame:
    """Return a plane, its pixels in the units that the header names."""
    transform = _macro(data, number, "PixelValueTransformationSequence")
    if transform is not None:
        values = np.asarray(raw, np.float32) * float(transform.RescaleSlope) + float(transform.RescaleIntercept)
    else:
        values = np.asarray(pixels.apply_modality_lut(raw, data), np.float32)
    padding = data.get("PixelPaddingValue")
    if isinstance(padding, (int, float)) and (raw == padding).any() and (raw != padding).any():
        values = np.where(raw == padding, values[raw != padding].min(), values)  # outside the scanner's circle
    place, plane = _macro(data, number, "PlanePositionSequence"), _macro(data, number, "PlaneOrientationSequence")
    size = _macro(data, number, "PixelMeasuresSequence")
    position = (place if place is not None else data).get("ImagePositionPatient")
    orientation = (plane if plane is not None else data).get("ImageOrientationPatient")
    spacing = (size if size is not None else data).get("PixelSpacing")
    if not position or not orientation:
        if count > 1:
            raise ImageRefused(f"expected places of {count} frames, found none; save each frame as a file of its own")
        position = orientation = None
    return _Frame(
        values,
        data.get("PhotometricInterpretation") == "MONOCHROME1",
        None if position is None else np.array(position, float),
        None if orientation is None else np.array(orientation, float).reshape(2, 3),
        np.array(spacing or (1.0, 1.0), float),
        float((size if size is not None else data).get("SliceThickness") or 1.0),
    )


def _macro(data: Dataset, number: int, name: str) -> Dataset | None:
    """Return what a multi-frame file says of a frame, or else of all; None where it says nothing."""
    frames = data.get("PerFrameFunctionalGroupsSequence") or []
    for groups in (frames[number : number + 1], data.get("SharedFunctionalGroupsSequence") or []):
        if groups and groups[0].get(name):
            return groups[0][name].value[0]
    return None


def _bright(frames: Sequence[_Frame]) -> NDArray[np.float32]:
    """Return the pixels (N, rows, columns), inverted where the header says that large values are dark."""
    planes = np.stack([frame.pixels for frame in frames])
    return planes.max() - planes if frames[0].dark else planes


def _stacked(frames: Sequence[_Frame]) -> tuple[NDArray, NDArray]:
    """Return a volume (x, y, z) and its affine (RAS), the slices sorted by their place.

    Raises:
        ImageRefused: where slices differ in size or direction, lie at one place, or are missing.
    """
    first = frames[0]
    orientations = [frame.orientation for frame in frames if frame.orientation is not None]
    if len(orientations) < len(frames) or any(frame.position is None for frame in frames):
        raise ImageRefused("expected a place for each slice, found some without; take out what is no slice")
    alike = all(
        f.pixels.shape == first.pixels.shape
        and np.allclose(orientation, orientations[0], atol=PARALLEL)
        and np.allclose(f.spacing, first.spacing, rtol=SAME_SPACING)
        for f, orientation in zip(frames, orientations)
    )
    if not alike:
        raise ImageRefused("expected slices of one size and direction, found several; give each a folder of its own")
    normal = np.cross(*orientations[0])
    places = np.array([f.position for f in frames])
    order = np.argsort(places @ normal, kind="stable")
    places = places[order]
    step = normal * first.thickness
    if len(frames) > 1:
        gaps = np.diff(places @ normal)
        usual = float(np.median(gaps))
        if gaps.min() <= SAME_GAP * usual or usual <= 0:
            raise ImageRefused("expected one slice at each place, found several; give each phase or echo a folder")
        if np.abs(gaps - usual).max() > SAME_GAP * usual:
            raise ImageRefused(
                f"expected slices at equal distances, found {gaps.max():.3g} mm beside {usual:.3g} mm; add the missing "
                "ones"
            )
        step = (places[-1] - places[0]) / (len(frames) - 1)
    affine = np.eye(4)
    affine[:3, 0] = orientations[0][0] * first.spacing[1]  # along a row: from column to column
    affine[:3, 1] = orientations[0][1] * first.spacing[0]
    affine[:3, 2], affine[:3, 3] = step, places[0]
    volume = _bright([frames[number] for number in order])
    return volume.transpose(2, 1, 0), TO_RAS @ affine
