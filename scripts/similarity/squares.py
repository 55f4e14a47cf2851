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


"""The SSIM of every square of aligned pairs: where a part of an image was copied, some squares agree and the rest does
not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .kernels import in_parts, kernel
from .ssim_kernels import K1, K2, WINDOW

__all__ = ["grid_of_squares", "ssim_of_squares"]

LEAST_FOREGROUND = 0.6  # of a square, to be compared
STEPS = 6  # a square's neighbour lies a so-manieth of its side away


def grid_of_squares(shape: Sequence[int], sides: Sequence[int]) -> NDArray[np.int64]:
    """Return the squares (W, 3) of an image of this shape (H, W): first row, first column, side, all in pixels.

    Sides longer than the image are cut to its shorter one.
    """
    squares = []
    for side in dict.fromkeys(min(side, *shape) for side in sides):
        step = max(1, side // STEPS)
        squares += [
            (i, j, side) for i in range(0, shape[0] - side + 1, step) for j in range(0, shape[1] - side + 1, step)
        ]
    return np.array(squares, np.int64).reshape(-1, 3)


@kernel()
def _inside(sums: NDArray, i1: int, i2: int, j1: int, j2: int) -> float:
    """Return what lies in rows i1 to i2 and columns j1 to j2, without the last of both, of running sums."""
    return sums[i2, j2] - sums[i1, j2] - sums[i2, j1] + sums[i1, j1]


@kernel()
def _ssim_of_squares(
    start: int, stop: int, x: NDArray, y: NDArray, mask: NDArray, shown: NDArray, squares: NDArray, found: NDArray
) -> None:
    """Fill (P, W) from running sums: of the pixels for the 7 x 7 windows, and of their SSIM for the squares."""
    height, width = x.shape[1:]
    rim, count = WINDOW // 2, WINDOW * WINDOW
    sample = count / (count - 1.0)  # sample covariance, as scikit-image
    for n in range(start, stop):
        sums = np.zeros((6, height + 1, width + 1))  # of x, y, x^2, y^2, xy and what is shown
        row = np.zeros(6)
        for i in range(height):
            row[:] = 0
            for j in range(width):
                a, b = float(x[n, i, j]), float(y[n, i, j])
                row[0] += a
                row[1] += b
                row[2] += a * a
                row[3] += b * b
                row[4] += a * b
                row[5] += shown[n, i, j]
                for u in range(6):
                    sums[u, i + 1, j + 1] = sums[u, i, j + 1] + row[u]
        scores = np.zeros((2, height + 1, width + 1))  # of the windows' SSIM, and of the windows that count
        m = np.zeros(5)
        for i in range(height):
            score, counted = 0.0, 0.0
            for j in range(width):
                if rim <= i < height - rim and rim <= j < width - rim and mask[n, i, j]:
                    i1, i2, j1, j2 = i - rim, i + rim + 1, j - rim, j + rim + 1
                    for u in range(5):
                        m[u] = _inside(sums[u], i1, i2, j1, j2) / count
                    spread = sample * max(0.0, m[2] + m[3] - m[0] * m[0] - m[1] * m[1])
                    product = m[0] * m[1]
                    score += (
                        (2 * product + K1**2)
                        * (2 * sample * (m[4] - product) + K2**2)
                        / ((m[0] * m[0] + m[1] * m[1] + K1**2) * (spread + K2**2))
                    )
                    counted += 1
                scores[0, i + 1, j + 1] = scores[0, i, j + 1] + score
                scores[1, i + 1, j + 1] = scores[1, i, j + 1] + counted
        for w in range(len(squares)):
            i, j, side = squares[w]
            pixels = _inside(sums[5], i, i + side, j, j + side)
            # windows that lie inside the square, by their centres
            i1, i2, j1, j2 = i + rim, i + side - rim, j + rim, j + side - rim
            windows = _inside(scores[1], i1, i2, j1, j2)
            found[n, w] = np.nan
            if pixels > LEAST_FOREGROUND * side * side and windows > 0:
                found[n, w] = _inside(scores[0], i1, i2, j1, j2) / windows


def ssim_of_squares(
    x: NDArray, y: NDArray, mask: NDArray[np.bool_], squares: NDArray, shown: NDArray[np.bool_] | None = None
) -> NDArray[np.float32]:
    """Return the foreground SSIM (P, W) of each square of pairs of images (P, H, W) in [0, 1].

    It is that of the square alone: the mean over the 7 x 7 windows inside it whose centre is set in `mask`, with a data
    range of 1. NaN where less than 0.6 of a square is shown.

    Args:
        x, y: the images of each pair, on one grid.
        mask: (P, H, W), the foreground of either.
        squares: (W, 3) as of :func:`grid_of_squares`, at least 7 pixels a side.
        shown: (P, H, W), what a square must show: the object of `x`, as two backgrounds agree in any case. None: the
            mask.

    Raises:
        ValueError: if shapes differ, or a square is smaller than a window or leaves the image.

    Cost: H x W + W steps a pair, whatever the sides, as squares are differences of running sums.

    Source: Wang et al., IEEE TIP 13(4), 2004, eq. 13.
    """
    shown = mask if shown is None else shown
    if not x.shape == y.shape == mask.shape == shown.shape or x.ndim != 3:
        raise ValueError(f"expected images and mask of one shape (P, H, W), got {x.shape}, {y.shape} and {mask.shape}")
    ends = squares[:, :2] + squares[:, 2:]
    if (squares[:, 2] < WINDOW).any() or (squares < 0).any() or (ends > np.array(x.shape[1:])).any():
        raise ValueError(f"squares must be at least {WINDOW} pixels a side and inside images of {x.shape[1:]}")
    found = np.empty((len(x), len(squares)), np.float32)
    in_parts(_ssim_of_squares, len(x), x, y, mask, shown, squares, found)
    return found
