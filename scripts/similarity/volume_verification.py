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

import numpy as np
import torch
from numpy.typing import NDArray

from ..images.foreground import foreground
from ..images.stacks import Images
from .detail import detail_agreement
from .rendering import fit_gains
from .smoothing import smoothed
from .squares import grid_of_squares
from .ssim import ssim_pairs
from .verification import MOST_SMOOTHING, Alignment, Pairs
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
        matrix, scores = np.empty((len(first), 3, 4)), np.empty((2, len(first)), np.float32)
        for begin in range(0, len(first), self.block):
            part = slice(begin, begin + self.block)
            # a volume of several pairs is smoothed once
            (mine, i), (theirs, j) = (np.unique(numbers[part], return_inverse=True) for numbers in (first, second))
            query, reference = np.asarray(queries[mine], np.float32), np.asarray(references[theirs], np.float32)
            starts = np.repeat(STARTS[None], len(i), 0)
            matrix[part] = register_volumes(query, reference, (i, j), starts, self._spacing)
            query, reference = smoothed(query, self.smoothing), smoothed(reference, self.smoothing)
            warped, both, unbent = self._render(query[i], reference, j, matrix[part], _foreground(query)[i])
            for row, shown in zip(scores, (warped, unbent)):
                row[part] = ssim_pairs(
                    query[i][:, None], shown[:, None], form="foreground", data_range=1.0,
                    foreground_x=both[:, None], foreground_y=both[:, None],
                )  # fmt: skip
        no_squares = np.empty((len(first), 0), np.float32)
        return Alignment(matrix, np.linalg.det(matrix[:, :, :3]) < 0, scores[0], no_squares, scores[1])

    def refine(self, queries: NDArray, references: NDArray, matrix: NDArray) -> NDArray[np.float64]:
        """Return the maps (P, 3, 4) of references (P, X, Y, Z) on their queries, from ones that are nearly right."""
        number = np.arange(len(queries))
        queries, references = (np.asarray(a, np.float32) for a in (queries, references))
        return register_volumes(queries, references, (number, number), matrix[:, None], self._spacing)

    def show(self, queries: NDArray, references: NDArray, matrix: NDArray) -> NDArray[np.float32]:
        """Return the references (P, X, Y, Z) as they are compared with their queries, but not smoothed."""
        queries, references = (np.asarray(a, np.float32) for a in (queries, references))
        return self._render(queries, references, np.arange(len(references)), matrix, _foreground(queries))[0]

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
            rendered = self._render(query, reference, np.arange(len(query)), matrix[part], _foreground(query))
            found[part] = detail_agreement(query, *rendered[:2])
        return found

    def _render(
        self, queries: NDArray, references: NDArray, second: NDArray, matrix: NDArray, shown: NDArray
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.float32]]:
        """Return references[second] on their queries' grids and contrast, where both show something, and the former
        before they are bent; (P, X, Y, Z).

        `shown` (P, X, Y, Z) is where the queries do.
        What only one shows, as a face that was removed or lies outside a crop, says nothing about the other.
        """
        warped = resample_volumes(references, second, matrix, queries.shape[1:], self._spacing)
        both = shown & _foreground(warped)
        planes = (len(queries), -1, queries.shape[3])  # a map of intensity does not ask where a voxel lies

        def on_contrast(volumes: NDArray) -> NDArray:
            return fit_gains(*(a.reshape(planes) for a in (queries, volumes, both))).reshape(volumes.shape)

        unbent = warped = on_contrast(warped)
        if self.bend:
            # once more, as misfits have flattened the first map of intensity
            warped = on_contrast(deform_volumes(queries, unbent, both))
        return warped, both, unbent


def _foreground(volumes: NDArray) -> NDArray[np.bool_]:
    return foreground(torch.from_numpy(volumes), dims=3).numpy()
