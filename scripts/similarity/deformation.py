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

import numpy as np
from numpy.typing import NDArray

from .kernels import in_parts, kernel
from .sampling import MARGIN, fill_cells
from .smoothing import smoothed

__all__ = ["deform", "solve_banded"]


SPACINGS = np.array([32, 16, 8])  # pixels between control points, coarse to fine
ITERATIONS = np.array([5, 4, 4])
BLUR = 2.0  # pixels; of both images but for the last spacing, so that what lies some pixels off is seen
# of the membrane, in squared intensity: of 0.003 to 1, the value at which copies bent by 2 to 3 pixels stand out most
STIFFNESS = 0.01
ROWS, PIXELS = 22, 256  # of the work space of a pair, which fits the processor's first cache
VALUE, FY, FX = 8, 9, 10  # rows of the work space
ANCHOR = 1e-5  # holds control points that no foreground pixel moves


@kernel(fastmath=True)
def _add_pixels(
    count: int,
    cells: NDArray,
    field: NDArray,
    r: int,
    c: int,
    spacing: int,
    band: NDArray,
    right: NDArray,
    work: NDArray,
) -> float:
    """Add the equations of `count` pixels between four control points, and return their squared error.

    Each loop but one writes a single row, in which the compiler finds no overlap, and vectorises it; then the sums over
    pixels are dot products of rows.
    """
    flat = cells.reshape(-1)
    stride = np.int32(4 * cells.shape[1])
    last_y = np.float32(cells.shape[0] - 2 * MARGIN) - np.float32(1.001)
    last_x = np.float32(cells.shape[1] - 2 * MARGIN) - np.float32(1.001)
    value, fy, fx, at_y, at_x, residual = work[VALUE], work[FY], work[FX], work[11], work[12], work[21]
    w0, w1, w2, w3 = work[13], work[14], work[15], work[16]  # of the control points, at this pixel
    one, by_x, by_y, by_both = work[17], work[18], work[19], work[20]  # coefficients of the pixel's cell
    for n in range(count):
        w3[n] = fy[n] * fx[n]
    for n in range(count):
        w2[n] = fy[n] - w3[n]
    for n in range(count):
        w1[n] = fx[n] - w3[n]
    for n in range(count):
        w0[n] = np.float32(1) - fy[n] - w1[n]
    top, left = np.float32(r * spacing), np.float32(c * spacing)
    step = np.float32(spacing)
    y0, y1 = np.float32(field[r, c, 0]), np.float32(field[r, c + 1, 0])
    y2, y3 = np.float32(field[r + 1, c, 0]), np.float32(field[r + 1, c + 1, 0])
    x0, x1 = np.float32(field[r, c, 1]), np.float32(field[r, c + 1, 1])
    x2, x3 = np.float32(field[r + 1, c, 1]), np.float32(field[r + 1, c + 1, 1])
    for n in range(count):
        y = top + step * fy[n] + w0[n] * y0 + w1[n] * y1 + w2[n] * y2 + w3[n] * y3
        at_y[n] = min(max(y, np.float32(0)), last_y) + np.float32(MARGIN)
    for n in range(count):
        x = left + step * fx[n] + w0[n] * x0 + w1[n] * x1 + w2[n] * x2 + w3[n] * x3
        at_x[n] = min(max(x, np.float32(0)), last_x) + np.float32(MARGIN)
    for n in range(count):
        # positions are at least 0; an unsigned index needs no question whether it counts from the end
        k = np.uint64(np.uint32(np.int32(at_y[n]) * stride + np.int32(at_x[n]) * np.int32(4)))
        one[n], by_x[n] = flat[k], flat[k + np.uint64(1)]
        by_y[n], by_both[n] = flat[k + np.uint64(2)], flat[k + np.uint64(3)]
    for n in range(count):
        at_y[n] -= np.float32(np.int32(at_y[n]))
    for n in range(count):
        at_x[n] -= np.float32(np.int32(at_x[n]))
    for n in range(count):
        residual[n] = value[n] - one[n] - by_x[n] * at_x[n] - (by_y[n] + by_both[n] * at_x[n]) * at_y[n]
    for n in range(count):
        by_y[n] += by_both[n] * at_x[n]  # now the derivatives
    for n in range(count):
        by_x[n] += by_both[n] * at_y[n]
    for point in range(4):
        for n in range(count):
            work[2 * point, n] = work[13 + point, n] * by_y[n]
        for n in range(count):
            work[2 * point + 1, n] = work[13 + point, n] * by_x[n]
    columns = field.shape[1]
    for a in range(8):
        row = 2 * ((r + a // 4) * columns + c + a // 2 % 2) + a % 2
        total = np.float32(0)
        for n in range(count):
            total += work[a, n] * residual[n]
        right[row] += total
        for b in range(a + 1):
            column = 2 * ((r + b // 4) * columns + c + b // 2 % 2) + b % 2
            total = np.float32(0)
            for n in range(count):
                total += work[a, n] * work[b, n]
            band[column, row - column] += total
    error = np.float32(0)
    for n in range(count):
        error += residual[n] * residual[n]
    return float(error)


@kernel(fastmath=True)
def _normal_equations(
    query: NDArray,
    cells: NDArray,
    mask: NDArray,
    field: NDArray,
    spacing: int,
    band: NDArray,
    right: NDArray,
    work: NDArray,
) -> float:
    """Fill the banded normal equations of a step of the field (R, C, 2), and return the energy at it.

    `cells` are the image's, of :func:`fill_cells`. `band` (2 R C, 2 C + 4) holds the upper half, [n, d] the entry of
    unknowns n and n + d. `work` (ROWS, pixels) is room for what is known of some pixels.
    """
    rows, columns = field.shape[:2]
    band[:] = 0
    right[:] = 0
    energy = 0.0
    height, width = query.shape
    for r in range(rows - 1):
        for c in range(columns - 1):
            found = np.int64(0)  # no 0, for which numba compiles once more
            for i in range(r * spacing, min((r + 1) * spacing, height)):
                for j in range(c * spacing, min((c + 1) * spacing, width)):
                    if mask[i, j]:
                        work[VALUE, found] = query[i, j]
                        work[FY, found] = np.float32(i - r * spacing) / np.float32(spacing)
                        work[FX, found] = np.float32(j - c * spacing) / np.float32(spacing)
                        found += 1
                if found and (found > work.shape[1] - spacing or i == min((r + 1) * spacing, height) - 1):
                    energy += _add_pixels(int(found), cells, field, r, c, spacing, band, right, work)
                    found = np.int64(0)
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
    band[n, m - n] -= STIFFNESS
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


@kernel(fastmath=True)
def solve_banded(band: NDArray, x: NDArray) -> None:
    """Turn the right side x into the solution by elimination in the symmetric band, which is overwritten."""
    count, width = band.shape[0], band.shape[1] - 1
    for n in range(count):
        row = band[n]
        for d in range(1, min(width, count - 1 - n) + 1):
            share = row[d] / row[0]
            x[n + d] -= share * x[n]
            source, target = row[d:], band[n + d, : width + 1 - d]
            for e in range(len(target)):  # two rows without a gap, which the compiler vectorises
                target[e] -= share * source[e]
    for n in range(count - 1, -1, -1):
        for d in range(1, min(width, count - 1 - n) + 1):
            x[n] -= band[n, d] * x[n + d]
        x[n] /= band[n, 0]


@kernel()
def _fit(
    query: NDArray, cells: NDArray, mask: NDArray, field: NDArray, spacing: int, iterations: int, work: NDArray
) -> NDArray:
    """Return the field of the least energy on the way of Gauss-Newton from a field (R, C, 2)."""
    count, columns = field.shape[0] * field.shape[1] * 2, field.shape[1]
    band, right = np.zeros((count, 2 * columns + 4)), np.zeros(count)
    best, field, lowest = field.copy(), field.copy(), np.inf
    for step in range(iterations + 1):
        energy = _normal_equations(query, cells, mask, field, spacing, band, right, work)
        if not energy < lowest:
            break  # too long a step; a shorter one gains little
        done = energy > 0.999 * lowest
        best, lowest = field.copy(), energy
        if done or step == iterations:
            break
        solve_banded(band, right)
        flat = field.reshape(-1)
        for n in range(count):
            flat[n] += right[n]
    return best


@kernel()
def _at(field: NDArray, y: float, x: float, k: int) -> float:
    """Return component k of a field at a position in units of its spacing."""
    r, c = min(int(y), field.shape[0] - 2), min(int(x), field.shape[1] - 2)
    fy, fx = y - r, x - c
    top = field[r, c, k] + (field[r, c + 1, k] - field[r, c, k]) * fx
    bottom = field[r + 1, c, k] + (field[r + 1, c + 1, k] - field[r + 1, c, k]) * fx
    return top + (bottom - top) * fy


@kernel()
def _deform_pairs(
    start: int,
    stop: int,
    soft_queries: NDArray,
    soft_images: NDArray,
    queries: NDArray,
    images: NDArray,
    masks: NDArray,
    out: NDArray,
) -> None:
    """Fill (P, H, W) with each image bent onto its query; softened ones lead but for the finest grid."""
    height, width = queries.shape[1:]
    for n in range(start, stop):
        spacing = SPACINGS[0]
        work = np.empty((ROWS, max(PIXELS, 2 * spacing)), np.float32)
        cells = np.empty((height + 2 * MARGIN, width + 2 * MARGIN, 4), np.float32)
        fill_cells(soft_images[n], cells)
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
                field = _fit(soft_queries[n], cells, masks[n], field, spacing, ITERATIONS[level], work)
            else:
                fill_cells(images[n], cells)
                field = _fit(queries[n], cells, masks[n], field, spacing, ITERATIONS[level], work)
        for i in range(height):
            for j in range(width):
                y = i + _at(field, i / spacing, j / spacing, 0)
                x = j + _at(field, i / spacing, j / spacing, 1)
                out[n, i, j] = _inside(images[n], y, x)[0]


def deform(
    queries: NDArray[np.float32],
    images: NDArray[np.float32],
    masks: NDArray[np.bool_],
    rows: NDArray[np.int64] | None = None,
) -> NDArray[np.float32]:
    """Return images (P, H, W), which lie on their queries but for small bends, bent onto them.

    `rows` (P,) are those of the queries (Q, H, W), which are softened once each; None: query p is that of image p. Only
    pixels of the masks (P, H, W) decide; an image without any stays as it is. Images are at least 2 pixels high
    and wide. About 1.5 ms a pair of 112 x 96 pixels on one core.
    """
    soft = [smoothed(stack, BLUR) for stack in (queries, images)]
    if rows is not None:
        soft[0], queries = soft[0][rows], queries[rows]
    out = np.empty_like(images)
    in_parts(_deform_pairs, len(queries), soft[0], soft[1], queries, images, masks, out)
    return out
