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

"""Is a call a copy or a likeness? How far its fine detail agrees with that of the training image it was called for.

Volumes that were called are read again for this, in finer voxels than they are searched in. In voxels of 4 mm folds
blur into one another: the mean of two people, bent onto either, agrees with both as well as a noisy copy does. In
voxels of 2 mm it does not.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..bundle.progress import Progress
from ..embedder.embedding_set import EmbeddingSet
from ..embedder.file_loader import FileLoader, Loaded
from ..embedder.workers import Workers
from ..images.items import Item, Preprocessing
from ..similarity.volume_verification import VolumeVerifier
from .found import Found, Units
from .search import Search

__all__ = ["CloseUp", "detail_of_calls"]


class CloseUp:
    """Compares the detail of aligned pairs of volumes in voxels of their own, from the files.

    Args:
        preprocessing: the bundle's chain for whole volumes with a finer field, which refuses volumes of coarser voxels.
        verifier: of that field; it refines the alignment.
        num_workers: processes that load files, as :class:`~scripts.embedder.file_loader.FileLoader` takes them.
    """

    def __init__(self, preprocessing: Preprocessing, verifier: VolumeVerifier, num_workers: Workers = 0) -> None:
        self.load, self.verifier = FileLoader(preprocessing, num_workers), verifier

    def __call__(
        self, queries: Sequence[Item], references: Sequence[Item], matrix: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return the agreement of the detail of each pair of files, (P,) in [-1, 1], as ``VolumeVerifier.detail``.

        NaN where a file is too coarse for it or cannot be read again. `matrix` (P, 3, 4) is where the references lie,
        in mm about the centres of a coarser field.

        Cost: two files read and about 0.5 s a pair on one core; the memory of one block of pairs.
        """
        found = np.full(len(queries), np.nan)
        with Progress(total=len(found), desc="comparing the detail of calls", unit="volume") as bar:
            for start in range(0, len(found), self.verifier.block):
                part = slice(start, start + self.verifier.block)
                found[part] = self._block(queries[part], references[part], matrix[part])
                bar.update(len(found[part]))
        return found

    def _block(self, queries: Sequence[Item], references: Sequence[Item], matrix: NDArray) -> NDArray[np.float64]:
        sides = {"generated": queries, "train": references}
        # a training volume of several copies is read once
        files = {f"{side} {item['image']}": item for side, items in sides.items() for item in items}
        loaded = {file.content: file.images[0].image for file in self.load(files) if isinstance(file, Loaded)}
        pairs = [(f"generated {query['image']}", f"train {item['image']}") for query, item in zip(queries, references)]
        seen = [place for place, pair in enumerate(pairs) if all(name in loaded for name in pair)]
        found = np.full(len(pairs), np.nan)
        if seen:
            query, reference = (np.stack([loaded[pairs[place][side]] for place in seen]) for side in (0, 1))
            found[seen] = self.verifier.detail(query, reference, self.verifier.refine(query, reference, matrix[seen]))
        return found


def detail_of_calls(
    search: Search,
    units: Units,
    found: Found,
    train: EmbeddingSet,
    generated: EmbeddingSet,
    called: NDArray[np.bool_],
    close_up: CloseUp | None = None,
) -> NDArray[np.float64]:
    """Return how far the detail of each unit (U,) and its match agrees, in [-1, 1]; NaN of units that are not `called`.

    Of a cut volume it is the mean over the slices.

    Args:
        search: what found them, among the rows of `train`; `units` are the rows of `generated`.
        close_up: of whole volumes; what it cannot compare, and everything without it, is compared as it was aligned.
    """
    rows = np.flatnonzero(called[units.unit]) if found.parts is None else found.parts.row[called]
    best = found.best[units.unit[rows]]
    matches = found.image[rows, best]
    rows, best, matches = (values[matches >= 0] for values in (rows, best, matches))
    agreement = np.full(len(rows), np.nan)
    if close_up is not None:
        files = [generated.items[n] for n in generated.file[rows]], [train.items[n] for n in train.file[matches]]
        agreement = close_up(*files, found.matrix[rows, best])
    squares = None if found.parts is None else found.parts.square[units.unit]
    left = np.flatnonzero(np.isnan(agreement))
    for start in range(0, len(left), search.block):
        part = left[start : start + search.block]
        row = rows[part]
        pairs = units.images[row], train.images[matches[part]], found.matrix[row, best[part]]
        agreement[part] = search.verifier.detail(*pairs, None if squares is None else squares[row])
    total, count = (np.bincount(units.unit[rows], weights, len(units)) for weights in (agreement, None))
    return np.divide(total, count, out=np.full(len(units), np.nan), where=count > 0)
