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

"""What the axes of an array are, told by letters.

N samples, C channels, H rows and W columns of a planar image, X Y Z of a volume, D H W of a volume whose slices come
first.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import numpy as np

from .registry import LEAST_PIXELS, ImageRefused

__all__ = ["LAYOUTS", "LUMA", "Array", "check_key", "check_layout", "layout_of", "stack_or_volume"]

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
NARROWEST = 16  # times: what is longer is a table, a flattened image a row, and no picture

Array = Any  # what has a shape, a dtype, and gives a NumPy array when indexed: a memory map, an HDF5 data set


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


def check_key(key: object) -> tuple[str, ...]:
    """Return names of arrays, none for None.

    Raises:
        ValueError: unless it is a name, or a list of names.
    """
    names = (key,) if isinstance(key, str) else key if isinstance(key, (list, tuple)) else ()
    if (key not in (None, ()) and not names) or not all(isinstance(name, str) and name for name in names):
        raise ValueError(f"array_key: expected the name of an array, or a list of names, found {key!r}")
    return tuple(names)


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
        if max(shape) > NARROWEST * min(shape) >= NARROWEST * LEAST_PIXELS:
            raise ImageRefused(
                f"expected an image, found {size}, which may be a table with an image in each row; reshape it to "
                "N x H x W, or pass --array_layout HW"
            )
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
        return stack_or_volume(array, shape, size, "NHW", "XYZ")
    if len(shape) == 4:
        if shape[1] in (1, 3):
            return "NCHW"
        if shape[3] == 3:
            return "NHWC"
        if shape[3] == 1:
            return stack_or_volume(array, shape, size, "NHWC", "XYZC")
        if shape[0] == 1:
            return "CXYZ"
        if min(shape[1:]) > COLOURS:
            return "NXYZ"
    if len(shape) == 5 and 1 in (shape[1], shape[4]):
        return "NCXYZ" if shape[1] == 1 else "NXYZC"
    raise ImageRefused(f"expected an image or a stack of them, found an array of {size}; name its axes by array_layout")


def stack_or_volume(array: Array, shape: tuple[int, ...], size: str, stack: str, volume: str) -> str:
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
