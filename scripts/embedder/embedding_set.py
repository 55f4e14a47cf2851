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

"""The embedded images of a data set: ids, vectors and network inputs travel together."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..images.items import Item
from .file_loader import LoadedImage

__all__ = ["EmbeddedImage", "EmbeddingSet", "ImageEmbedder"]


class ImageEmbedder(Protocol):
    """Embeds images in memory, as :class:`~scripts.embedder.embedder.Embedder` does."""

    def embed_images(self, images: NDArray, /) -> NDArray[np.float32]:
        """Return the vectors (N, D) of images (N, H, W) in [0, 1]."""
        ...


@dataclass(frozen=True)
class EmbeddedImage(LoadedImage):
    """An image with its `vector` (D,), float32 and L2-normalised."""

    vector: NDArray[np.float32]


@dataclass(frozen=True)
class EmbeddingSet:
    """The embedded images of one data set, a row each; the slices of a volume are consecutive rows.

    Attributes:
        items: one dict a file, as :func:`~scripts.images.datalists.find_images` returns them.
        file: (N,) the row's index into `items`, ascending.
        slice: (N,) index of the slice in its volume, -1 for a planar image.
        level: (N,) mm below the top of the object, NaN where unknown.
        vectors: (N, D) float32, L2-normalised.
        images: (N, H, W) float16 in [0, 1], what the network saw.
        skipped: (id, reason) of every file left out.
    """

    items: list[Item]
    file: NDArray[np.int64]
    slice: NDArray[np.int64]
    level: NDArray[np.float64]
    vectors: NDArray[np.float32]
    images: NDArray[np.float16]
    skipped: list[tuple[str, str]]

    @classmethod
    def of(
        cls, files: Sequence[tuple[Item, Sequence[EmbeddedImage]]], skipped: Sequence[tuple[str, str]] = ()
    ) -> EmbeddingSet:
        """Return the set of files with their images; at least one file, and one image each."""
        rows = [row for _, images in files for row in images]
        return cls(
            items=[item for item, _ in files],
            file=np.repeat(np.arange(len(files)), [len(images) for _, images in files]),
            slice=np.array([row.slice for row in rows], np.int64),
            level=np.array([row.level for row in rows], float),
            vectors=np.stack([row.vector for row in rows]),
            images=np.stack([row.image for row in rows]),
            skipped=list(skipped),
        )

    def __len__(self) -> int:
        return len(self.file)

    @cached_property
    def subject_ids(self) -> NDArray[np.str_]:
        """(N,) each row's subject."""
        return np.array([item["subject_id"] for item in self.items])[self.file]

    def repeated(self) -> list[list[str]]:
        """Return the ids of files that show the same image, a list for each such image.

        Pixels are compared after preprocessing, so that a copy in another format or with other headers is seen too.
        """
        return [[self.items[file]["id"] for file in files] for files in self.same_image()]

    def same_image(self) -> list[list[int]]:
        """Return the files that show the same image, a list of indices for each such image."""
        same: dict[bytes, list[int]] = {}
        for file, key in enumerate(self._pixels):
            same.setdefault(key, []).append(file)
        return [files for files in same.values() if len(files) > 1]

    def shared(self, other: EmbeddingSet) -> list[str]:
        """Return the ids of this set's files whose image the other set shows too, pixels compared as above."""
        known = set(other._pixels)
        return [item["id"] for item, key in zip(self.items, self._pixels) if key in known]

    @cached_property
    def _pixels(self) -> list[bytes]:
        """Return a hash of each file's pixels after preprocessing."""
        starts = np.flatnonzero(np.r_[True, np.diff(self.file) > 0])
        parts = zip(starts.tolist(), [*starts[1:].tolist(), len(self.file)])
        return [hashlib.sha256(np.ascontiguousarray(self.images[a:b]).data).digest() for a, b in parts]

    def row_id(self, row: int) -> str:
        """Return the file's id, with the slice's index where it is one of a volume."""
        name = self.items[self.file[row]]["id"]
        return name if self.slice[row] < 0 else f"{name}#z={self.slice[row]}"
