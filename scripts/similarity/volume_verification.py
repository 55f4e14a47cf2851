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

"""Align whole training volumes to generated ones and score each pair by its foreground SSIM, in three dimensions.

As :mod:`~scripts.similarity.verification` does for planar images: rotation, shift, scale, left and right, and a
monotone map of intensity are undone, by one registration in space instead of one a slice.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from ..images.foreground import foreground
from ..images.stacks import Images
from .batched_rendering import Laid
from .detail import detail_agreement
from .rendering import fit_gains
from .smoothing import smoothed
from .squares import grid_of_squares
from .verification import MOST_SMOOTHING, Alignment, Pairs, foreground_ssim, lay_best, rows_of_pairs
from .volume_deformation import deform_volumes
from .volume_registration import register_volumes
from .volume_sampling import resample_volumes

__all__ = ["VolumeVerifier"]

STARTS = np.stack([np.eye(3, 4), np.diag([-1.0, 1.0, 1.0]) @ np.eye(3, 4)])  # as it lies, and left for right


class VolumeVerifier:
    """Aligns pairs of volumes on one field, whose first axis is left-right, and scores them by foreground SSIM.

    Args:
        voxel_mm: side of the volumes' voxels.
        smoothing: sigma in voxels of a Gaussian on both volumes before the SSIM; it takes the generator's noise out of
            the comparison. 0 compares the volumes as they are.
        block: pairs aligned at a time; bounds the memory.
        bend: bend each training volume onto the generated one before it is scored, by some millimetres at most.

    Cost: about 28 ms a pair of 48 x 56 x 40 voxels, on one core (benchmarks/speed.py).
    """

    window = 0  # parts of volumes are not looked for
    device = torch.device("cpu")  # its kernels are the processor's

    def __init__(self, voxel_mm: float = 4.0, smoothing: float = 0.7, block: int = 64, bend: bool = True) -> None:
        if not 0 <= smoothing <= MOST_SMOOTHING:
            raise ValueError(f"smoothing must be 0 to {MOST_SMOOTHING:g} voxels, got {smoothing}")
        if voxel_mm <= 0 or block < 1:
            raise ValueError(f"voxel_mm must be positive and block 1 or more, got {voxel_mm} and {block}")
        self.voxel_mm, self.smoothing, self.block, self.bend = voxel_mm, smoothing, block, bend
        self._spacing = (np.full(3, float(voxel_mm)), np.full(3, float(voxel_mm)))

    def align(
        self, queries: Images, references: Images, pairs: Pairs | None = None, start: NDArray | None = None
    ) -> Alignment:
        """Align references[pairs[1]] to queries[pairs[0]], or without `pairs` each reference to the query beside it.

        Of several references (P, n) the best is taken, as :meth:`.verification.Verifier.align` has it.
        Volumes are (N, X, Y, Z) in [0, 1], background near 0. The maps are (P, 3, 4), query to reference in mm about
        the volumes' centres. `start` is of images alone.

        Raises:
            ValueError: if the shapes differ.
        """
        if queries.shape[1:] != references.shape[1:] or queries.ndim != 4:
            raise ValueError(
                f"queries and references must be (N, X, Y, Z) of one size, got {queries.shape} and {references.shape}"
            )
        first, second = (np.arange(len(queries)), np.arange(len(references))) if pairs is None else pairs
        matrix, column = np.empty((len(first), 3, 4)), np.empty(len(first), np.int64)
        scores, unbent = np.empty(len(first), np.float32), np.empty(len(first), np.float32)
        for begin in range(0, len(first), self.block):
            part = slice(begin, begin + self.block)
            query, reference, i, j = rows_of_pairs(queries, references, (first[part], second[part]))
            laid, unbent[part], column[part] = lay_best(partial(self._laid, query, reference), (i, j))
            matrix[part] = laid.matrix
            scores[part] = foreground_ssim(self._bent(laid)) if self.bend else unbent[part]
        no_squares = np.empty((len(first), 0), np.float32)
        return Alignment(matrix, np.linalg.det(matrix[:, :, :3]) < 0, scores, no_squares, unbent, column)

    def refine(self, queries: NDArray, references: NDArray, matrix: NDArray) -> NDArray[np.float64]:
        """Return the maps (P, 3, 4) of references (P, X, Y, Z) on their queries, from ones that are nearly right."""
        number = np.arange(len(queries))
        queries, references = (np.asarray(a, np.float32) for a in (queries, references))
        return register_volumes(queries, references, (number, number), matrix[:, None], self._spacing)

    def show(self, queries: NDArray, references: NDArray, matrix: NDArray) -> NDArray[np.float32]:
        """Return the references (P, X, Y, Z) as they are compared with their queries, but not smoothed."""
        queries, references = (np.asarray(a, np.float32) for a in (queries, references))
        return self._compared(queries, references, matrix)[0]

    def grid(self, shape: Sequence[int]) -> NDArray[np.int64]:
        """Return no squares (0, 3)."""
        return grid_of_squares(shape, [])

    def detail(
        self, queries: NDArray, references: NDArray, matrix: NDArray, squares: NDArray | None = None
    ) -> NDArray[np.float64]:
        """Return how far the detail of aligned pairs (P, X, Y, Z) agrees, (P,) in [-1, 1]: `detail_agreement`.

        `squares` are of images alone.
        """
        found = np.empty(len(queries))
        for start in range(0, len(queries), self.block):
            part = slice(start, start + self.block)
            query, reference = (
                smoothed(np.asarray(a[part], np.float32), self.smoothing) for a in (queries, references)
            )
            found[part] = detail_agreement(query, *self._compared(query, reference, matrix[part]))
        return found

    def _laid(self, queries: NDArray, references: NDArray, pairs: Pairs, start: NDArray | None) -> Laid:
        """Return references laid on queries, for pairs of rows."""
        first, second = pairs
        starts = np.repeat(STARTS[None], len(first), 0) if start is None else start[:, None]
        matrix = register_volumes(queries, references, pairs, starts, self._spacing)
        queries, references = smoothed(queries, self.smoothing), smoothed(references, self.smoothing)
        shown = self._rendered(queries[first], references, second, matrix, _foreground(queries)[first])
        return Laid(*(torch.from_numpy(a) for a in (matrix, queries[first], *shown)))

    def _bent(self, laid: Laid) -> Laid:
        """Return pairs whose references are bent."""
        return laid._replace(references=torch.from_numpy(_bent(*(a.numpy() for a in laid[1:]))))

    def _compared(
        self, queries: NDArray, references: NDArray, matrix: NDArray
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return the references as they are compared with the queries beside them, and where both show something."""
        number = np.arange(len(references))
        warped, both = self._rendered(queries, references, number, matrix, _foreground(queries))
        return _bent(queries, warped, both) if self.bend else warped, both

    def _rendered(
        self, queries: NDArray, references: NDArray, second: NDArray, matrix: NDArray, shown: NDArray
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return references[second] on their queries' grids and contrast, and where both show something; (P, X, Y, Z).

        `shown` (P, X, Y, Z) is where the queries do.
        What only one shows, as a face that was removed or lies outside a crop, says nothing about the other.
        """
        warped = resample_volumes(references, second, matrix, queries.shape[1:], self._spacing)
        both = shown & _foreground(warped)
        return _on_contrast(queries, warped, both), both


def _on_contrast(queries: NDArray, volumes: NDArray, both: NDArray) -> NDArray[np.float32]:
    planes = (len(queries), -1, queries.shape[3])  # a map of intensity does not ask where a voxel lies
    query, volume, mask = (a.reshape(planes) for a in (queries, volumes, both))
    return fit_gains(query, volume, mask).reshape(volumes.shape)


def _bent(queries: NDArray, volumes: NDArray, both: NDArray) -> NDArray[np.float32]:
    # the contrast once more, as misfits have flattened the first map of intensity
    return _on_contrast(queries, deform_volumes(queries, volumes, both), both)


def _foreground(volumes: NDArray) -> NDArray[np.bool_]:
    return foreground(torch.from_numpy(volumes), dims=3).numpy()
