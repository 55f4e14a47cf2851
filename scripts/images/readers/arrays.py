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

"""Arrays, one image or a stack of samples: .npy, .npz, .pt, .h5.

What the axes of an array are is told by letters: N samples, C channels, H rows and W columns of a planar image,
X Y Z of a volume, D H W of a volume whose slices come first.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from os import PathLike
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from monai.data import NumpyReader
from monai.utils import ensure_tuple, optional_import
from numpy.typing import NDArray

from .registry import LEAST_PIXELS, REGISTRY, ImageRefused, reads, remembered, suffix_of, unchanged

__all__ = [
    "LAYOUTS",
    "ArrayReader",
    "Hdf5Reader",
    "NpyReader",
    "NpzReader",
    "TorchReader",
    "check_layout",
    "described_axes",
    "layout_of",
]

h5py, has_h5py = optional_import("h5py")

# the axes that may be named, without N and C, and the order in which an image is kept
LAYOUTS = MappingProxyType(
    {"HW": "WH", "WH": "WH", "XYZ": "XYZ", "ZYX": "XYZ", "DHW": "WHD", "HWD": "WHD", "WHD": "WHD"}
)
COLOURS = 4  # a side of no more is one of channels
LUMA = (0.299, 0.587, 0.114)  # of red, green and blue, ITU-R BT.601
# Planes one after another: half the mean squared difference of neighbours, over the variance. Slices of a volume of up
# to 3 mm have at most 0.3, different people's 0.93 and more; between lie thick slices, and samples that were sorted.
SMOOTH, INDEPENDENT = 0.32, 0.8
PLANES, PIXELS = 64, 64  # that are looked at, a side
LONGEST = 4  # times the shortest side: what is longer is no volume

Array = Any  # what has a shape, a dtype, and gives a NumPy array when indexed: a memory map, an HDF5 data set


def described_axes(path: str | PathLike, array_layout: str | None = None) -> str:
    """Return what the axes of a stack of samples are taken for, as ``N x C x H x W = 64 x 1 x 32 x 32``, else ""."""
    reader = next((one for one, suffixes in REGISTRY.items() if suffix_of(path) in suffixes), None)
    if reader is None or not issubclass(reader, ArrayReader):
        return ""
    layout = reader(array_layout).layout(os.fspath(path))
    with reader.opened(os.fspath(path)) as array:
        return f"{' x '.join(layout)} = {' x '.join(map(str, array.shape))}"


def check_layout(layout: object) -> str | None:
    """Return a layout in capital letters, None for None.

    Raises:
        ValueError: unless it names the axes of one kind of image, each once.
    """
    if layout is None:
        return None
    letters = layout.upper() if isinstance(layout, str) else ""
    spatial = "".join(letter for letter in letters if letter not in "NC")
    if spatial not in LAYOUTS or len(set(letters)) < len(letters):
        raise ValueError(
            f"array_layout: expected letters for the axes, as NHW, NCHW, NHWC, NXYZ or XYZ, found {layout!r}; N are "
            "samples, C channels, HW rows and columns, XYZ or DHW a volume"
        )
    return letters


def layout_of(array: Array, given: str | None = None) -> str:
    """Return a letter for each axis of an array.

    Args:
        array: of 2 to 5 axes.
        given: the layout that a caller names; it must have as many letters as the array axes. None: by the rule of
            docs/inputs.md.

    Raises:
        ImageRefused: where the array does not have the axes, or may be two things.
    """
    shape = tuple(array.shape)
    size = " x ".join(map(str, shape))
    if given is not None:
        if len(given) != len(shape) and len(given) - len(shape) != given.count("N"):
            raise ImageRefused(f"expected the axes {given} of array_layout, found {size}; name the axes of this array")
        layout = given if len(given) == len(shape) else given.replace("N", "")
    else:
        layout = _found(array, shape, size)
    channels = shape[layout.index("C")] if "C" in layout else 1
    if channels not in (1, 3) or (channels == 3 and "H" not in layout):
        raise ImageRefused(f"expected one channel, or three of colours, found {size} as {layout}; turn them into one")
    return layout


def _found(array: Array, shape: tuple[int, ...], size: str) -> str:
    if len(shape) < 2:
        raise ImageRefused(
            f"expected an image or a stack of them, found an array of {size or 'no'} numbers; exclude it"
        )
    if shape[0] == 0 and len(shape) > 2:
        raise ImageRefused(f"expected samples, found none in an array of {size}; exclude it")
    if 0 in shape:
        raise ImageRefused(f"expected at least {LEAST_PIXELS} pixels a side, found {size}; take a whole image")
    if len(shape) == 2:
        return "HW"
    if len(shape) == 3:
        if shape[0] == 1:
            return "CHW"
        if shape[2] in (1, 3):
            return "HWC"
        if 0 < min(shape[0], shape[2]) <= COLOURS:
            raise ImageRefused(
                f"expected one channel, or a volume, found {size}; turn colours into grey, or name the axes by "
                "array_layout"
            )
        return _stack_or_volume(array, shape, size, "NHW", "XYZ")
    if len(shape) == 4:
        if shape[1] in (1, 3):
            return "NCHW"
        if shape[3] == 3:
            return "NHWC"
        if shape[3] == 1:
            return _stack_or_volume(array, shape, size, "NHWC", "XYZC")
        if shape[0] == 1:
            return "CXYZ"
        if min(shape[1:]) > COLOURS:
            return "NXYZ"
    if len(shape) == 5 and 1 in (shape[1], shape[4]):
        return "NCXYZ" if shape[1] == 1 else "NXYZC"
    raise ImageRefused(f"expected an image or a stack of them, found an array of {size}; name its axes by array_layout")


def _stack_or_volume(array: Array, shape: tuple[int, ...], size: str, stack: str, volume: str) -> str:
    """Return what an array of three axes is: do its planes follow one another as slices do?"""
    ratio = _unlikeness(array)
    last = np.asarray(array[:: max(1, shape[0] // PIXELS)]).reshape(-1, *shape[1:3])
    samples_last = _unlikeness(np.moveaxis(last, 2, 0)) >= INDEPENDENT
    long = max(shape[:3]) > LONGEST * min(shape[:3])
    if ratio >= INDEPENDENT and min(shape[1:3]) >= LEAST_PIXELS:
        return stack
    if ratio <= SMOOTH and not samples_last and not (long and shape[0] == max(shape[:3])):
        return volume
    raise ImageRefused(
        f"expected a stack of samples or a volume, found {size}, which may be either; pass --array_layout {stack} or "
        f"--array_layout {volume}"
    )


def _unlikeness(array: Array) -> float:
    """Return half the mean squared difference of neighbouring planes of (N, H, W), over their variance; NaN for one."""
    start = max(0, (array.shape[0] - PLANES) // 2)
    steps = [max(1, side // PIXELS) for side in array.shape[1:3]]
    planes = np.asarray(array[start : start + PLANES])[:, :: steps[0], :: steps[1]]
    planes = np.nan_to_num(planes.reshape(len(planes), -1).astype(np.float64))
    variance = planes.var(axis=0, ddof=1).sum() if len(planes) > 1 else 0.0
    return float((np.diff(planes, axis=0) ** 2).sum(1).mean() / 2 / variance) if variance > 0 else np.nan


class ArrayReader(NumpyReader):
    """Reads an array of one image, or each sample of a stack.

    Args:
        array_layout: what the axes are; None finds out.

    Raises:
        ValueError: for a layout that names no image.
    """

    def __init__(self, array_layout: str | None = None) -> None:
        super().__init__(allow_pickle=False)
        self.array_layout = check_layout(array_layout)

    @staticmethod
    def opened(path: str) -> AbstractContextManager[Array]:
        """Return a context with the file's array, or what gives one when indexed."""
        raise NotImplementedError

    def layout(self, path: str) -> str:
        """Return a letter for each axis of the file's array.

        Raises:
            ImageRefused: where it may be two things.
        """
        return _layout(type(self), unchanged(path), self.array_layout)

    def parts(self, path: str) -> Sequence[str] | None:
        """Return the numbers of the samples, None where the array is one image."""
        layout = self.layout(path)
        if "N" not in layout:
            return None
        with self.opened(path) as array:
            return list(map(str, range(array.shape[layout.index("N")])))

    def read_part(self, path: str, part: str) -> NDArray:
        """Return one sample, x first."""
        layout = self.layout(path)
        with self.opened(path) as array:
            axis = layout.find("N")
            samples = array.shape[axis] if axis >= 0 else 1
            if axis < 0 or not (part.isascii() and part.isdecimal()) or int(part) >= samples:
                raise ImageRefused(f"expected a sample number {part}, found {samples} samples, the first one 0")
            sample = np.asarray(array[(slice(None),) * axis + (int(part),)])
        return _one_image(sample, layout.replace("N", ""))

    def read(self, data: Sequence[PathLike | str] | PathLike | str, **kwargs: object) -> NDArray:
        """Return the image, x first."""
        (path,) = map(os.fspath, ensure_tuple(data))
        layout = self.layout(path)
        with self.opened(path) as array:
            return _one_image(np.asarray(array[...]), layout)


@functools.lru_cache(maxsize=4096)
def _layout(reader: type[ArrayReader], file: tuple[str, int, int], given: str | None) -> str:
    with reader.opened(file[0]) as array:
        return layout_of(array, given)


def _one_image(array: NDArray, layout: str) -> NDArray:
    """Return a copy of an image without its channels, x first, as picture files are read."""
    if "C" in layout:
        channels = np.moveaxis(array, layout.index("C"), -1)
        array = channels[..., 0] if channels.shape[-1] == 1 else channels @ np.array(LUMA, np.float32)
        layout = layout.replace("C", "")
    return np.array(array.transpose([layout.index(letter) for letter in LAYOUTS[layout]]))


def only_array(arrays: Mapping[str, tuple[int, ...]]) -> str:
    """Return the name of the only array, of those with their shapes, that may hold images.

    Raises:
        ImageRefused: where there is none, or several.
    """
    found = [name for name, shape in arrays.items() if sum(side > 1 for side in shape) >= 2]
    if len(found) == 1:
        return found[0]
    names = ", ".join(found or arrays) or "nothing"
    raise ImageRefused(f"expected one array of images, found {names}; save the images as a file of their own")


@reads(".npy")
class NpyReader(ArrayReader):
    """Read arrays of numbers; a pickle, which could run code, is refused."""

    @staticmethod
    @contextlib.contextmanager
    def opened(path: str) -> Iterator[Array]:
        """Return a context with a memory map of the array."""
        mapped = np.lib.format.open_memmap(path, mode="r")  # fails where the header asks for more than there is
        if Path(path).stat().st_size > mapped.offset + mapped.nbytes:
            raise ImageRefused("expected one array, found bytes after it; save each array as a file of its own")
        yield mapped


@remembered
def _npz_array(path: str) -> NDArray:
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    return arrays[only_array({name: array.shape for name, array in arrays.items()})]


@reads(".npz")
class NpzReader(ArrayReader):
    """Read the only array of an archive that may hold images. One archive stays in memory."""

    @staticmethod
    @contextlib.contextmanager
    def opened(path: str) -> Iterator[Array]:
        """Return a context with the array."""
        yield _npz_array(path)


@remembered
def _tensor(path: str) -> NDArray:
    content = torch.load(path, map_location="cpu", weights_only=True)
    if isinstance(content, (list, tuple)) and content and all(isinstance(one, torch.Tensor) for one in content):
        if len({one.shape for one in content}) > 1:
            raise ImageRefused("expected tensors of one shape, found several; save each size as a file of its own")
        content = torch.stack(list(content))
    if isinstance(content, dict):
        tensors = {str(name): one for name, one in content.items() if isinstance(one, torch.Tensor)}
        if any(name.endswith(("weight", "bias")) for name in tensors):
            raise ImageRefused("expected images, found the weights of a network; exclude the file")
        content = tensors[only_array({name: tuple(one.shape) for name, one in tensors.items()})]
    if not isinstance(content, torch.Tensor):
        raise ImageRefused(f"expected a tensor, found {type(content).__name__}; save the images as a tensor")
    content = content.detach().as_subclass(torch.Tensor).resolve_conj().resolve_neg()
    return (content.float() if content.dtype in (torch.bfloat16, torch.float16) else content).numpy()


@reads(".pt")
class TorchReader(ArrayReader):
    """Read a tensor, a list of tensors of one shape, or the only one of a dict; with ``weights_only``."""

    @staticmethod
    @contextlib.contextmanager
    def opened(path: str) -> Iterator[Array]:
        """Return a context with the array."""
        yield _tensor(path)


@reads(".h5", ".hdf5")
class Hdf5Reader(ArrayReader):
    """Read the only data set of an HDF5 file that may hold images; a sample is read without the others."""

    @staticmethod
    @contextlib.contextmanager
    def opened(path: str) -> Iterator[Array]:
        """Return a context with the data set.

        Raises:
            ImageRefused: where h5py is not installed.
        """
        if not has_h5py:
            raise ImageRefused("expected the package h5py to read it, found none; pip install h5py")
        with h5py.File(path, "r") as file:
            shapes: dict[str, tuple[int, ...]] = {}

            def visit(name: str, one: object) -> None:  # links are not visited
                if isinstance(one, h5py.Dataset):
                    shapes[name] = one.shape

            file.visititems(visit)
            dataset = file[only_array(shapes)]
            if dataset.is_virtual or dataset.external:  # could name any file
                raise ImageRefused("expected its data in the file, found names of other files; copy them into one")
            yield dataset
