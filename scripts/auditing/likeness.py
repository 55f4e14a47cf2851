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

"""How alike images are to a training set, and what that is once something is undone on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..embedder.embedder import Embedder
from ..embedder.embedding_set import EmbeddingSet
from ..embedder.file_loader import ImageError
from ..images.correction import Correction, largest_object
from ..images.items import Item
from ..images.slices import object_mask
from .degradation import match_degradation
from .neighbors import subject_similarities

__all__ = ["Measured", "Reference", "Trial", "corrected"]


@dataclass(frozen=True)
class Measured:
    """A sample of the generated set under a correction.

    `likeness` (F,) is that of each file. `off` (2,) is the log of the factors by which the objects' sides fall short
    of those of the training images that they resemble, `gross` (2,) of the training images as a whole.
    """

    correction: Correction
    likeness: NDArray[np.float64]
    off: NDArray[np.float64]
    gross: NDArray[np.float64]


class Reference:
    """The training images that samples are measured against."""

    def __init__(self, train: EmbeddingSet, rows: NDArray[np.int64], subjects: int) -> None:
        self.train, self.rows, self.subjects = train, rows, subjects
        self.names, self.number = np.unique(train.subject_ids, return_inverse=True)
        self._sizes: dict[int, NDArray[np.float64]] = {}

    def likeness(self, vectors: NDArray, own: NDArray | None = None) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return the mean cosine (Q,) to the most alike subjects, but for their `own` (Q,), and the rows (Q, k) of
        these subjects' images."""
        similarity, row = subject_similarities(vectors, self.train.vectors, self.number)  # (Q, S)
        if own is not None:
            similarity[np.arange(len(similarity)), own] = -np.inf
        best = np.argsort(-similarity, axis=1, kind="stable")
        best = best[:, : min(self.subjects, len(self.names) - (own is not None))]
        value = np.take_along_axis(similarity, best, 1).astype(float)
        mean = value.mean(1) if best.shape[1] else np.full(len(best), np.nan)
        return mean, np.take_along_axis(row, best, 1)

    def expected(self, vectors: NDArray | None = None) -> float:
        """Return the median likeness of the sampled training images to the other subjects; `vectors` (R,) replace
        theirs."""
        vectors = self.train.vectors[self.rows] if vectors is None else vectors
        return float(np.median(self.likeness(vectors, self.number[self.rows])[0]))

    def expected_beside(self, generated: NDArray, rng: np.random.RandomState, embedder: Embedder) -> float:
        """Return the same of the sampled training images made as soft and noisy as generated ones."""
        images = self.train.images[self.rows]
        return self.expected(embedder.embed_images(match_degradation(images, generated, rng)(images, rng)))

    def measure(self, data: EmbeddingSet, correction: Correction) -> Measured:
        """Return what embedded images, made under a correction, are against the training images."""
        likeness, rows = self.likeness(data.vectors)
        size = _log_sizes(data.images)
        gross = np.median(self._log_sizes(self.rows), axis=0) - np.median(size, axis=0)
        pairs = self._log_sizes(rows.ravel()).reshape(*rows.shape, 2) - size[:, None]  # (Q, k, 2)
        # the slices of a file are not independent: one value a file
        per_file = np.bincount(data.file, likeness) / np.bincount(data.file)
        return Measured(correction, per_file, np.median(pairs, axis=(0, 1)), gross)

    def _log_sizes(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        new = [row for row in np.unique(rows).tolist() if row not in self._sizes]
        self._sizes |= dict(zip(new, _log_sizes(self.train.images[new])))
        return np.array([self._sizes[row] for row in rows.tolist()])


class Trial:
    """Measures files under corrections; each is embedded once."""

    def __init__(self, items: Sequence[Item], reference: Reference, embedder: Embedder) -> None:
        self.items, self.reference, self.embedder = items, reference, embedder
        self._embedded: dict[Correction, EmbeddingSet] = {}

    def part(self, files: Sequence[int]) -> Trial:
        """Return the same of some of the files, by their numbers; numbers of no file are left out."""
        return Trial([self.items[file] for file in files if file < len(self.items)], self.reference, self.embedder)

    def embedded(self, correction: Correction) -> EmbeddingSet:
        """Return the files, embedded under a correction.

        Raises:
            ImageError: as the embedder does, or if fewer files than without a correction are left.
        """
        if correction not in self._embedded:
            data = self.embedder.embed_files(corrected(self.items, correction), "a sample of the generated images")
            if len(data.items) < len(self._embedded.get(Correction(), data).items):
                raise ImageError("expected all files that can be read, found nothing left of some")
            self._embedded[correction] = data
        return self._embedded[correction]

    def __call__(self, correction: Correction) -> Measured:
        return self.reference.measure(self.embedded(correction), correction)


def corrected(items: Sequence[Item], correction: Correction) -> list[Item]:
    """Return the items with a correction, those of a set that needs none as they are."""
    if not correction.changes:
        return list(items)
    return [{**item, "correction": correction} for item in items]


def _log_sizes(images: NDArray) -> NDArray[np.float64]:
    """Return the log sides (N, 2) of the largest object of images (N, H, W) or volumes; one pixel where none is.

    Of a volume only the sides of its axial planes: how far down a head is shown differs.
    """
    sizes = []
    for image in images:
        inside = largest_object(image) if image.ndim == 2 else np.any(object_mask(image.astype(np.float32)), axis=2)
        sizes.append([np.ptp(np.flatnonzero(inside.any(axis))) + 1 if inside.any() else 1 for axis in (1, 0)])
    return np.log(np.array(sizes, float))
