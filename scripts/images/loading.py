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

"""Load the slices of a data set through the bundle's chain, all at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Slices", "pixels", "planar_slices"]


def planar_slices(
    items: Sequence[dict[str, Any]], preprocessing: Callable, levels: Sequence[float] | None = None
) -> list[dict[str, Any]]:
    """Return the items' slices as dicts: `image` (1, H, W) in [0, 1], `id` and the item's other columns.

    Args:
        items: of images or volumes, as :func:`find_images` returns them.
        preprocessing: the bundle's chain; it makes a list of slices of a volume.
        levels: in mm below the top of the object; of a volume only the slices nearest to these are kept. None: all.
    """
    slices: list[dict[str, Any]] = []
    for item in items:
        made = preprocessing(dict(item))
        if isinstance(made, list):
            number = np.arange(len(made))
            if levels is not None:
                distance = np.abs(np.array([[s["level"] for s in made]]) - np.array(levels, float)[:, None])
                number = np.unique(distance.argmin(1))
            slices += [item | made[i] | {"id": f"{item['id']}#z={i}"} for i in number.tolist()]
        else:
            slices.append(item | made)
    return slices


def pixels(items: Sequence[dict[str, Any]], preprocessing: Callable) -> NDArray[np.float32]:
    """Return the slices of items, as :func:`planar_slices` makes them, as one array (N, H, W)."""
    return np.stack([np.asarray(s["image"], np.float32)[0] for s in planar_slices(items, preprocessing)])


@dataclass(frozen=True)
class Slices:
    """The slices of some subjects: `images` (N, H, W) in [0, 1], `subject` (N,) numbers, `level` (N,) in mm."""

    images: NDArray[np.float32]
    subject: NDArray[np.int64]
    level: NDArray[np.float64]

    @property
    def subjects(self) -> int:
        """The number of subjects."""
        return int(self.subject.max()) + 1

    @classmethod
    def of(cls, items: Sequence[dict[str, Any]], preprocessing: Callable) -> Slices:
        """Load the slices of all items; the subjects are numbered in the order of their names."""
        names = sorted({item["subject_id"] for item in items})
        rows = []
        for item in items:
            found = preprocessing(dict(item))
            rows += [(names.index(item["subject_id"]), s) for s in (found if isinstance(found, list) else [found])]
        return cls(
            np.stack([np.asarray(s["image"], np.float32)[0] for _, s in rows]),
            np.array([number for number, _ in rows]),
            np.array([s["level"] for _, s in rows], float),
        )
