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

"""Align training images to generated ones and score each pair by its foreground SSIM: the evidence of a copy.

The alignment undoes what a generator, or the preparation of its training data, may have done to a copy: mirroring,
a half turn, rotation, shift, scale and a monotone change of intensity. It is a registration by Gauss-Newton on an image
pyramid with several starts: on the processor in one numba kernel that takes pairs in parallel, on a GPU by torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from ..images.foreground import foreground
from ..images.stacks import Images
from . import batched_rendering
from .batched_rendering import Laid
from .detail import detail_agreement
from .registration import register
from .rendering import bent, render
from .smoothing import smoothed
from .squares import grid_of_squares, ssim_of_squares
from .ssim import ssim_pairs

__all__ = ["Alignment", "Pairs", "Verifier", "Verifies", "foreground_ssim", "lay_best", "rows_of_pairs"]


MOST_SMOOTHING = 20.0  # pixels; more leaves nothing of an image
LEAST_WINDOW = 12  # pixels; smaller squares of different people are alike
BLOCK = 512  # pairs aligned at a time on the processor
# on a GPU, which is idle with few: as many as a fifth of its memory holds, within these limits
DEVICE_BLOCKS, PAIR_BYTES, MEMORY_SHARE = (512, 8192), 1.5e6, 0.2
SIDES = (1.0, 1.25, 1.5)  # of the squares, in windows: a large one tells more of a part that fills it


# row numbers of queries (P,), and of references (P,), or (P, n) of which the best is taken, -1 for none
Pairs = tuple[NDArray[np.int64], NDArray[np.int64]]


class Alignment(NamedTuple):
    """How training image `reference` lies on `query`, and how alike they then are; one entry a pair.

    `matrix` (P, 2, 3) maps query to reference pixels, both counted from the image centre in (row, column) order; of
    volumes it is (P, 3, 4), in mm.
    `mirrored` (P,) says that the map reverses handedness. `aligned_ssim` (P,) is the foreground SSIM, `unbent_ssim`
    (P,) that before the reference is bent, the same where none is. Where copies of a part are looked for, `squares`
    (P, W) is that of each square, NaN where one shows too little, and `aligned_ssim` the best of them; else W is 0.
    `column` (P,) says which of a pair's references was taken.
    """

    matrix: NDArray[np.float64]
    mirrored: NDArray[np.bool_]
    aligned_ssim: NDArray[np.float32]
    squares: NDArray[np.float32]
    unbent_ssim: NDArray[np.float32]
    column: NDArray[np.int64]


class Verifies(Protocol):
    """What aligns, scores and shows pairs: :class:`Verifier` images, and
    :class:`~scripts.similarity.volume_verification.VolumeVerifier` volumes. `window` is the side of the least squares
    that decide where copies of a part are looked for, 0: the whole; `device` is where pairs are aligned, `block`
    at a time, and where a search compares embeddings."""

    window: int
    block: int
    device: torch.device

    def align(
        self, queries: Images, references: Images, pairs: Pairs | None = None, start: NDArray | None = None, /
    ) -> Alignment:
        """Align a reference to each query, or those of `pairs`."""

    def show(self, queries: NDArray, references: NDArray, matrix: NDArray, /) -> NDArray[np.float32]:
        """Return the references as they are compared with their queries, as pictures (P, H, W)."""

    def detail(
        self, queries: NDArray, references: NDArray, matrix: NDArray, squares: NDArray | None = None, /
    ) -> NDArray[np.float64]:
        """Return how far the detail of aligned pairs agrees, (P,) in [-1, 1]."""

    def grid(self, shape: Sequence[int], /) -> NDArray[np.int64]:
        """Return the squares of images of a shape, in which copies of a part are looked for."""


def default_block(device: torch.device) -> int:
    """Return how many pairs are aligned at a time on a device; of a GPU by its whole memory, that results not depend
    on what else it does."""
    if device.type == "cpu":
        return BLOCK
    if device.type != "cuda" or not torch.cuda.is_available():
        return DEVICE_BLOCKS[0]
    memory = torch.cuda.get_device_properties(device).total_memory
    return int(np.clip(MEMORY_SHARE * memory / PAIR_BYTES, *DEVICE_BLOCKS))


class Verifier:
    """Aligns pairs of images on one field and scores them by foreground SSIM.

    Args:
        smoothing: sigma in pixels of a Gaussian on both images before the SSIM; it takes the generator's noise out of
            the comparison. 0 compares the images as they are.
        block: pairs aligned at a time; bounds the memory. None: 512; on a GPU what a fifth of its memory holds at
            1.5 MB a pair, from 512 to 8,192.
        window: 0 scores the whole foreground; else squares of so many pixels a side, and of a quarter and half as much
            more, for copies of a part of an image. At least 12.
        bend: bend each training image onto the generated one before it is scored, by some pixels at most; not where
            parts are looked for, as a part of one image in another bends neither.
        shading: undo a smooth change of brightness over the image, up to half as bright again, before it is scored;
            not where parts are looked for, as the rest of an image says nothing about that of a part.
        device: where pairs are aligned and scored. Any but the processor does the same by torch; its aligned SSIM
            differs by less than 0.0001, and in one of a hundred pairs of different people by up to 0.003. Apple's
            GPUs lack float64: for them it is the processor.

    Cost: about 3 ms a pair at 96 x 112 on two cores (benchmarks/speed.py), less where parts are looked for, as
    nothing is bent. What is done to an image rather than to a pair is done once in a block.
    """

    def __init__(
        self,
        smoothing: float = 0.7,
        block: int | None = None,
        window: int = 0,
        bend: bool = True,
        device: torch.device | str = "cpu",
        shading: bool = True,
    ) -> None:
        if not 0 <= smoothing <= MOST_SMOOTHING:
            raise ValueError(f"smoothing must be 0 to {MOST_SMOOTHING:g} pixels, got {smoothing}")
        self.device = torch.device(device)
        if self.device.type == "mps":  # has no float64, which the maps need
            self.device = torch.device("cpu")
        block = default_block(self.device) if block is None else block
        if block < 1:
            raise ValueError(f"block must be 1 or more, got {block}")
        if 0 != window < LEAST_WINDOW:
            raise ValueError(f"window must be 0, for the whole image, or at least {LEAST_WINDOW} pixels, got {window}")
        self.smoothing, self.block, self.window = smoothing, block, window
        self.bend, self.shading = bend and not window, shading and not window

    def align(
        self, queries: Images, references: Images, pairs: Pairs | None = None, start: NDArray | None = None
    ) -> Alignment:
        """Align references[p] to queries[p], or of `pairs` the references' rows pairs[1] to the queries' pairs[0].

        Both are (P, H, W) in [0, 1], background near 0. `start` (P, 2, 3) are maps that are nearly right, as those of a
        neighbouring slice; they are refined, which is less than half the work.

        Where pairs[1] is (P, n), as n neighbouring slices of a subject, the one of the highest SSIM before it is bent
        is taken: the embedding may prefer another slice than that which was copied. -1, but in the first column, stands
        for none.

        Raises:
            ValueError: if the shapes differ, or the window is larger than the images.
        """
        fit = queries.shape[1:] == references.shape[1:] and (pairs is not None or len(queries) == len(references))
        if not fit or queries.ndim != 3:
            raise ValueError(
                f"queries and references must have one shape (P, H, W), got {queries.shape} and {references.shape}"
            )
        if self.window > max(queries.shape[1:]):
            raise ValueError(
                f"window must be at most {max(queries.shape[1:])} pixels, the images' longer side, got {self.window}"
            )
        first, second = pairs or (np.arange(len(queries)),) * 2
        grid = self.grid(queries.shape[1:])
        matrix, column = np.empty((len(first), 2, 3)), np.empty(len(first), np.int64)
        scores, unbent = np.empty(len(first), np.float32), np.empty(len(first), np.float32)
        squares = np.empty((len(first), len(grid)), np.float32)
        for begin in range(0, len(first), self.block):
            part = slice(begin, begin + self.block)
            query, reference, i, j = rows_of_pairs(queries, references, (first[part], second[part]))
            lay = partial(self._laid, query, reference)
            laid, unbent[part], column[part] = lay_best(lay, (i, j), None if start is None else start[part])
            matrix[part] = laid.matrix.cpu()
            once = np.unique(i, return_index=True)[1]  # where each query first stands
            if self.window:
                shown = foreground(laid.queries[once]).cpu().numpy()[i]  # a query's foreground is that of all its pairs
                images, warped, union = (a.cpu().numpy() for a in laid[1:])
                squares[part] = ssim_of_squares(images, warped, union, grid, shown)
                scores[part] = np.where(np.isnan(squares[part]), -1, squares[part]).max(1, initial=-1)
                unbent[part] = scores[part]
            else:
                scores[part] = foreground_ssim(self._bent(laid, once, i)) if self.bend else unbent[part]
        return Alignment(matrix, np.linalg.det(matrix[:, :, :2]) < 0, scores, squares, unbent, column)

    def _laid(self, queries: NDArray, references: NDArray, pairs: Pairs, start: NDArray | None) -> Laid:
        """Return references laid on queries, on the device."""
        if self.device.type != "cpu":
            query, reference, i, j = (
                torch.from_numpy(a).to(self.device) for a in (queries, references, pairs[0], pairs[1])
            )
            known = None if start is None else torch.from_numpy(start).to(self.device)
            return batched_rendering.lay(query, reference, (i, j), known, self.smoothing, self.shading)
        matrix = register(queries, references, pairs, start)
        queries, references = smoothed(queries, self.smoothing), smoothed(references, self.smoothing)
        shown = render(queries, references, matrix, pairs, self.shading)
        return Laid(*(torch.from_numpy(a) for a in (matrix, queries[pairs[0]], *shown)))

    def _bent(self, laid: Laid, once: NDArray, rows: NDArray) -> Laid:
        """Return pairs whose references are bent; `once` are where each query first stands, `rows` (P,) its number."""
        if self.device.type != "cpu":
            return laid._replace(references=batched_rendering.bent(*laid[1:]))
        queries, images, union = (a.numpy() for a in laid[1:])
        return laid._replace(references=torch.from_numpy(bent(queries[once], images, union, rows)))

    def grid(self, shape: Sequence[int]) -> NDArray[np.int64]:
        """Return the squares (W, 3) of images of a shape (H, W): first row, first column, side. None for the whole."""
        return grid_of_squares(shape, [round(share * self.window) for share in SIDES] if self.window else [])

    def show(self, queries: NDArray, references: NDArray, matrix: NDArray) -> NDArray[np.float32]:
        """Return the references (P, H, W) as they are compared with their queries, but not smoothed."""
        warped, union = render(queries, references, matrix, shading=self.shading)
        return bent(queries, warped, union) if self.bend else warped

    def detail(
        self, queries: NDArray, references: NDArray, matrix: NDArray, squares: NDArray | None = None
    ) -> NDArray[np.float64]:
        """Return how far the detail of aligned pairs (P, H, W) agrees, (P,) in [-1, 1], as `detail_agreement` says.

        `squares` (P, 3) of :meth:`grid` ask it of these alone.
        """
        found = np.empty(len(queries))
        for start in range(0, len(queries), self.block):
            part = slice(start, start + self.block)
            query, reference = (smoothed(a[part].astype(np.float32), self.smoothing) for a in (queries, references))
            warped, union = render(query, reference, matrix[part], shading=self.shading)
            if self.bend:
                warped = bent(query, warped, union)
            if squares is not None:
                inside = np.zeros_like(union)
                for mask, (row, column, side) in zip(inside, squares[part]):
                    mask[row : row + side, column : column + side] = True
                union &= inside
            found[part] = detail_agreement(query, warped, union)
        return found


def rows_of_pairs(
    queries: Images, references: Images, pairs: Pairs
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """Return the queries and references of pairs, each once, and the pairs' rows of these: (P,), and (P, n) from -1."""
    first, second = pairs
    (q, i), r = np.unique(first, return_inverse=True), np.unique(second[second >= 0])
    j = np.where(second >= 0, np.searchsorted(r, second), -1).reshape(len(second), -1)
    query, reference = (np.ascontiguousarray(a, np.float32) for a in (queries[q], references[r]))
    return query, reference, i, j


def lay_best(
    lay: Callable[[Pairs, NDArray | None], Laid], pairs: Pairs, start: NDArray | None = None
) -> tuple[Laid, NDArray[np.float32], NDArray[np.int64]]:
    """Return the references of highest SSIM laid on their queries, that SSIM (P,), and their columns (P,).

    Args:
        lay: lays references on queries, for pairs of rows, from maps that are nearly right or None.
        pairs: the queries' rows (P,), and the references' (P, n), -1 for none but in the first column.
        start: maps of the first column's.

    Each reference after the first begins with the map of the best so far.
    """
    first, second = pairs
    laid = lay((first, second[:, 0]), start)
    best, chosen = foreground_ssim(laid).numpy(), np.zeros(len(first), np.int64)
    for column in range(1, second.shape[1]):
        there = np.flatnonzero(second[:, column] >= 0)
        other = lay((first[there], second[there, column]), laid.matrix.cpu().numpy()[there])
        ssim = foreground_ssim(other).numpy()
        better = np.flatnonzero(ssim > best[there])
        rows = there[better]
        for known, new in zip(laid, other):
            known[rows] = new[better]
        best[rows], chosen[rows] = ssim[better], column
    return laid, best, chosen


def foreground_ssim(laid: Laid) -> torch.Tensor:
    """Return the foreground SSIM (P,) of images, or volumes, that are laid on each other, on the processor."""
    queries, references, union = (a if a.ndim == 3 else a[:, None] for a in laid[1:])  # of volumes with a channel
    masks = {"foreground_x": union, "foreground_y": union}
    return ssim_pairs(queries, references, form="foreground", data_range=1.0, **masks).cpu()
