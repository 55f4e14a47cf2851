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

"""Bend a registered training image onto the generated one: small displacements on a grid of control points.

A generator bends what it copies, and a pixel or two of misfit hide the agreement of every fold. Displacements are
bilinear between control points and found by Gauss-Newton, from a coarse grid to a fine one, against a membrane's energy
that keeps neighbours together. It bends different people's images onto each other, too: the null has the same freedom.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from .kernels import kernel

__all__ = ["deform"]


SPACINGS = np.array([32, 16, 8])  # pixels between control points, coarse to fine
ITERATIONS = np.array([5, 4, 4])
BLUR = 2.0  # pixels; of both images but for the last spacing, so that what lies some pixels off is seen
# of the membrane, in squared intensity: of 0.003 to 1, the value at which copies bent by 2 to 3 pixels stand out most
STIFFNESS = 0.01
ANCHOR = 1e-5  # holds control points that no foreground pixel moves


@kernel(fastmath=True)
def _normal_equations(
    query: NDArray, image: NDArray, mask: NDArray, field: NDArray, spacing: int, band: NDArray, right: NDArray
) -> float:
    """Fill the banded normal equations of a step of the field (R, C, 2), and return the energy at it.

    `band` (2 R C, 2 C + 4) holds the lower half, [n, d] the entry of unknowns n and n - d.
    """
    rows, columns = field.shape[:2]
    band[:] = 0
    right[:] = 0
    energy = 0.0
    number = np.empty(8, np.int64)
    slope = np.empty(8)
    for i in range(query.shape[0]):
        r = i // spacing
        fy = i / spacing - r
        for j in range(query.shape[1]):
            if not mask[i, j]:
                continue
            c = j // spacing
            fx = j / spacing - c
            weights = ((1 - fy) * (1 - fx), (1 - fy) * fx, fy * (1 - fx), fy * fx)
            y, x = np.float64(i), np.float64(j)
            for k in range(4):
                u, v = r + k // 2, c + k % 2
                y += weights[k] * field[u, v, 0]
                x += weights[k] * field[u, v, 1]
                number[2 * k] = 2 * (u * columns + v)
                number[2 * k + 1] = number[2 * k] + 1
            value, dy, dx = _inside(image, y, x)
            residual = query[i, j] - value
            energy += residual * residual
            for k in range(4):
                slope[2 * k] = weights[k] * dy
                slope[2 * k + 1] = weights[k] * dx
            for a in range(8):
                right[number[a]] += slope[a] * residual
                for b in range(a + 1):
                    band[number[a], number[a] - number[b]] += slope[a] * slope[b]
    for r in range(rows):
        for c in range(columns):
            for k in range(2):
                n = 2 * (r * columns + c) + k
                band[n, 0] += ANCHOR
                right[n] -= ANCHOR * field[r, c, k]
                if c + 1 < columns:
                    energy += _spring(field[r, c, k] - field[r, c + 1, k], n, n + 2, band, right)
                if r + 1 < rows:
                    energy += _spring(field[r, c, k] - field[r + 1, c, k], n, n + 2 * columns, band, right)
    return energy


@kernel(fastmath=True)
def _spring(difference: float, n: int, m: int, band: NDArray, right: NDArray) -> float:
    """Add the membrane between unknowns n < m, and return its energy."""
    band[n, 0] += STIFFNESS
    band[m, 0] += STIFFNESS
    band[m, m - n] -= STIFFNESS
    right[n] -= STIFFNESS * difference
    right[m] += STIFFNESS * difference
    return STIFFNESS * difference * difference


@kernel(fastmath=True)
def _inside(image: NDArray, y: float, x: float) -> tuple[float, float, float]:
    """Bilinear value and derivatives by y and x at a position, moved to the image where it lies outside."""
    y = min(max(y, 0.0), image.shape[0] - 1.001)
    x = min(max(x, 0.0), image.shape[1] - 1.001)
    i, j = int(y), int(x)
    fy, fx = y - i, x - j
    a, b, c, d = image[i, j], image[i, j + 1], image[i + 1, j], image[i + 1, j + 1]
    top, bottom = a + (b - a) * fx, c + (d - c) * fx
    left, right = a + (c - a) * fy, b + (d - b) * fy
    return top + (bottom - top) * fy, bottom - top, right - left


@kernel()
def _solve(band: NDArray, x: NDArray) -> None:
    """Turn the right side x into the solution by Cholesky of the band, which is overwritten."""
    count, width = band.shape[0], band.shape[1] - 1
    for i in range(count):
        start = max(0, i - width)
        for j in range(start, i + 1):
            total = band[i, i - j]
            for k in range(max(start, j - width), j):
                total -= band[i, i - k] * band[j, j - k]
            band[i, i - j] = np.sqrt(total) if i == j else total / band[j, 0]
        for k in range(start, i):
            x[i] -= band[i, i - k] * x[k]
        x[i] /= band[i, 0]
    for i in range(count - 1, -1, -1):
        for k in range(i + 1, min(count, i + width + 1)):
            x[i] -= band[k, k - i] * x[k]
        x[i] /= band[i, 0]


@kernel()
def _fit(query: NDArray, image: NDArray, mask: NDArray, field: NDArray, spacing: int, iterations: int) -> NDArray:
    """Return the field of the least energy on the way of Gauss-Newton from a field (R, C, 2)."""
    count, columns = field.shape[0] * field.shape[1] * 2, field.shape[1]
    band, right = np.zeros((count, 2 * columns + 4)), np.zeros(count)
    best, lowest = field.copy(), np.inf
    for step in range(iterations + 1):
        energy = _normal_equations(query, image, mask, field, spacing, band, right)
        if not energy < lowest:
            break  # too long a step; a shorter one gains little
        done = energy > 0.999 * lowest
        best, lowest = field.copy(), energy
        if done or step == iterations:
            break
        _solve(band, right)
        field = field + right.reshape(field.shape)
    return best


@kernel()
def _at(field: NDArray, y: float, x: float, k: int) -> float:
    """Return component k of a field at a position in units of its spacing."""
    r, c = min(int(y), field.shape[0] - 2), min(int(x), field.shape[1] - 2)
    fy, fx = y - r, x - c
    top = field[r, c, k] + (field[r, c + 1, k] - field[r, c, k]) * fx
    bottom = field[r + 1, c, k] + (field[r + 1, c + 1, k] - field[r + 1, c, k]) * fx
    return top + (bottom - top) * fy


@kernel(parallel=True)
def _deform_pairs(
    soft_queries: NDArray, soft_images: NDArray, queries: NDArray, images: NDArray, masks: NDArray, out: NDArray
) -> None:
    """Fill (P, H, W) with each image bent onto its query; softened ones lead but for the finest grid."""
    height, width = queries.shape[1:]
    for n in numba.prange(queries.shape[0]):
        spacing = SPACINGS[0]
        field = np.zeros(((height - 1) // spacing + 2, (width - 1) // spacing + 2, 2))
        for level in range(len(SPACINGS)):
            if level:
                ratio = SPACINGS[level] / spacing
                spacing = SPACINGS[level]
                finer = np.zeros(((height - 1) // spacing + 2, (width - 1) // spacing + 2, 2))
                for r in range(finer.shape[0]):
                    for c in range(finer.shape[1]):
                        # the finer grid may end a little beyond the coarser one
                        y = min(r * ratio, field.shape[0] - 1.0)
                        x = min(c * ratio, field.shape[1] - 1.0)
                        finer[r, c, 0], finer[r, c, 1] = _at(field, y, x, 0), _at(field, y, x, 1)
                field = finer
            if level < len(SPACINGS) - 1:
                field = _fit(soft_queries[n], soft_images[n], masks[n], field, spacing, ITERATIONS[level])
            else:
                field = _fit(queries[n], images[n], masks[n], field, spacing, ITERATIONS[level])
        for i in range(height):
            for j in range(width):
                y = i + _at(field, i / spacing, j / spacing, 0)
                x = j + _at(field, i / spacing, j / spacing, 1)
                out[n, i, j] = _inside(images[n], y, x)[0]


def deform(queries: NDArray[np.float32], images: NDArray[np.float32], masks: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return images (P, H, W), which lie on their queries but for small bends, bent onto them.

    Only pixels of the masks (P, H, W) decide; an image without any stays as it is. Images are at least 2 pixels high
    and wide. About 2.5 ms a pair of 112 x 96 pixels on one core.
    """
    soft = [ndimage.gaussian_filter(stack, (0, BLUR, BLUR)) for stack in (queries, images)]
    out = np.empty_like(images)
    _deform_pairs(soft[0], soft[1], queries, images, masks, out)
    return out
