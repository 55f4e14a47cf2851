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

"""Arrays, one image or a stack of samples: .npy, .npz, .pt, .h5."""

from __future__ import annotations

import contextlib
import functools
import os
import zipfile
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from monai.data import NumpyReader
from monai.utils import ensure_tuple, optional_import
from numpy.typing import NDArray

from .layouts import LAYOUTS, LUMA, Array, check_key, check_layout, layout_of
from .registry import REGISTRY, ImageRefused, reads, remembered, suffix_of, unchanged

__all__ = ["ArrayReader", "Hdf5Reader", "NpyReader", "NpzReader", "TorchReader", "described_axes", "one_image"]

REAL = "biuf"  # kinds of NumPy types

h5py, has_h5py = optional_import("h5py")


def described_axes(
    path: str | PathLike, array_layout: str | None = None, array_key: str | Sequence[str] | None = None
) -> str:
    """Return what the axes of a stack of samples are taken for, as ``N x C x H x W = 64 x 1 x 32 x 32``, else ""."""
    kind = next((one for one, suffixes in REGISTRY.items() if suffix_of(path) in suffixes), None)
    if kind is None or not issubclass(kind, ArrayReader):
        return ""
    reader = kind(array_layout, array_key)
    layout = reader.layout(os.fspath(path))
    with reader.opened(os.fspath(path), reader.array_key) as array:
        return f"{' x '.join(layout)} = {' x '.join(map(str, array.shape))}"


class ArrayReader(NumpyReader):
    """Reads an array of one image, or each sample of a stack.

    Args:
        array_layout: what the axes are; None finds out.
        array_key: names of arrays, the first of which that a file of several has is taken; None: the only one.

    Raises:
        ValueError: for a layout that names no image, or a key that is no name.
    """

    def __init__(self, array_layout: str | None = None, array_key: str | Sequence[str] | None = None) -> None:
        super().__init__(allow_pickle=False)
        self.array_layout, self.array_key = check_layout(array_layout), check_key(array_key)

    @staticmethod
    @abstractmethod
    def opened(path: str, wanted: tuple[str, ...] = ()) -> AbstractContextManager[Array]:
        """Return a context with the file's array, or what gives one when indexed; of several the `wanted` one."""

    def layout(self, path: str) -> str:
        """Return a letter for each axis of the file's array.

        Raises:
            ImageRefused: where it may be two things.
        """
        return _layout(type(self), unchanged(path), self.array_layout, self.array_key)

    def parts(self, path: str) -> Sequence[str] | None:
        """Return the numbers of the samples, None where the array is one image."""
        layout = self.layout(path)
        if "N" not in layout:
            return None
        with self.opened(path, self.array_key) as array:
            return list(map(str, range(array.shape[layout.index("N")])))

    def read_part(self, path: str, part: str) -> NDArray:
        """Return one sample, x first."""
        layout = self.layout(path)
        with self.opened(path, self.array_key) as array:
            axis = layout.find("N")
            samples = array.shape[axis] if axis >= 0 else 1
            if axis < 0 or not (part.isascii() and part.isdecimal()) or int(part) >= samples:
                raise ImageRefused(f"expected a sample number {part}, found {samples} samples, the first one 0")
            sample = np.asarray(array[(slice(None),) * axis + (int(part),)])
        return one_image(sample, layout.replace("N", ""))

    def read(self, data: Sequence[PathLike | str] | PathLike | str, **kwargs: object) -> NDArray:
        """Return the image, x first."""
        (path,) = map(os.fspath, ensure_tuple(data))
        layout = self.layout(path)
        with self.opened(path, self.array_key) as array:
            return one_image(np.asarray(array[...]), layout)


@functools.lru_cache(maxsize=4096)
def _layout(reader: type[ArrayReader], file: tuple[str, int, int], given: str | None, wanted: tuple[str, ...]) -> str:
    with reader.opened(file[0], wanted) as array:
        return layout_of(array, given)


def one_image(array: NDArray, layout: str) -> NDArray:
    """Return a copy of an image without its channels, x first, as picture files are read."""
    if "C" in layout:
        channels = np.moveaxis(array, layout.index("C"), -1)
        array = channels[..., 0] if channels.shape[-1] == 1 else channels @ np.array(LUMA, np.float32)
        layout = layout.replace("C", "")
    return np.array(array.transpose([layout.index(letter) for letter in LAYOUTS[layout]]))


def chosen_array(arrays: Mapping[str, tuple[str, tuple[int, ...]]], wanted: Sequence[str] = ()) -> str:
    """Return the name of the array that holds the images.

    Args:
        arrays: kind, as of a NumPy type, and shape by name.
        wanted: names, the first of which that is there is taken; else the only array of real numbers with two sides.

    Raises:
        ImageRefused: where there is none, or several.
    """
    if named := [name for name in wanted if name in arrays]:
        if arrays[named[0]][0] not in REAL:
            raise ImageRefused(f"expected real numbers in {named[0]}, found others; name another array by --array_key")
        return named[0]
    missing = f" but no {', '.join(wanted)}" if wanted else ""
    found = [name for name, (kind, shape) in arrays.items() if kind in REAL and sum(n > 1 for n in shape) >= 2]
    if len(found) == 1:
        return found[0]
    if found:
        raise ImageRefused(
            f"expected one array of images, found {', '.join(found)}{missing}; name the one by --array_key {found[0]}"
        )
    raise ImageRefused(
        f"expected an array of images, found {', '.join(arrays) or 'nothing'}; save the images in it, or exclude the "
        "file"
    )


@reads(".npy")
class NpyReader(ArrayReader):
    """Read arrays of numbers; a pickle, which could run code, is refused."""

    @staticmethod
    @contextlib.contextmanager
    def opened(path: str, wanted: tuple[str, ...] = ()) -> Iterator[Array]:
        """Return a context with a memory map of the array."""
        mapped = np.lib.format.open_memmap(path, mode="r")  # fails where the header asks for more than there is
        if Path(path).stat().st_size > mapped.offset + mapped.nbytes:
            raise ImageRefused("expected one array, found bytes after it; save each array as a file of its own")
        yield mapped


@remembered
def _npz_array(path: str, wanted: tuple[str, ...]) -> NDArray:
    arrays: dict[str, tuple[str, tuple[int, ...]]] = {}
    with zipfile.ZipFile(path) as file:
        for member in file.namelist():  # their headers alone: a data set's other arrays may be large
            with file.open(member) as stream:
                version = np.lib.format.read_magic(stream)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, _, dtype = read(stream)
                arrays[member.removesuffix(".npy")] = dtype.kind, shape
    with np.load(path, allow_pickle=False) as file:
        return file[chosen_array(arrays, wanted)]


@reads(".npz")
class NpzReader(ArrayReader):
    """Read the array of an archive that holds images. One stays in memory."""

    @staticmethod
    @contextlib.contextmanager
    def opened(path: str, wanted: tuple[str, ...] = ()) -> Iterator[Array]:
        """Return a context with the array."""
        yield _npz_array(path, wanted)


@remembered
def _tensor(path: str, wanted: tuple[str, ...]) -> NDArray:
    content = torch.load(path, map_location="cpu", weights_only=True)
    if isinstance(content, (list, tuple)) and content and all(isinstance(one, torch.Tensor) for one in content):
        if len({one.shape for one in content}) > 1:
            raise ImageRefused("expected tensors of one shape, found several; save each size as a file of its own")
        content = torch.stack(list(content))
    if isinstance(content, dict):
        tensors = {str(name): one for name, one in content.items() if isinstance(one, torch.Tensor)}
        if any(name.endswith(("weight", "bias")) for name in tensors):
            raise ImageRefused("expected images, found the weights of a network; exclude the file")
        shapes = {name: ("c" if one.is_complex() else "f", tuple(one.shape)) for name, one in tensors.items()}
        content = tensors[chosen_array(shapes, wanted)]
    if not isinstance(content, torch.Tensor):
        raise ImageRefused(f"expected a tensor, found {type(content).__name__}; save the images as a tensor")
    content = content.detach().as_subclass(torch.Tensor).resolve_conj().resolve_neg()
    return (content.float() if content.dtype in (torch.bfloat16, torch.float16) else content).numpy()


@reads(".pt")
class TorchReader(ArrayReader):
    """Read a tensor, a list of tensors of one shape, or one of a dict; with ``weights_only``."""

    @staticmethod
    @contextlib.contextmanager
    def opened(path: str, wanted: tuple[str, ...] = ()) -> Iterator[Array]:
        """Return a context with the array."""
        yield _tensor(path, wanted)


@reads(".h5", ".hdf5")
class Hdf5Reader(ArrayReader):
    """Read the data set of an HDF5 file that holds images; a sample is read without the others."""

    @staticmethod
    @contextlib.contextmanager
    def opened(path: str, wanted: tuple[str, ...] = ()) -> Iterator[Array]:
        """Return a context with the data set.

        Raises:
            ImageRefused: where h5py is not installed.
        """
        if not has_h5py:
            raise ImageRefused("expected the package h5py to read it, found none; pip install h5py")
        with h5py.File(path, "r") as file:
            arrays: dict[str, tuple[str, tuple[int, ...]]] = {}

            def visit(name: str, one: object) -> None:  # links are not visited
                if isinstance(one, h5py.Dataset):
                    arrays[name] = one.dtype.kind, one.shape or ()

            file.visititems(visit)
            dataset = file[chosen_array(arrays, wanted)]
            if dataset.is_virtual or dataset.external:  # could name any file
                raise ImageRefused("expected its data in the file, found names of other files; copy them into one")
            yield dataset
