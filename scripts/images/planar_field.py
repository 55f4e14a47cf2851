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

"""From a planar image, or a slice of a volume, to pixels on the network's field: the end of the bundle's chain.

What MONAI's own transforms make one after the other (``benchmarks/monai_chain.py``), to the last bit, but on bare
arrays: most of the time of loading a small picture is the bookkeeping of a MetaTensor at each step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.data import MetaTensor
from monai.transforms import MapTransform
from numpy.typing import NDArray

from .correction import stretched_size
from .foreground import foreground
from .items import Data, NewData
from .slices import finite_sides, fitting_size, planar, two_sides

__all__ = ["PlanarFieldd", "SliceFieldd"]

Size = tuple[int, int]


class SliceFieldd(MapTransform):
    """Cut a slice of a volume (C, X, Y) to its object, place it in the middle of the field, and scale it to [0, 1].

    The field is (C, *spatial_size) in float32: what is larger is cut off, what is smaller gets zeros around it. Its
    minimum becomes 0, its `upper` percentile 1, and what is brighter too. An image without an object gives zeros.

    Args:
        keys: the slices' keys.
        spatial_size: sides of the field in pixels.
        upper: percentile in [0, 100].
        track_meta: return a MetaTensor, with the image's metadata and an affine of the field's pixels; what was done is
            not recorded, so that it cannot be inverted.
        allow_missing_keys: pass dicts without a key.

    Raises:
        ValueError: if the field has other than two sides, `upper` is no percentile, or for a volume.
    """

    def __init__(
        self,
        keys: KeysCollection,
        spatial_size: Sequence[int],
        upper: float = 99.5,
        track_meta: bool = False,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if not 0 <= upper <= 100:
            raise ValueError(f"upper must be a percentile, 0 to 100, got {upper}")
        self.spatial_size, self.upper, self.track_meta = two_sides(spatial_size), upper, track_meta

    def __call__(self, data: Data) -> NewData:
        result = dict(data)
        for key in self.key_iterator(result):
            planar(result[key], data.get("id", key))
            result[key] = self._on_field(_View.of(result[key]).cropped(), result[key])
        return result

    def _on_field(self, view: _View, source: NdarrayOrTensor) -> torch.Tensor:
        view = view.centred(self.spatial_size)
        pixels = torch.from_numpy(_scaled(view.pixels.numpy(), self.upper))
        return _placed(pixels, view, source) if self.track_meta else pixels


class PlanarFieldd(SliceFieldd):
    """Put a planar image (C, H, W) on the field as :class:`SliceFieldd` does, but scaled down until it fits.

    As :class:`PlanarSliced`, :class:`Stretchd`, ``CropForegroundd`` and :class:`ShrinkToFitd` one after the other: the
    image is shrunk to `frame`, its axes are stretched by its item's :class:`Correction`, it is cropped to its object
    and shrunk to the field. `slice` becomes -1; `level` stays as a datalist gives it, else NaN.

    Args:
        keys: the images' keys.
        frame: longest side in pixels before the image is cropped to its object.
        spatial_size: sides of the field in pixels.
        upper: percentile in [0, 100].
        track_meta: as :class:`SliceFieldd`.
        allow_missing_keys: pass dicts without a key.

    Raises:
        ValueError: as :class:`SliceFieldd`, for values that are not finite, and for an image so narrow that nothing of
            a side would be left in the frame.
    """

    def __init__(
        self,
        keys: KeysCollection,
        frame: int,
        spatial_size: Sequence[int],
        upper: float = 99.5,
        track_meta: bool = False,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, spatial_size, upper, track_meta, allow_missing_keys)
        self.frame = frame

    def __call__(self, data: Data) -> NewData:
        result = dict(data)
        correction = result.get("correction")
        for key in self.key_iterator(result):
            sides = finite_sides(result[key], data.get("id", key))
            view = _View.of(result[key])
            if max(sides) > self.frame:
                scale = self.frame / max(sides)
                size = round(sides[0] * scale), round(sides[1] * scale)
                if min(size) < 1:
                    name, found = data.get("id", key), f"{sides[0]} x {sides[1]} pixels"
                    raise ValueError(
                        f"{name}: expected a picture that is not so narrow, found {found}; crop or exclude it"
                    )
                view = view.resized(size)
            if correction is not None and correction.stretch != (1.0, 1.0):
                view = view.resized(*stretched_size(view.sides, correction.stretch))
            view = view.cropped()
            if (fitting := fitting_size(view.sides, self.spatial_size)) is not None:
                view = view.resized(fitting)
            result[key] = self._on_field(view, result[key])
        result["slice"] = -1
        result["level"] = float(result.get("level", "nan"))
        return result


@dataclass(frozen=True)
class _View:
    """Pixels (C, H, W) in float32, and where they lie: pixel p of an axis at `start + step * p` of the whole image."""

    pixels: torch.Tensor
    start: NDArray[np.float64] = field(default_factory=lambda: np.zeros(2))  # (2,)
    step: NDArray[np.float64] = field(default_factory=lambda: np.ones(2))  # (2,)

    @classmethod
    def of(cls, image: NdarrayOrTensor) -> _View:
        """Return the whole of an image."""
        return cls(torch.as_tensor(image, dtype=torch.float32).as_subclass(torch.Tensor))

    @property
    def sides(self) -> Size:
        return self.pixels.shape[1], self.pixels.shape[2]

    def resized(self, size: Size, mode: str = "area") -> _View:
        """Return the same part in another number of pixels, which are torch's of this mode."""
        if size == self.sides:
            return self
        pixels = torch.nn.functional.interpolate(self.pixels[None], size=size, mode=mode)[0]
        factor = np.divide(self.sides, size)
        # the outer edges stay where they are, so the centres of the outer pixels do not
        return _View(pixels, self.start + self.step * (factor - 1) / 2, self.step * factor)

    def cropped(self) -> _View:
        """Return the box of the object, nothing where there is none."""
        inside = np.asarray(foreground(self.pixels)).max(axis=0)
        rows, columns = (np.flatnonzero(inside.any(axis)) for axis in (1, 0))
        if len(rows) == 0:
            return self._box((0, 0), (0, 0))
        return self._box((int(rows[0]), int(columns[0])), (int(rows[-1]) + 1, int(columns[-1]) + 1))

    def centred(self, size: Size) -> _View:
        """Return the middle in a field of this size, with zeros around it where it is smaller."""
        low = [max(0, length // 2 - side // 2) for length, side in zip(self.sides, size)]
        middle = self._box(low, [first + side for first, side in zip(low, size)])
        before = [(side - length) // 2 for side, length in zip(size, middle.sides)]
        rows, columns = (slice(first, first + length) for first, length in zip(before, middle.sides))
        pixels = self.pixels.new_zeros(len(self.pixels), *size)
        pixels[:, rows, columns] = middle.pixels
        return _View(pixels, middle.start - self.step * before, self.step)

    def _box(self, low: Sequence[int], high: Sequence[int]) -> _View:
        """Return the pixels from `low` on, until before `high` or the end."""
        return _View(self.pixels[:, low[0] : high[0], low[1] : high[1]], self.start + self.step * low, self.step)


def _scaled(pixels: NDArray[np.float32], upper: float) -> NDArray[np.float32]:
    """Return pixels of any shape with their minimum at 0 and their percentile at 1, clipped; NaN stays NaN.

    Where both are one value, nothing is divided or clipped: the loader finds out that there is no object.
    """
    low, high = pixels.min(), _percentile(pixels, upper)
    with np.errstate(over="ignore", invalid="ignore"):  # a range beyond float32, and NaN
        if high - low == 0:
            return pixels - low + 0  # no -0
        return np.clip((pixels - low) / (high - low) + 0, 0, 1)


def _percentile(values: NDArray[np.float32], upper: float) -> np.float32:
    """Return a percentile, linear between two values, rounded as ``torch.quantile`` does; that sorts all values."""
    rank = np.float32(upper / 100) * np.float32(values.size - 1)
    below, above = int(rank), int(np.ceil(rank))
    sides = torch.from_numpy(np.partition(values, (below, above), axis=None)[[below, above]])
    return torch.lerp(sides[:1], sides[1:], float(rank - np.float32(below))).numpy()[0]


def _placed(pixels: torch.Tensor, view: _View, source: NdarrayOrTensor) -> MetaTensor:
    """Return the pixels with their image's metadata, and an affine that says where they lie."""
    placed = MetaTensor(pixels)
    if isinstance(source, MetaTensor):
        placed.meta = dict(source.meta)  # and with it the affine
    moved = torch.eye(len(placed.affine), dtype=torch.float64)
    moved[[0, 1], [0, 1]], moved[:2, -1] = torch.from_numpy(view.step), torch.from_numpy(view.start)
    placed.affine = placed.affine.to(torch.float64) @ moved
    return placed
