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

"""Sample planar images: at any place, on another grid."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .kernels import in_parts, kernel

__all__ = ["MARGIN", "cells_of", "fill_cells", "resample"]

MARGIN = 2  # zeros around an image


@kernel()
def fill_cells(image: NDArray, cells: NDArray) -> None:
    """Fill (H + 4, W + 4, 4) with the coefficients of 1, x, y and x y between four neighbours of an image (H, W).

    The image is surrounded by zeros: a position outside, moved to the margin, finds zeros and needs no question.
    """
    height, width = image.shape
    padded = np.zeros((height + 2 * MARGIN + 1, width + 2 * MARGIN + 1), np.float32)
    for i in range(height):  # not by a slice, whose check of shapes takes seconds to compile
        for j in range(width):
            padded[MARGIN + i, MARGIN + j] = image[i, j]
    for i in range(cells.shape[0]):
        for j in range(cells.shape[1]):
            a, b, c, d = padded[i, j], padded[i, j + 1], padded[i + 1, j], padded[i + 1, j + 1]
            cells[i, j, 0] = a
            cells[i, j, 1] = b - a
            cells[i, j, 2] = c - a
            cells[i, j, 3] = a - b - c + d


@kernel()
def _fill_all_cells(start: int, stop: int, images: NDArray, cells: NDArray) -> None:
    for n in range(start, stop):
        fill_cells(images[n], cells[n])


def cells_of(images: NDArray) -> NDArray[np.float32]:
    """Return the cells (N, H + 4, W + 4, 4) of images (N, H, W), by :func:`fill_cells`."""
    count, height, width = images.shape
    cells = np.empty((count, height + 2 * MARGIN, width + 2 * MARGIN, 4), np.float32)
    in_parts(_fill_all_cells, count, images, cells)
    return cells


@kernel(fastmath=True)
def _sample(
    image: NDArray, y: float | np.floating, x: float | np.floating
) -> tuple[np.float32, np.float32, np.float32]:
    """Bilinear value and its derivatives by y and x; zero outside."""
    height, width = image.shape
    if not (y > -1.0 and y < height and x > -1.0 and x < width):
        return np.float32(0), np.float32(0), np.float32(0)
    i, j = int(np.floor(y)), int(np.floor(x))
    fy, fx = np.float32(y - i), np.float32(x - j)
    a = image[i, j] if i >= 0 and j >= 0 else np.float32(0)
    b = image[i, j + 1] if i >= 0 and j + 1 < width else np.float32(0)
    c = image[i + 1, j] if i + 1 < height and j >= 0 else np.float32(0)
    d = image[i + 1, j + 1] if i + 1 < height and j + 1 < width else np.float32(0)
    top, bottom = a + (b - a) * fx, c + (d - c) * fx
    left, right = a + (c - a) * fy, b + (d - b) * fy
    return top + (bottom - top) * fy, bottom - top, right - left


@kernel()
def _resample_pairs(start: int, stop: int, images: NDArray, matrices: NDArray, out: NDArray) -> None:
    """Fill (P, H, W) with each image at its matrix's positions. Here, as a cached kernel knows its own file alone."""
    height, width = out.shape[1:]
    centre_y, centre_x = (height - 1) / 2, (width - 1) / 2
    for n in range(start, stop):
        m = matrices[n]
        for i in range(height):
            for j in range(width):
                y, x = i - centre_y, j - centre_x
                source_y = m[0, 0] * y + m[0, 1] * x + m[0, 2] + centre_y
                source_x = m[1, 0] * y + m[1, 1] * x + m[1, 2] + centre_x
                out[n, i, j] = _sample(images[n], source_y, source_x)[0]


def resample(images: NDArray[np.float32], matrix: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return images (P, H, W) at the positions that maps (P, 2, 3) of :func:`register` give, bilinear, 0 outside."""
    out = np.empty_like(images)
    in_parts(_resample_pairs, len(images), images, matrix, out)
    return out
