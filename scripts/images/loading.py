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

"""Load images: a file by a transform, and those of a data set through the bundle's chain, all at once."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from typing import cast

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import ImageReader, MetaTensor
from monai.transforms import EnsureChannelFirst, MapTransform
from monai.transforms.io.array import switch_endianness
from monai.utils import ImageMetaKey
from numpy.typing import NDArray

from .items import Data, Item, NewData, Prepared, Preprocessing
from .readers.registry import whole_reader

__all__ = ["LoadFiled", "SliceSet", "load_file", "prepared_images"]


class LoadFiled(MapTransform):
    """Load the files under the keys by the reader of their format, as MetaTensors in float32 with their affine.

    A failure is the reader's own error. MONAI's ``LoadImaged`` would try its own readers next, which read what ours
    refuse, and it takes longer than decoding a small picture.

    Args:
        keys: of paths; of a part of a file with ``#part``.
        array_layout: what the axes of arrays are, as ``NCHW``; None finds out. See docs/inputs.md.
        array_key: name of the array in a file of several, or names; None: the only one.
        allow_missing_keys: pass dicts without a key.
    """

    def __init__(
        self,
        keys: KeysCollection,
        array_layout: str | None = None,
        array_key: str | Sequence[str] | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.reader = whole_reader(array_layout, array_key)

    def __call__(self, data: Data) -> NewData:
        """Return the data with images in the place of paths; what is an image already, as a deployed operator has it,
        stays."""
        loaded: NewData = dict(data)
        for key in self.key_iterator(loaded):
            if not isinstance(loaded[key], torch.Tensor):
                loaded[key] = _loaded(loaded[key], self.reader)
        return loaded


def load_file(path: str, array_layout: str | None = None, array_key: str | Sequence[str] | None = None) -> MetaTensor:
    """Return what a file shows, channel first, with its affine; raises as its reader does."""
    return cast(MetaTensor, EnsureChannelFirst()(_loaded(path, whole_reader(array_layout, array_key))))


def _loaded(path: str | PathLike, reader: ImageReader) -> torch.Tensor:
    """Return an image (x, y) or (x, y, z), as the reader has it, with its metadata and where it comes from."""
    name = os.path.expanduser(path)
    array, metadata = reader.get_data(reader.read(name))
    metadata = {**switch_endianness(metadata), ImageMetaKey.FILENAME_OR_OBJ: name}
    return MetaTensor.ensure_torch_and_prune_meta(np.ascontiguousarray(array, np.float32), metadata)


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
