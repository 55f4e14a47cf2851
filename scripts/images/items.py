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

"""What travels through MONAI's transform chains: a dict for each file, and one for each image that it holds."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import TYPE_CHECKING, Any, NotRequired, Protocol, TypedDict

import numpy as np
import torch

if TYPE_CHECKING:
    from .correction import Correction

__all__ = ["Data", "DictTransform", "Item", "NewData", "Prepared", "Preprocessing", "RandomTransform"]


class Item(TypedDict):
    """A file of a data set, as :func:`~scripts.images.datalists.find_images` finds it.

    A datalist's other columns are further entries, read by ``item.get(column)``.
    """

    image: str  # absolute path
    id: str  # path below the folder, unique
    subject_id: str
    mask: NotRequired[str]
    level: NotRequired[float | str]  # mm below the top of the object; text as a table has it
    series: NotRequired[str]  # slices of one series may be neighbours
    variant: NotRequired[str]  # whole or masked
    correction: NotRequired[Correction]  # of how the file was saved, if that differs from the other set's


class Prepared(TypedDict):
    """An image on the network's field, as the bundle's chain makes it of an :class:`Item`, whose entries it keeps."""

    image: torch.Tensor  # (1, H, W) in [0, 1]
    level: float  # mm below the top of the object, NaN where unknown
    slice: int  # index in its volume, -1 for a planar image
    id: NotRequired[str]
    subject_id: NotRequired[str]
    mask: NotRequired[str]  # as the item has it; the chain takes the image of it out
    series: NotRequired[str]
    variant: NotRequired[str]
    correction: NotRequired[Correction]


Data = Mapping[Hashable, Any]  # what a MONAI dictionary transform takes
NewData = dict[Hashable, Any]  # and what it returns
Preprocessing = Callable[[Item], Prepared | list[Prepared]]


class DictTransform(Protocol):
    """A MONAI dictionary transform."""

    def __call__(self, data: Data, /) -> NewData:
        """Return a dictionary with the keys transformed."""


class RandomTransform(DictTransform, Protocol):
    """A MONAI dictionary transform that draws."""

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> object:
        """Begin its draws at a seed, or draw from a generator."""
