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

"""Bend registered training volumes onto generated ones: :mod:`~scripts.similarity.deformation` in three dimensions.

Displacements are trilinear between control points far apart, found by Gauss-Newton on voxels of twice the side.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .kernels import in_parts, kernel
from .smoothing import smoothed
from .volume_sampling import sample

__all__ = ["deform_volumes"]

SPACING = 5  # coarse voxels between control points
ITERATIONS = 4
BLUR = 1.0  # voxels, Gaussian before every second one is taken
STIFFNESS = 0.01  # of the membrane, in squared intensity
ANCHOR = 1e-5  # holds control points that no foreground voxel moves
MOST_STEPS, PRECISION = 30, 0.03  # of conjugate gradients, which need not be exact on the way
CORNERS = 8
UNKNOWNS = 3 * CORNERS  # that one voxel's displacement depends on


@kernel(fastmath=True)
def _inside(volume: NDArray, z: float, y: float, x: float) -> tuple[np.float32, np.float32, np.float32, np.float32]:
    """Trilinear value and derivatives at a position, moved to the volume where it lies outside."""
    z = min(max(z, 0.0), volume.shape[0] - 1.001)
    y = min(max(y, 0.0), volume.shape[1] - 1.001)
    x = min(max(x, 0.0), volume.shape[2] - 1.001)
    return sample(volume, z, y, x)


@kernel(fastmath=True)
def _corners(z: float, y: float, x: float, shape: tuple[int, int, int, int], number: NDArray, weight: NDArray) -> None:
    """Fill the numbers and weights of the control points around a position in units of their spacing."""
    i, j, k = min(int(z), shape[0] - 2), min(int(y), shape[1] - 2), min(int(x), shape[2] - 2)
    fz, fy, fx = z - i, y - j, x - k
    for corner in range(CORNERS):
        u, v, w = corner // 4, corner // 2 % 2, corner % 2
        number[corner] = ((i + u) * shape[1] + j + v) * shape[2] + k + w
        weight[corner] = (fz if u else 1 - fz) * (fy if v else 1 - fy) * (fx if w else 1 - fx)


@kernel(fastmath=True)
def _add_cell(buffer: NDArray, count: int, number: NDArray, band: NDArray, right: NDArray) -> float:
    """Add a cell's products to the normal equations, and return its squared residuals."""
    for a in range(UNKNOWNS):  # ascending numbers: a before b is a lower one
        row = 3 * number[a // 3] + a % 3
        for b in range(a + 1):
            total = np.float32(0)
            for v in range(count):
                total += buffer[a, v] * buffer[b, v]
            band[row, row - 3 * number[b // 3] - b % 3] += total
        total = np.float32(0)
        for v in range(count):
            total += buffer[a, v] * buffer[UNKNOWNS, v]
        right[row] += total
    return (buffer[UNKNOWNS, :count] ** 2).sum()


@kernel(fastmath=True)
def _normal_equations(
    query: NDArray, volume: NDArray, mask: NDArray, field: NDArray, band: NDArray, right: NDArray
) -> float:
    """Fill the banded normal equations of a step of the field (R, C, S, 3), and return the energy at it."""
    band[:] = 0
    right[:] = 0
    flat = field.reshape(-1, 3)
    number, weight = np.empty(CORNERS, np.int64), np.empty(CORNERS)
    buffer = np.empty((UNKNOWNS + 1, SPACING**3), np.float32)  # slopes of the voxels of a cell, and their residuals
    energy = 0.0
    for cell in np.ndindex(field.shape[0] - 1, field.shape[1] - 1, field.shape[2] - 1):
        # its voxels depend on the same control points: their products are summed before they go into the band
        count = 0
        for i in range(cell[0] * SPACING, min((cell[0] + 1) * SPACING, query.shape[0])):
            for j in range(cell[1] * SPACING, min((cell[1] + 1) * SPACING, query.shape[1])):
                for k in range(cell[2] * SPACING, min((cell[2] + 1) * SPACING, query.shape[2])):
                    if not mask[i, j, k]:
                        continue
                    _corners(i / SPACING, j / SPACING, k / SPACING, field.shape, number, weight)
                    z, y, x = np.float64(i), np.float64(j), np.float64(k)
                    for c in range(CORNERS):
                        z += weight[c] * flat[number[c], 0]
                        y += weight[c] * flat[number[c], 1]
                        x += weight[c] * flat[number[c], 2]
                    value, dz, dy, dx = _inside(volume, z, y, x)
                    for c in range(CORNERS):
                        buffer[3 * c, count] = weight[c] * dz
                        buffer[3 * c + 1, count] = weight[c] * dy
                        buffer[3 * c + 2, count] = weight[c] * dx
                    buffer[UNKNOWNS, count] = query[i, j, k] - value
                    count += 1
        if count:
            energy += _add_cell(buffer, count, number, band, right)
    steps = (field.shape[1] * field.shape[2], field.shape[2], 1)
    for i in range(field.shape[0]):
        for j in range(field.shape[1]):
            for k in range(field.shape[2]):
                point = (i * field.shape[1] + j) * field.shape[2] + k
                inner = (i + 1 < field.shape[0], j + 1 < field.shape[1], k + 1 < field.shape[2])
                for own in range(3):
                    n = 3 * point + own
                    band[n, 0] += ANCHOR
                    right[n] -= ANCHOR * flat[point, own]
                    for axis in range(3):
                        if inner[axis]:
                            m = n + 3 * steps[axis]
                            difference = flat[point, own] - flat[point + steps[axis], own]
                            energy += STIFFNESS * difference * difference
                            band[n, 0] += STIFFNESS
                            band[m, 0] += STIFFNESS
                            band[m, m - n] -= STIFFNESS
                            right[n] -= STIFFNESS * difference
                            right[m] += STIFFNESS * difference
    return energy


@kernel(fastmath=True)
def _times(band: NDArray, x: NDArray, out: NDArray) -> None:
    """Fill the product of a symmetric band matrix and x."""
    width = band.shape[1]
    for n in range(len(x)):
        total = band[n, 0] * x[n]
        for d in range(1, min(width, n + 1)):
            total += band[n, d] * x[n - d]
            out[n - d] += band[n, d] * x[n]
        out[n] = total


@kernel(fastmath=True)
def _step(band: NDArray, right: NDArray) -> NDArray:
    """Return about the solution of band @ x = right, by conjugate gradients scaled by the diagonal."""
    x, product = np.zeros_like(right), np.zeros_like(right)
    residual = right.copy()
    scaled = residual / band[:, 0]
    direction = scaled.copy()
    size = (residual * scaled).sum()
    target = size * PRECISION**2
    for _ in range(MOST_STEPS):
        if size <= target:
            break
        product[:] = 0
        _times(band, direction, product)
        length = size / (direction * product).sum()
        x += length * direction
        residual -= length * product
        scaled = residual / band[:, 0]
        before = size
        size = (residual * scaled).sum()
        direction = scaled + size / before * direction
    return x


@kernel()
def _fit(query: NDArray, volume: NDArray, mask: NDArray, field: NDArray) -> NDArray:
    """Return the field of the least energy on the way of Gauss-Newton from a field (R, C, S, 3)."""
    count = field.size
    width = 3 * (field.shape[1] * field.shape[2] + field.shape[2] + 1) + 3
    band, right = np.zeros((count, width)), np.zeros(count)
    best, field, lowest = field.copy(), field.copy(), np.inf
    for step in range(ITERATIONS + 1):
        energy = _normal_equations(query, volume, mask, field, band, right)
        if not energy < lowest:
            break  # too long a step; a shorter one gains little
        done = energy > 0.99 * lowest
        best, lowest = field.copy(), energy
        if done or step == ITERATIONS:
            break
        flat, change = field.reshape(-1), _step(band, right)
        for n in range(count):
            flat[n] += change[n]
    return best


@kernel()
def _deform_pairs(
    start: int,
    stop: int,
    soft_queries: NDArray,
    soft_volumes: NDArray,
    soft_masks: NDArray,
    volumes: NDArray,
    out: NDArray,
) -> None:
    """Fill (P, D, H, W) with each volume bent onto its query, by a field found on voxels of twice the side."""
    for n in range(start, stop):
        sides = soft_queries.shape[1:]
        field = np.zeros(
            ((sides[0] - 1) // SPACING + 2, (sides[1] - 1) // SPACING + 2, (sides[2] - 1) // SPACING + 2, 3)
        )
        field = _fit(soft_queries[n], soft_volumes[n], soft_masks[n], field)
        flat = field.reshape(-1, 3)
        number, weight = np.empty(CORNERS, np.int64), np.empty(CORNERS)
        step = 2.0 * SPACING
        for i in range(out.shape[1]):
            for j in range(out.shape[2]):
                for k in range(out.shape[3]):
                    _corners(i / step, j / step, k / step, field.shape, number, weight)
                    z, y, x = np.float64(i), np.float64(j), np.float64(k)
                    for c in range(CORNERS):
                        z += 2 * weight[c] * flat[number[c], 0]
                        y += 2 * weight[c] * flat[number[c], 1]
                        x += 2 * weight[c] * flat[number[c], 2]
                    out[n, i, j, k] = _inside(volumes[n], z, y, x)[0]


def deform_volumes(
    queries: NDArray[np.float32], volumes: NDArray[np.float32], masks: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """Return volumes (P, D, H, W), which lie on their queries but for small bends, bent onto them.

    Only voxels of the masks (P, D, H, W) decide; a volume without any stays as it is. Each side is at least 4.
    """
    coarse = (slice(None), *[slice(None, None, 2)] * 3)
    soft = [smoothed(stack, BLUR)[coarse] for stack in (queries, volumes)]
    out = np.empty_like(volumes)
    soft_queries, soft_volumes, soft_masks = map(np.ascontiguousarray, (*soft, masks[coarse]))
    in_parts(_deform_pairs, len(volumes), soft_queries, soft_volumes, soft_masks, volumes, out)
    return out
