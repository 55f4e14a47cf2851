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

"""What is undone on the files of a set that was saved in another way than the set it is compared with."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform, Resize
from monai.utils import convert_to_tensor
from numpy.typing import NDArray
from scipy import ndimage

from .foreground import foreground
from .items import Data, NewData
from .slices import planar

__all__ = [
    "AXES",
    "axes_matrix",
    "Correctd",
    "Correction",
    "Stretchd",
    "ZeroBackgroundd",
    "largest_object",
    "stretched_size",
]


BACKGROUND_PERCENTILE = 0.5  # of an image, its least value but for a few odd pixels
BORDER = 3  # pixels around a frame or text that it may have touched


@dataclass(frozen=True)
class Correction:
    """What :class:`Correctd` and :class:`Stretchd` do to an item that has this entry as ``correction``.

    Attributes:
        transposed: rows and columns of planar images are swapped. All eight orientations of a picture are this and
            flips, which neither the embedder nor the verifier sees.
        inverted: bright and dark are swapped.
        object_only: all but the largest object of planar images is cut off or made background.
        stretch: factors of a planar image's two axes, after transposing; of a volume's voxel size the first one.
        axes: where the directions of a volume really point that its affine calls right, anterior and superior; one of
            :data:`AXES`.
    """

    transposed: bool = False
    inverted: bool = False
    object_only: bool = False
    stretch: tuple[float, float] = (1.0, 1.0)
    axes: str = "RAS"

    @property
    def changes(self) -> int:
        """How many things are undone."""
        return self.transposed + self.inverted + self.object_only + (self.stretch != (1.0, 1.0)) + (self.axes != "RAS")


FAR_ABOVE = 0.25  # of the range of values


def axes_matrix(axes: str) -> NDArray[np.float64]:
    """Return the matrix (3, 3) that takes points as an affine has them to where they are, if its axes are these.

    >>> axes_matrix("LPS")
    array([[-1.,  0.,  0.],
           [ 0., -1.,  0.],
           [ 0.,  0.,  1.]])
    """
    directions = {
        code: sign * np.eye(3)[axis] for sign, codes in ((1, "RAS"), (-1, "LPI")) for axis, code in enumerate(codes)
    }
    return np.stack([directions[code] for code in axes], axis=1) + 0.0  # no -0


# the 24 turns of a cube; with left and right swapped, which neither the embedder nor the verifier sees, all 48 ways in
# which axes can be mistaken for others
AXES = tuple(
    sorted(
        (
            axes
            for letters in itertools.permutations(("RL", "AP", "SI"))
            for axes in map("".join, itertools.product(*letters))
            if np.linalg.det(axes_matrix(axes)) > 0
        ),
        key=lambda axes: sum(one != other for one, other in zip(axes, "RAS")),  # the simplest first
    )
)


class ZeroBackgroundd(MapTransform):
    """Shift images whose values begin below zero, as those in [-1, 1] and CT numbers, or far above, to begin at zero.

    Padding and masks write zeros, which are to mean background. Images of which fewer than 0.5 % are negative, as
    interpolation leaves them, pass unchanged, and so do those whose least value is above zero by less than a quarter of
    their range, as a dark frame's noise may be. Images are (C, ...).
    """

    def __call__(self, data: Data) -> NewData:
        result = dict(data)
        for key in self.key_iterator(result):
            image = torch.as_tensor(result[key])
            if image.numel():
                bare = image.as_subclass(torch.Tensor)  # what is asked of a MetaTensor takes ten times as long
                least, largest = torch.aminmax(bare)
                if least < 0:
                    rank = max(1, round(BACKGROUND_PERCENTILE / 100 * image.numel()))
                    low = bare.flatten().kthvalue(rank).values
                    if low < 0:
                        result[key] = (image - low).clamp(min=0)
                elif least > FAR_ABOVE * (largest - least) > 0:
                    result[key] = image - least
        return result


class Correctd(MapTransform):
    """Undo what an item's :class:`Correction` names, on a planar image (1, H, W) or a volume (1, X, Y, Z).

    Items without one pass unchanged. Of a volume the polarity can be wrong, and its affine: the voxel size and where
    the axes point. Stretching a planar image is left to :class:`Stretchd`.
    """

    def __call__(self, data: Data) -> NewData:
        result = dict(data)
        correction = result.get("correction")
        if correction is not None:
            for key in self.key_iterator(result):
                image = convert_to_tensor(result[key], track_meta=isinstance(result[key], MetaTensor))
                result[key] = _corrected(image, correction)
        return result


def _corrected(image: torch.Tensor, correction: Correction) -> torch.Tensor:
    if correction.inverted:
        image = image.max() - image
    if image.ndim == 4:
        if correction.stretch[0] == 1 and correction.axes == "RAS":
            return image
        placed: MetaTensor = MetaTensor(image).clone()  # the affine of the input is the caller's
        world = np.eye(4)
        world[:3, :3] = axes_matrix(correction.axes) * correction.stretch[0]
        placed.affine = torch.as_tensor(world, dtype=placed.affine.dtype) @ placed.affine
        return placed
    if correction.transposed:
        image = image.transpose(1, 2)
    if correction.object_only:
        image = _object_only(torch.as_tensor(image).as_subclass(torch.Tensor))
    return image


def _object_only(image: torch.Tensor) -> torch.Tensor:
    """Return the box of the largest object of an image (1, H, W), whatever else the image shows set to the least value.

    The other objects go first, and then the box is found: a bright frame raises the threshold of the foreground.
    """
    pixels = image[0].numpy().astype(np.float32)  # a copy
    labels, largest = _objects(pixels)
    if largest == 0:
        return image
    others = ndimage.binary_dilation((labels > 0) & (labels != largest), iterations=BORDER)
    pixels[others & (labels != largest)] = pixels.min()
    inside = largest_object(pixels)
    rows, columns = (np.flatnonzero(inside.any(axis)) for axis in (1, 0))
    return torch.from_numpy(pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])[None]


def largest_object(image: NDArray) -> NDArray[np.bool_]:
    """Return the largest connected part of the foreground of an image (H, W), its holes filled; nothing if none is."""
    labels, largest = _objects(image)
    return ndimage.binary_fill_holes(labels == largest) if largest else np.zeros(image.shape, bool)


def _objects(image: NDArray) -> tuple[NDArray[np.int32], int]:
    """Return the connected parts of the foreground by number from 1, (H, W), and the largest one's number or 0.

    What touches all four sides and yet covers less than half of the image is a frame, and no object.
    """
    labels, count = ndimage.label(foreground(torch.from_numpy(np.asarray(image, np.float32))).numpy())
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    sides = (labels[0], labels[-1], labels[:, 0], labels[:, -1])
    frames = [part for part in range(1, count + 1) if all((side == part).any() for side in sides)]
    sizes[[0, *(part for part in frames if 2 * sizes[part] < image.size)]] = 0
    return labels, int(sizes.argmax()) if sizes.any() else 0


def stretched_size(sides: Sequence[int], stretch: tuple[float, float]) -> tuple[tuple[int, int], str]:
    """Return a planar image's size once its axes are stretched, and the mode of torch's interpolation for it.

    >>> stretched_size((70, 90), (2.0, 0.5))
    ((140, 45), 'bilinear')
    """
    height, width = (max(1, round(side * factor)) for side, factor in zip(sides, stretch))
    return (height, width), "area" if max(stretch) <= 1 else "bilinear"


class Stretchd(MapTransform):
    """Scale the axes of a planar image (1, H, W) by the factors of its item's :class:`Correction`, if it has one."""

    def __call__(self, data: Data) -> NewData:
        result = dict(data)
        correction = result.get("correction")
        if correction is not None and correction.stretch != (1.0, 1.0):
            for key in self.key_iterator(result):
                size, mode = stretched_size(planar(result[key], data.get("id", key)), correction.stretch)
                result[key] = Resize(size, mode=mode)(result[key])
        return result
