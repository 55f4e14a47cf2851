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

"""Load the images of a data set through the bundle's chain, all at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .items import Item, Prepared, Preprocessing

__all__ = ["SliceSet", "prepared_images"]


def prepared_images(
    items: Sequence[Item], preprocessing: Preprocessing, levels: Sequence[float] | None = None
) -> list[Prepared]:
    """Return the items' images as dicts: `image` (1, H, W) in [0, 1], `id` and the item's other columns.

    Volumes that the chain keeps whole are (1, X, Y, Z).

    Args:
        items: of images or volumes, as :func:`find_images` returns them.
        preprocessing: the bundle's chain, which makes a list of slices of a volume, or that of whole volumes.
        levels: in mm below the top of the object; of a volume only the slices nearest to these are kept. None: all.

    Raises:
        ValueError: if levels are given and the chain keeps volumes whole.
    """
    images: list[Prepared] = []
    for item in items:
        made = preprocessing(item.copy())
        if isinstance(made, list):
            number = np.arange(len(made))
            if levels is not None:
                distance = np.abs(np.array([[s["level"] for s in made]]) - np.array(levels, float)[:, None])
                number = np.unique(distance.argmin(1))
            images += [{**item, **made[i], "id": f"{item['id']}#z={i}"} for i in number.tolist()]
        else:
            if levels is not None and made["image"].ndim == 4:
                raise ValueError(
                    f"levels: expected null, as volumes are kept whole, found {list(levels)}; leave it out"
                )
            images.append({**item, **made})
    return images


@dataclass(frozen=True)
class SliceSet:
    """The slices of some subjects: `images` (N, H, W) in [0, 1], `subject` (N,) numbers, `level` (N,) in mm.

    Of a chain that keeps volumes whole `images` are (N, X, Y, Z), and `level` is NaN.
    """

    images: NDArray[np.float32]
    subject: NDArray[np.int64]
    level: NDArray[np.float64]

    @property
    def subjects(self) -> int:
        """The number of subjects."""
        return int(self.subject.max()) + 1

    @classmethod
    def load(cls, items: Sequence[Item], preprocessing: Preprocessing) -> SliceSet:
        """Return all that :func:`prepared_images` makes; the subjects are numbered in the order of their names."""
        slices = prepared_images(items, preprocessing)
        names = [s["subject_id"] for s in slices]
        return cls(
            np.stack([np.asarray(s["image"], np.float32)[0] for s in slices]),
            np.unique(names, return_inverse=True)[1],
            np.array([s["level"] for s in slices], float),
        )
