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
pyramid with several starts, in one numba kernel that takes pairs in parallel.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from .detail import detail_agreement
from .registration import register
from .rendering import render
from .ssim import ssim_pairs

__all__ = ["Alignment", "Pairs", "Verifier", "Verifies"]


MOST_SMOOTHING = 20.0  # pixels; more leaves nothing of an image
LEAST_WINDOW = 12  # pixels; smaller squares of different people are alike
LEAST_FOREGROUND = 0.6  # of a square, to be compared


Pairs = tuple[NDArray[np.int64], NDArray[np.int64]]  # row numbers of queries, and of references


class Alignment(NamedTuple):
    """How training image `reference` lies on `query`, and how alike they then are; one entry a pair.

    `matrix` (P, 2, 3) maps query to reference pixels, both counted from the image centre in (row, column) order; of
    volumes it is (P, 3, 4), in mm.
    `mirrored` (P,) says that the map reverses handedness; `aligned_ssim` (P,) is the foreground SSIM.
    """

    matrix: NDArray[np.float64]
    mirrored: NDArray[np.bool_]
    aligned_ssim: NDArray[np.float32]


class Verifies(Protocol):
    """What aligns, scores and shows pairs: :class:`Verifier` images, and
    :class:`~scripts.similarity.volume_verification.VolumeVerifier` volumes. `window` is the side of the squares that
    decide where copies of a part are looked for, 0: the whole."""

    window: int

    def align(self, queries: NDArray, references: NDArray, pairs: Pairs | None = None, /) -> Alignment: ...

    def show(self, queries: NDArray, references: NDArray, matrix: NDArray, /) -> NDArray[np.float32]: ...

    def detail(self, queries: NDArray, references: NDArray, matrix: NDArray, /) -> NDArray[np.float64]: ...


class Verifier:
    """Aligns pairs of images on one field and scores them by foreground SSIM.

    Args:
        smoothing: sigma in pixels of a Gaussian on both images before the SSIM; it takes the generator's noise out of
            the comparison. 0 compares the images as they are.
        block: pairs aligned at a time; bounds the memory.
        window: 0 scores the whole foreground; else the score is that of the best square of so many pixels a side, for
            copies of a part of an image. At least 12.
        bend: bend each training image onto the generated one before it is scored, by some pixels at most.

    Cost: about 4 ms a pair at 96 x 112 on two cores (benchmarks/speed.py).
    """

    def __init__(self, smoothing: float = 0.7, block: int = 512, window: int = 0, bend: bool = True) -> None:
        if not 0 <= smoothing <= MOST_SMOOTHING:
            raise ValueError(f"smoothing must be 0 to {MOST_SMOOTHING:g} pixels, got {smoothing}")
        if block < 1:
            raise ValueError(f"block must be 1 or more, got {block}")
        if 0 != window < LEAST_WINDOW:
            raise ValueError(f"window must be 0, for the whole image, or at least {LEAST_WINDOW} pixels, got {window}")
        self.smoothing, self.block, self.window, self.bend = smoothing, block, window, bend

    def align(self, queries: NDArray, references: NDArray, pairs: Pairs | None = None) -> Alignment:
        """Align references[p] to queries[p], or of `pairs` the references' rows pairs[1] to the queries' pairs[0].

        Both are (P, H, W) in [0, 1], background near 0.

        Raises:
            ValueError: if the shapes differ, or the window is larger than the images.
        """
        if pairs is not None:
            queries, references = queries[pairs[0]], references[pairs[1]]
        queries, references = (np.ascontiguousarray(a, np.float32) for a in (queries, references))
        if queries.shape != references.shape or queries.ndim != 3:
            raise ValueError(
                f"queries and references must have one shape (P, H, W), got {queries.shape} and {references.shape}"
            )
        if self.window > max(queries.shape[1:]):
            raise ValueError(
                f"window must be at most {max(queries.shape[1:])} pixels, the images' longer side, got {self.window}"
            )
        matrix = np.empty((len(queries), 2, 3))
        scores = np.empty(len(queries), np.float32)
        for start in range(0, len(queries), self.block):
            part = slice(start, start + self.block)
            matrix[part] = register(queries[part], references[part])
            scores[part] = self._score(queries[part], references[part], matrix[part])
        return Alignment(matrix, np.linalg.det(matrix[:, :, :2]) < 0, scores)

    def show(self, queries: NDArray, references: NDArray, matrix: NDArray) -> NDArray[np.float32]:
        """Return the references (P, H, W) as they are compared with their queries, but not smoothed."""
        return render(queries, references, matrix, self.bend)[0]

    def detail(self, queries: NDArray, references: NDArray, matrix: NDArray) -> NDArray[np.float64]:
        """Return how far the detail of aligned pairs (P, H, W) agrees, (P,) in [-1, 1], as `detail_agreement` says."""
        found = np.empty(len(queries))
        for start in range(0, len(queries), self.block):
            part = slice(start, start + self.block)
            query, reference = (self._smooth(a[part].astype(np.float32)) for a in (queries, references))
            found[part] = detail_agreement(query, *render(query, reference, matrix[part], self.bend))
        return found

    def _score(self, queries: NDArray, references: NDArray, matrix: NDArray) -> NDArray[np.float32]:
        queries = self._smooth(queries)
        warped, union = render(queries, self._smooth(references), matrix, self.bend)
        if self.window:
            return _best_window(queries, warped, union, min(self.window, *queries.shape[1:]))
        return ssim_pairs(queries, warped, form="foreground", data_range=1.0, foreground_x=union, foreground_y=union)

    def _smooth(self, images: NDArray) -> NDArray:
        return ndimage.gaussian_filter(images, (0, self.smoothing, self.smoothing)) if self.smoothing else images


def _best_window(queries: NDArray, warped: NDArray, union: NDArray, window: int) -> NDArray[np.float32]:
    """Return the highest foreground SSIM of each pair (P, H, W) over squares that are mostly foreground, (P,).

    Squares lie a third of their side apart; -1 where none is foreground enough.
    """
    best = np.full(len(queries), -1, np.float32)
    step = window // 3
    for i in range(0, queries.shape[1] - window + 1, step):
        for j in range(0, queries.shape[2] - window + 1, step):
            square = (slice(None), slice(i, i + window), slice(j, j + window))
            inside = np.flatnonzero(union[square].mean((1, 2)) > LEAST_FOREGROUND)
            if len(inside):
                x, y, mask = (np.ascontiguousarray(a[square][inside]) for a in (queries, warped, union))
                score = ssim_pairs(x, y, form="foreground", data_range=1.0, foreground_x=mask, foreground_y=mask)
                best[inside] = np.maximum(best[inside], score)
    return best
