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

"""Register training volumes to generated ones: Gauss-Newton on a pyramid in mm, from several starts, in one kernel.

As :mod:`~scripts.similarity.registration` does for planar images. Positions are in mm about the centres of the volumes,
so that voxels may be of any size and volumes of any field of view.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from .kernels import kernel
from .registration import solve

__all__ = ["register_volumes", "resample_volumes", "sample"]

LEVELS_MM = (8.0, 4.0, 2.0)  # sides of the voxels that are compared, coarse to fine
ITERATIONS = (12, 8, 4)
ROWS = (1, 2, 2)  # of so many rows of voxels one is compared, in a checkerboard: seven numbers need no more
SMOOTHING = 0.5  # voxels of a level, Gaussian
KEPT = 2  # starts that go on from the coarse level
RIVAL = 1.3  # times the least error, up to which they do
SCALE_RANGE = (0.7, 1.4)  # of the map; anything beyond is a run-away fit
UNKNOWNS = 10  # turn, scale, shift, and a parabola of intensity


@kernel(fastmath=True)
def sample(
    volume: NDArray, z: float | np.floating, y: float | np.floating, x: float | np.floating
) -> tuple[np.float32, np.float32, np.float32, np.float32]:
    """Trilinear value and its derivatives by z, y and x; zero outside."""
    depth, height, width = volume.shape
    nothing = np.float32(0)
    if not (0 <= z <= depth - 1 and 0 <= y <= height - 1 and 0 <= x <= width - 1):
        return nothing, nothing, nothing, nothing
    i, j, k = min(int(z), depth - 2), min(int(y), height - 2), min(int(x), width - 2)
    fz, fy, fx = np.float32(z - i), np.float32(y - j), np.float32(x - k)
    a, b = volume[i, j, k], volume[i, j, k + 1]
    c, d = volume[i, j + 1, k], volume[i, j + 1, k + 1]
    e, f = volume[i + 1, j, k], volume[i + 1, j, k + 1]
    g, h = volume[i + 1, j + 1, k], volume[i + 1, j + 1, k + 1]
    near_top, near_bottom = a + (b - a) * fx, c + (d - c) * fx
    far_top, far_bottom = e + (f - e) * fx, g + (h - g) * fx
    near, far = near_top + (near_bottom - near_top) * fy, far_top + (far_bottom - far_top) * fy
    by_y = (near_bottom - near_top) * (1 - fz) + (far_bottom - far_top) * fz
    by_x = ((b - a) * (1 - fy) + (d - c) * fy) * (1 - fz) + ((f - e) * (1 - fy) + (h - g) * fy) * fz
    return near + (far - near) * fz, far - near, by_y, by_x


@kernel(fastmath=True)
def _normal_equations(
    query: NDArray,
    query_grid: NDArray,
    reference: NDArray,
    reference_grid: NDArray,
    matrix: NDArray,
    gain: NDArray,
    counted: tuple[int, bool],
    normal: NDArray,
    gradient: NDArray,
) -> float:
    """Fill the normal equations of (turn, log scale, shift, gain) at a map (3, 4) and return the squared error.

    Grids (2, 3) are origin and step in mm. The reference's value w at matrix @ x predicts the query as a parabola in w.
    A row of voxels at a time, as for planar images, of every so many rows. `counted` says so, and whether what the
    query leaves black is left out.
    """
    depth, height, width = query.shape
    every, partial = counted
    buffer = np.zeros((UNKNOWNS + 1, width), np.float32)
    sums = np.zeros((UNKNOWNS + 1, UNKNOWNS + 1))
    g0, g1, g2 = np.float32(gain[0]), np.float32(gain[1]), np.float32(gain[2])
    per_mm = 1.0 / reference_grid[1]
    for i in range(depth):
        z = query_grid[0, 0] + i * query_grid[1, 0]
        for j in range(i % every, height, every):
            y = query_grid[0, 1] + j * query_grid[1, 1]
            for k in range(width):
                x = query_grid[0, 2] + k * query_grid[1, 2]
                pz = matrix[0, 0] * z + matrix[0, 1] * y + matrix[0, 2] * x
                py = matrix[1, 0] * z + matrix[1, 1] * y + matrix[1, 2] * x
                px = matrix[2, 0] * z + matrix[2, 1] * y + matrix[2, 2] * x
                w, dz, dy, dx = sample(
                    reference,
                    (pz + matrix[0, 3] - reference_grid[0, 0]) * per_mm[0],
                    (py + matrix[1, 3] - reference_grid[0, 1]) * per_mm[1],
                    (px + matrix[2, 3] - reference_grid[0, 2]) * per_mm[2],
                )
                value = query[i, j, k]
                # background on background carries no information
                counts = np.float32(0) if value < np.float32(0.02) and (partial or w == 0) else np.float32(1)
                slope = counts * (g1 + np.float32(2) * g2 * w)
                az, ay, ax = np.float32(pz), np.float32(py), np.float32(px)
                dz *= slope * np.float32(per_mm[0])
                dy *= slope * np.float32(per_mm[1])
                dx *= slope * np.float32(per_mm[2])
                # a turn moves p by turn x p
                buffer[0, k] = ay * dx - ax * dy
                buffer[1, k] = ax * dz - az * dx
                buffer[2, k] = az * dy - ay * dz
                buffer[3, k] = az * dz + ay * dy + ax * dx
                buffer[4, k] = dz
                buffer[5, k] = dy
                buffer[6, k] = dx
                buffer[7, k] = counts
                buffer[8, k] = counts * w
                buffer[9, k] = counts * w * w
                buffer[10, k] = counts * (value - (g0 + g1 * w + g2 * w * w))
            for u in range(UNKNOWNS + 1):
                for v in range(u, UNKNOWNS + 1):
                    total = np.float32(0)
                    for k in range(width):
                        total += buffer[u, k] * buffer[v, k]
                    sums[u, v] += total
    for u in range(UNKNOWNS):
        gradient[u] = sums[u, UNKNOWNS]
        for v in range(u, UNKNOWNS):
            normal[u, v] = normal[v, u] = sums[u, v]
    return sums[UNKNOWNS, UNKNOWNS]


@kernel()
def _turned(matrix: NDArray, move: NDArray) -> NDArray:
    """Return a map (3, 4) turned by move[:3] rad (Rodrigues), scaled by exp(move[3]) and shifted by move[4:7] mm."""
    a, b, c = move[0], move[1], move[2]
    angle = np.sqrt(a * a + b * b + c * c)
    skew = np.array([[0.0, -c, b], [c, 0.0, -a], [-b, a, 0.0]])
    near = 1.0 if angle < 1e-9 else np.sin(angle) / angle
    far = 0.5 if angle < 1e-9 else (1 - np.cos(angle)) / angle**2
    square = np.zeros((3, 3))
    turn = np.eye(3)
    for u in range(3):
        for v in range(3):
            for w in range(3):
                square[u, v] += skew[u, w] * skew[w, v]
    turn += near * skew + far * square
    moved = matrix.copy()
    for u in range(3):
        moved[u, 3] += move[4 + u]
        for v in range(3):
            moved[u, v] = 0.0
            for w in range(3):
                moved[u, v] += np.exp(move[3]) * turn[u, w] * matrix[w, v]
    return moved


@kernel()
def _fit(
    query: NDArray,
    query_grid: NDArray,
    reference: NDArray,
    reference_grid: NDArray,
    matrix: NDArray,
    gain: NDArray,
    iterations: int,
    counted: tuple[int, bool],
) -> tuple[NDArray, NDArray, float]:
    """Refine a map and gain by damped Gauss-Newton; return the best ones and their squared error."""
    normal = np.zeros((UNKNOWNS, UNKNOWNS))
    gradient = np.zeros(UNKNOWNS)
    best, best_gain = matrix.copy(), gain.copy()
    lowest = np.inf
    damping = 1e-3
    for _ in range(iterations + 1):
        error = _normal_equations(query, query_grid, reference, reference_grid, matrix, gain, counted, normal, gradient)
        scale = np.sqrt((matrix[:, 0] ** 2).sum())
        if not np.isfinite(error) or scale < SCALE_RANGE[0] or scale > SCALE_RANGE[1] or error > lowest * 1.5:
            matrix, gain = best.copy(), best_gain.copy()
            damping *= 30
            if damping > 1e3 or lowest == np.inf:
                break
            _normal_equations(query, query_grid, reference, reference_grid, matrix, gain, counted, normal, gradient)
        elif error < lowest:
            done = error > lowest * 0.9995
            lowest = error
            best, best_gain = matrix.copy(), gain.copy()
            if done:
                break
        for u in range(UNKNOWNS):
            normal[u, u] += damping * normal[u, u] + 1e-6
        move = solve(normal, gradient)
        matrix = _turned(matrix, move)
        gain = gain + move[7:]
    return best, best_gain, lowest


@kernel(parallel=True)
def _best_starts(
    queries: NDArray,
    query_grid: NDArray,
    references: NDArray,
    reference_grid: NDArray,
    first: NDArray,
    second: NDArray,
    starts: NDArray,
    iterations: int,
    counted: tuple[int, bool],
    matrices: NDArray,
    gains: NDArray,
    errors: NDArray,
) -> None:
    """Refine every start (P, S, 3, 4) of every pair, but for those whose error is infinite."""
    count = starts.shape[1]
    for n in numba.prange(first.shape[0] * count):
        p, s = n // count, n % count
        if errors[p, s] == np.inf:
            matrices[p, s] = starts[p, s]
            continue
        matrices[p, s], gains[p, s], errors[p, s] = _fit(
            queries[first[p]],
            query_grid,
            references[second[p]],
            reference_grid,
            starts[p, s],
            gains[p, s].copy(),
            iterations,
            counted,
        )


@kernel(parallel=True)
def _resample_pairs(
    queries_grid: NDArray,
    references: NDArray,
    reference_grid: NDArray,
    second: NDArray,
    matrices: NDArray,
    out: NDArray,
) -> None:
    """Fill (P, D, H, W) with each pair's reference at the query's voxels."""
    per_mm = 1.0 / reference_grid[1]
    for p in numba.prange(second.shape[0]):
        m = matrices[p]
        for i in range(out.shape[1]):
            z = queries_grid[0, 0] + i * queries_grid[1, 0]
            for j in range(out.shape[2]):
                y = queries_grid[0, 1] + j * queries_grid[1, 1]
                for k in range(out.shape[3]):
                    x = queries_grid[0, 2] + k * queries_grid[1, 2]
                    out[p, i, j, k] = sample(
                        references[second[p]],
                        (m[0, 0] * z + m[0, 1] * y + m[0, 2] * x + m[0, 3] - reference_grid[0, 0]) * per_mm[0],
                        (m[1, 0] * z + m[1, 1] * y + m[1, 2] * x + m[1, 3] - reference_grid[0, 1]) * per_mm[1],
                        (m[2, 0] * z + m[2, 1] * y + m[2, 2] * x + m[2, 3] - reference_grid[0, 2]) * per_mm[2],
                    )[0]


def register_volumes(
    queries: NDArray[np.float32],
    references: NDArray[np.float32],
    pairs: tuple[NDArray[np.int64], NDArray[np.int64]],
    starts: NDArray[np.float64],
    spacing: tuple[NDArray, NDArray],
    partial: bool = False,
) -> NDArray[np.float64]:
    """Return the maps (P, 3, 4) in mm about the centres, query to reference: turn, scale, shift, side of the start.

    Args:
        queries, references: (Q, D, H, W) and (R, D', H', W') in [0, 1], background near 0; each side at least 2.
        pairs: (P,) numbers of the queries and (P,) of the references.
        starts: (P, S, 3, 4) maps to begin at; a start keeps its handedness, so mirrored ones must be given.
        spacing: (3,) mm of the queries' voxels, and of the references'.
        partial: the queries show a part of what the references show: what they leave black does not count.

    Raises:
        ValueError: if a side is shorter.

    Cost: 60 to 90 ms a pair of 40 x 56 x 48 voxels of 4 mm with one start, on one core, smoothing included.
    """
    if min(*queries.shape[1:], *references.shape[1:]) < 2:
        raise ValueError(f"expected volumes of at least 2 a side, got {queries.shape[1:]} and {references.shape[1:]}")
    first, second = (np.ascontiguousarray(numbers, np.int64) for numbers in pairs)
    matrices = np.ascontiguousarray(starts, np.float64)
    gains, errors = np.tile([0.0, 1.0, 0.0], (*matrices.shape[:2], 1)), np.zeros(matrices.shape[:2])
    for number, (side, iterations, every) in enumerate(zip(LEVELS_MM, ITERATIONS, ROWS)):
        if number and side < 0.75 * max(np.min(spacing[0]), np.min(spacing[1])):
            break  # there are no such voxels
        (query, query_grid), (reference, reference_grid) = (
            _level(volumes, step, side) for volumes, step in zip((queries, references), spacing)
        )
        found = np.empty_like(matrices)
        _best_starts(
            query,
            query_grid,
            reference,
            reference_grid,
            first,
            second,
            matrices,
            iterations,
            (every, partial),
            found,
            gains,
            errors,
        )
        kept = np.argsort(errors, axis=1, kind="stable")[:, : KEPT if number == 0 else 1]
        matrices = np.take_along_axis(found, kept[..., None, None], 1)
        gains, errors = np.take_along_axis(gains, kept[..., None], 1), np.take_along_axis(errors, kept, 1)
        errors[errors > RIVAL * errors[:, :1]] = np.inf
    return matrices[:, 0]


def resample_volumes(
    references: NDArray[np.float32],
    second: NDArray[np.int64],
    matrices: NDArray[np.float64],
    shape: tuple[int, int, int],
    spacing: tuple[NDArray, NDArray],
) -> NDArray[np.float32]:
    """Return references[second] at the positions that maps (P, 3, 4) give for a query's grid, trilinear, 0 outside.

    `shape` and the first `spacing` are the queries', the second one the references'.
    """
    out = np.empty((len(second), *shape), np.float32)
    grids = [_grid(sides, step) for sides, step in zip((shape, references.shape[1:]), spacing)]
    references = np.ascontiguousarray(references, np.float32)
    _resample_pairs(grids[0], references, grids[1], np.asarray(second, np.int64), matrices, out)
    return out


def _grid(shape: tuple[int, ...], spacing: NDArray) -> NDArray[np.float64]:
    """Return origin and step (2, 3) of a volume's voxels, in mm about its centre."""
    step = np.asarray(spacing, float)
    return np.stack([-(np.array(shape) - 1) / 2 * step, step])


def _level(volumes: NDArray, spacing: NDArray, side: float) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Return volumes in voxels of about `side` mm, each of which stands for whole ones of the given, and their grid."""
    strides = np.maximum(1, np.round(side / np.asarray(spacing, float))).astype(int)
    strides = np.minimum(strides, np.maximum(1, (np.array(volumes.shape[1:]) - 1) // 3))
    smooth = ndimage.gaussian_filter(np.asarray(volumes, np.float32), (0, *(SMOOTHING * strides)))
    starts = [(n - 1) % stride // 2 for n, stride in zip(volumes.shape[1:], strides)]
    origin, step = _grid(volumes.shape[1:], spacing)
    cut = tuple(slice(start, None, stride) for start, stride in zip(starts, strides))
    return np.ascontiguousarray(smooth[(slice(None), *cut)]), np.stack([origin + starts * step, strides * step])
