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

"""The registered readers; of each file the one that has its suffix reads it."""

from __future__ import annotations

import functools
import inspect
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Protocol, TypeVar, cast

import numpy as np
from monai.data import ImageReader
from monai.utils import ensure_tuple
from numpy.typing import NDArray
from PIL import UnidentifiedImageError

__all__ = [
    "REGISTRY",
    "ImageRefused",
    "doubts_of",
    "file_of",
    "files_of",
    "format_of",
    "image_readers",
    "image_suffixes",
    "parts_of",
    "reads",
    "split_part",
    "suffix_of",
]

LEAST_PIXELS = 7  # of a planar image's side: a window of the SSIM
LEVELS = 256  # that a rounded image must keep apart

Reader = TypeVar("Reader", bound=type[ImageReader])
Answer = TypeVar("Answer")

REGISTRY: dict[type[ImageReader], tuple[str, ...]] = {}  # each reader's suffixes, in lower case


RECOGNISED: dict[Callable[[str], bool], str] = {}  # what knows a file without a suffix, and the suffix it stands for


def reads(*suffixes: str, recognises: Callable[[str], bool] | None = None) -> Callable[[Reader], Reader]:
    """Return a class decorator that registers a reader for files of these suffixes, such as ``.png``.

    `recognises` tells of the path of a file that has no registered suffix, or of a folder, whether it is read too.

    The class is made without arguments, or with those of `array_layout` and `array_key` that it takes. Its `read`
    raises where a file is of another format, or :class:`ImageRefused` with the reason where it must not be read. Its
    `get_data` returns an array (x, y) or (x, y, z) and MONAI's metadata: at least `original_channel_dim`,
    ``"no_channel"`` here, and of a volume `affine`, in mm.

    What else a class may have: ``parts(path)`` returns the names of the images that a file holds, None where it is one
    image, and ``read_part(path, part)`` what `get_data` takes; ``files(path, part)`` all files that make an image;
    ``doubts(path)`` what a header leaves open, in words.
    """

    def register(reader: Reader) -> Reader:
        REGISTRY[reader] = suffixes
        if recognises is not None:
            RECOGNISED[recognises] = suffixes[0]
        return reader

    return register


class _Reads(Protocol):
    """What a registered reader may have besides."""

    def parts(self, path: str) -> Sequence[str] | None:
        """Return the names of the images of a file, None where it is one image."""

    def read_part(self, path: str, part: str) -> object:
        """Return one image of a file."""

    def files(self, path: str, part: str | None) -> Sequence[str]:
        """Return the files that an image is read from."""

    def doubts(self, path: str) -> Sequence[str]:
        """Return what a file leaves open, and what is taken."""


def image_suffixes() -> tuple[str, ...]:
    """Return the suffixes of all files that a registered reader reads."""
    return tuple(suffix for suffixes in REGISTRY.values() for suffix in suffixes)


def image_readers(array_layout: str | None = None, array_key: str | Sequence[str] | None = None) -> list[ImageReader]:
    """Return the reader for ``LoadImaged``: of each file the registered one that has its suffix.

    Args:
        array_layout: what the axes of arrays are, as ``NCHW``; None finds out. See docs/inputs.md.
        array_key: name of the array in a file of several, or names, of which the first that a file has is taken;
            None: the only one that may hold images.
    """
    return [whole_reader(array_layout, array_key)]


def whole_reader(array_layout: str | None = None, array_key: str | Sequence[str] | None = None) -> _ReaderOfSuffix:
    """Return the reader of all files that a registered one reads."""
    return _ReaderOfSuffix(_made(array_layout, _hashable(array_key)))


def parts_of(
    path: str | PathLike, array_layout: str | None = None, array_key: str | Sequence[str] | None = None
) -> Sequence[str] | None:
    """Return the names of the images that a file holds, or None for one image or a file that cannot be read."""
    return _asked(path, "parts", None, array_layout, array_key)


def files_of(image: str | PathLike) -> Sequence[str]:
    """Return the files that make an image, such as header and data."""
    path, part = split_part(image)
    return _asked(path, "files", [path], None, None, part)


def doubts_of(image: str | PathLike) -> Sequence[str]:
    """Return what the header of an image leaves open, in words."""
    return _asked(file_of(image), "doubts", [], None, None)


def _asked(
    path: str | PathLike,
    method: str,
    default: Answer,
    array_layout: str | None,
    array_key: str | Sequence[str] | None,
    *more: object,
) -> Answer:
    """Return what a file's reader says, the default where it has nothing to say or cannot read the file."""
    reader = _kept(array_layout, _hashable(array_key), tuple(REGISTRY)).get(format_of(path) or "")
    if not hasattr(reader, method):
        return default
    try:
        return cast(Answer, getattr(reader, method)(os.fspath(path), *more))
    except Exception:  # readers raise what they like; the chain says what is wrong
        return default


def split_part(image: str | PathLike) -> tuple[str, str | None]:
    """Return a path and the part of the file that is meant, or None for all of it.

    >>> split_part("missing.npy#17")
    ('missing.npy#17', None)
    """
    text = os.fspath(image)
    if "#" in text and not os.path.exists(text):
        for end in (i for i, letter in enumerate(text) if letter == "#"):
            if os.path.isfile(text[:end]) or (os.path.isdir(text[:end]) and text[end + 1 :].isdecimal()):
                return text[:end], text[end + 1 :]
    return text, None


def file_of(image: str | PathLike) -> str:
    """Return the path of the file that holds an image."""
    return split_part(image)[0]


def suffix_of(name: str | PathLike) -> str | None:
    """Return the longest registered suffix of a name, in lower case; None where it has none."""
    text = os.fspath(name).lower()
    return max((suffix for suffix in image_suffixes() if text.endswith(suffix)), key=len, default=None)


def format_of(path: str | PathLike) -> str | None:
    """Return the suffix of a file, or that of the format by which a file without one, or a folder, is known."""
    path = os.fspath(path)
    own = None if os.path.isdir(path) else suffix_of(path)
    return own or next((suffix for known, suffix in RECOGNISED.items() if known(path)), None)


def _made(array_layout: str | None, array_key: str | tuple[str, ...] | None) -> dict[str, ImageReader]:
    """Return a reader for each suffix."""
    made: dict[str, ImageReader] = {}
    given = {"array_layout": array_layout, "array_key": array_key}
    for reader, suffixes in REGISTRY.items():
        taken = inspect.signature(reader).parameters
        make: Callable[..., ImageReader] = reader
        made |= dict.fromkeys(suffixes, make(**{name: value for name, value in given.items() if name in taken}))
    return made


def _hashable(array_key: str | Sequence[str] | None) -> str | tuple[str, ...] | None:
    return array_key if array_key is None or isinstance(array_key, str) else tuple(array_key)


@functools.lru_cache(maxsize=8)
def _kept(
    array_layout: str | None, array_key: str | tuple[str, ...] | None, registered: tuple[type[ImageReader], ...]
) -> dict[str, ImageReader]:
    return _made(array_layout, array_key)


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
        return format_of(_only(filename)[0]) in self.readers

    def read(
        self, data: Sequence[PathLike | str] | PathLike | str, **kwargs: object
    ) -> tuple[ImageReader, object] | Exception:
        """Return the reader with what it read, or why there is nothing."""
        path, part = _only(data)
        suffix = format_of(path)
        if suffix is None or suffix not in self.readers:
            return ImageRefused(f"expected a file that ends in {', '.join(self.readers)}, found another")
        try:
            return self.readers[suffix], self._content(self.readers[suffix], path, part)
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

    @staticmethod
    def _content(reader: ImageReader, path: str, part: str | None) -> object:
        if not hasattr(reader, "parts"):
            if part is not None:
                raise ImageRefused(f"expected a file of several images, as #{part} is asked for, found one image")
            return reader.read([path])
        several = cast(_Reads, reader)
        if part is not None:
            return several.read_part(path, part)
        if (parts := several.parts(path)) is not None:
            one = f"; name one, as {Path(path).name}#{parts[0]}" if parts else ""
            raise ImageRefused(f"expected one image, found a file of {len(parts)}{one}")
        return reader.read([path])


def _only(data: Sequence[PathLike | str] | PathLike | str) -> tuple[str, str | None]:
    (name,) = ensure_tuple(data)
    return split_part(name)


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


def unchanged(path: str) -> tuple[str, int, int]:
    """Return what tells a file from itself after a change: the key of a memory of what it holds."""
    state = os.stat(path)
    return path, state.st_mtime_ns, state.st_size


def remembered(read: Callable[..., Answer]) -> Callable[..., Answer]:
    """Return a function of a path, and more, that reads the file once, until another is read or it changes."""

    @functools.lru_cache(maxsize=1)
    def once(key: tuple[str, int, int], *more: object) -> Answer:
        return read(key[0], *more)

    return lambda path, *more: once(unchanged(path), *more)
