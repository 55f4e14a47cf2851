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
"""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from os import PathLike
from pathlib import Path
from typing import TypeVar, cast

import nibabel
import numpy as np
from monai.data import ImageReader, NibabelReader, NumpyReader, PILReader
from monai.utils import ensure_tuple
from nibabel.affines import voxel_sizes
from nibabel.spatialimages import SpatialImage
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

__all__ = [
    "REGISTRY",
    "GreyImageReader",
    "ImageRefused",
    "NiftiReader",
    "NpyReader",
    "image_readers",
    "image_suffixes",
    "reads",
]

LARGEST_MM = 5000.0  # of a volume, along an axis
LARGEST_M3 = 1.0  # of a volume; a whole body fits
LEAST_PIXELS = 7  # of a planar image's side: a window of the SSIM
COLOURS = 4  # a side of no more is one of channels
LEVELS = 256  # that a rounded image must keep apart
PNG = b"\x89PNG\r\n\x1a\n"

Reader = TypeVar("Reader", bound=type[ImageReader])

REGISTRY: dict[type[ImageReader], tuple[str, ...]] = {}  # each reader's suffixes, in lower case


def reads(*suffixes: str) -> Callable[[Reader], Reader]:
    """Return a class decorator that registers a reader for files of these suffixes, such as ``.png``.

    The class is made without arguments. Its `read` raises where a file is of another format, or :class:`ImageRefused`
    with the reason where it must not be read. Its `get_data` returns an array (x, y) or (x, y, z) and MONAI's metadata:
    at least `original_channel_dim`, ``"no_channel"`` here, and of a volume `affine`, in mm.
    """

    def register(reader: Reader) -> Reader:
        REGISTRY[reader] = suffixes
        return reader

    return register


def image_suffixes() -> tuple[str, ...]:
    """Return the suffixes of all files that a registered reader reads."""
    return tuple(suffix for suffixes in REGISTRY.values() for suffix in suffixes)


def image_readers() -> list[ImageReader]:
    """Return the reader for ``LoadImaged``: of each file the registered one that has its suffix."""
    return [_ReaderOfSuffix({suffix: reader() for reader, suffixes in REGISTRY.items() for suffix in suffixes})]


class ImageRefused(ValueError):
    """A file that could be read and must not be, with the reason."""


class _ReaderOfSuffix(ImageReader):
    """Reads a file by the reader of its suffix, and by no other.

    Where reading fails, ``LoadImaged`` goes on to MONAI's own readers, whatever readers it was given. They would read
    what ours refuse: a damaged .nii.gz, the first of several pages. So a failure waits until `get_data`.
    """

    def __init__(self, readers: Mapping[str, ImageReader]) -> None:
        self.readers = dict(readers)

    def verify_suffix(self, filename: Sequence[PathLike | str] | PathLike | str) -> bool:
        """Return whether a reader knows the file's suffix."""
        return self._suffix(filename) is not None

    def read(
        self, data: Sequence[PathLike | str] | PathLike | str, **kwargs: object
    ) -> tuple[ImageReader, object] | Exception:
        """Return the reader with what it read, or why there is nothing."""
        suffix = self._suffix(data)
        if suffix is None:
            return ImageRefused(f"expected a file that ends in {', '.join(self.readers)}, found another")
        try:
            return self.readers[suffix], self.readers[suffix].read(data, **kwargs)
        except (ImageRefused, MemoryError) as error:
            return error
        except Exception as error:  # readers raise what they like
            if isinstance(error, (EOFError, OSError, zlib.error)) and not isinstance(error, UnidentifiedImageError):
                return ImageRefused(f"damaged or of another format: {error}")
            return ImageRefused(f"no reader of {suffix} files takes it; it is damaged or of another format")

    def get_data(self, img: tuple[ImageReader, object] | Exception) -> tuple[NDArray, dict[str, object]]:
        """Return array and metadata.

        Raises:
            ImageRefused: where nothing was read, or no image.
        """
        if isinstance(img, Exception):
            raise img
        reader, content = img
        array, metadata = reader.get_data(content)
        return _checked(np.asarray(array)), metadata

    def _suffix(self, data: Sequence[PathLike | str] | PathLike | str) -> str | None:
        (name,) = (str(path).lower() for path in ensure_tuple(data))
        return max((suffix for suffix in self.readers if name.endswith(suffix)), key=len, default=None)


def _checked(array: NDArray) -> NDArray:
    """Return an image in numbers that float32, to which ``LoadImaged`` turns it, keeps apart.

    Raises:
        ImageRefused: where its numbers are not real, too large for float32, or too few for an image.
    """
    if array.dtype.kind not in "biuf":
        raise ImageRefused(f"expected real numbers, found an array of {array.dtype}; save real ones")
    if 0 in array.shape or (array.ndim == 2 and min(array.shape) < LEAST_PIXELS):
        size = " x ".join(map(str, array.shape))
        raise ImageRefused(f"expected at least {LEAST_PIXELS} pixels a side, found {size}; take a whole image")
    if array.dtype.itemsize < 4 or array.dtype == np.float32:
        return array
    low, high = array.min(), array.max()
    largest = max(abs(float(low)), abs(float(high)))
    if float(np.finfo(np.float32).max) < largest < np.inf:
        raise ImageRefused(f"expected values that 32 bits can hold, found {largest:.4g}; scale them")
    if 0 < float(high - low) < LEVELS * np.spacing(np.float32(largest)):  # else float32 would round them to a few
        return array - low
    return array


@reads(".nii", ".nii.gz")
class NiftiReader(NibabelReader):
    """Read NIfTI files, volumes or images, with their affine; compressed ones to their end, where the checksum is.

    NibabelReader alone stops after the last voxel and never compares the checksum of a damaged file.
    """

    def read(self, data: Sequence[PathLike | str] | PathLike | str, **kwargs: object) -> object:
        """Return the image, or one for each of several files."""
        for path in map(Path, ensure_tuple(data)):
            length = path.stat().st_size
            if path.suffix.lower() == ".gz":
                with gzip.open(path) as file:
                    while file.read(1 << 20):
                        pass
                    length = file.tell()
            self._check(cast(SpatialImage, nibabel.load(path)), length)
        return super().read(data, **kwargs)

    @staticmethod
    def _check(volume: SpatialImage, length: int) -> None:
        """Refuse what MONAI would repair by guessing, and what would fill the memory; `length` of the file in bytes."""
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


@reads(".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
class GreyImageReader(PILReader):
    """Read PNG, JPEG, BMP and TIFF files as grey images of their own bit depth, upright; colours become their luma.

    PILReader alone leaves colour channels and palettes as they are.
    """

    def __init__(self) -> None:
        super().__init__(converter=self._to_grey)

    def read(self, data: Sequence[PathLike | str] | PathLike | str, **kwargs: object) -> object:  # type: ignore[override]
        """Return the image. Its bytes are read first: Pillow 13.0 scrambles some turned TIFF files that it maps."""
        content = [Path(path).read_bytes() for path in ensure_tuple(data)]
        for png in content:
            if png.startswith(PNG):
                self._check(png)
        return super().read(list(map(BytesIO, content)), **kwargs)  # type: ignore[arg-type]

    @staticmethod
    def _check(png: bytes) -> None:
        """Compare the checksums of all chunks: Pillow passes over those of the pixels."""
        start, kind = len(PNG), b""
        while kind != b"IEND":
            length, kind = int.from_bytes(png[start : start + 4]), png[start + 4 : start + 8]
            stop = start + 8 + length
            if len(png) < stop + 4:
                raise OSError("the file is cut off")
            if zlib.crc32(png[start + 4 : stop]) != int.from_bytes(png[stop : stop + 4]):
                raise OSError("a checksum differs")
            start = stop + 4

    @staticmethod
    def _to_grey(image: Image.Image) -> Image.Image:
        if (pages := getattr(image, "n_frames", 1)) > 1 and image.format != "MPO":  # a photo with its preview
            raise ImageRefused(f"expected one image, found a file of {pages}; save each as a file of its own")
        image = ImageOps.exif_transpose(image)  # as every viewer shows it
        if "A" in image.getbands() or "transparency" in image.info:  # what is transparent may hide any colour
            image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image.convert("RGBA"))
        # 16-bit, 32-bit and float modes hold one channel already; convert("L") would clip them to 8 bit
        return image if image.mode in ("L", "F") or image.mode.startswith("I") else image.convert("RGB").convert("L")


@reads(".npy")
class NpyReader(NumpyReader):
    """Read arrays of numbers; a pickle, which could run code, is refused.

    Volumes are (x, y, z). Planar images are (rows, columns), as picture libraries hold them, also with one channel
    first or last.
    """

    def __init__(self) -> None:
        super().__init__(allow_pickle=False)

    def read(self, data: Sequence[PathLike | str] | PathLike | str, **kwargs: object) -> NDArray:
        """Return the array; a planar one with x first, as PNG files are read."""
        for path in ensure_tuple(data):
            mapped = np.lib.format.open_memmap(path, mode="r")  # fails where the header asks for more than there is
            if Path(path).stat().st_size > mapped.offset + mapped.nbytes:
                raise ImageRefused("expected one array, found bytes after it; save each array as a file of its own")
        array = np.asarray(super().read(data, **kwargs))
        if array.ndim == 3 and 1 in (array.shape[0], array.shape[2]):
            array = array[0] if array.shape[0] == 1 else array[..., 0]
        if array.ndim == 3 and min(array.shape[0], array.shape[2]) <= COLOURS:
            size = " x ".join(map(str, array.shape))
            raise ImageRefused(f"expected one channel, or a volume, found {size}; turn colours into grey")
        return array.T if array.ndim == 2 else array
