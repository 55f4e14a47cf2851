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

As for planar images. Positions are in mm about the volumes' centres: voxels of any size, any field of view.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from .kernels import in_parts, kernel
from .registration import solve
from .volume_sampling import EDGE, coarse_volumes

__all__ = ["register_volumes"]

LEVELS_MM = (8.0, 4.0, 2.0)  # sides of the voxels that are compared, coarse to fine
ITERATIONS = (12, 8, 4)
ROWS = (1, 2, 2)  # of so many rows of voxels one is compared, in a checkerboard: seven numbers need no more
KEPT = 2  # starts that go on from the coarse level
RIVAL = 1.3  # times the least error, up to which they do
SCALE_RANGE = (0.7, 1.4)  # of the map; anything beyond is a run-away fit
WORK, VOXELS = 34, 192  # of the work space of a pair, which fits the processor's first cache
VALUE, AT = 11, 12  # rows of the work space: the query's values, the voxels' turned positions in mm (three rows)
UNKNOWNS = 10  # turn, scale, shift, and a parabola of intensity


@kernel(fastmath=True)
def _add_voxels(
    count: int,
    reference: NDArray,
    grid: NDArray,
    per_mm: NDArray,
    matrix: NDArray,
    gain: NDArray,
    partial: bool,
    work: NDArray,
    sums: NDArray,
) -> None:
    """Add the products of `count` voxels, whose turned positions and values lie in `work`, to the sums."""
    flat = reference.reshape(-1)
    rows, columns = np.int32(reference.shape[1]), np.int32(reference.shape[2])
    by_row, by_plane = np.uint64(columns), np.uint64(rows * columns)
    g0, g1, g2 = np.float32(gain[0]), np.float32(gain[1]), np.float32(gain[2])
    az, ay, ax, value = work[AT], work[AT + 1], work[AT + 2], work[VALUE]
    fz, fy, fx, inside, w, slope = work[15], work[16], work[17], work[18], work[19], work[20]
    a, b, c, d, e, f, g, h = work[21], work[22], work[23], work[24], work[25], work[26], work[27], work[28]
    near, far, dz, dy, dx = work[29], work[30], work[31], work[32], work[33]
    edge = np.float32(EDGE)
    for n in range(count):
        inside[n] = np.float32(1)
    for axis in range(3):
        place, last = work[15 + axis], np.float32(reference.shape[axis] - 1)
        shift, scale = np.float32(matrix[axis, 3] - grid[0, axis]), np.float32(per_mm[axis])
        for n in range(count):
            place[n] = (work[AT + axis, n] + shift) * scale
        for n in range(count):
            inside[n] = np.float32(0) if (place[n] < -edge) | (place[n] > last + edge) else inside[n]
        for n in range(count):
            place[n] = min(max(place[n], np.float32(0)), last)
    for n in range(count):
        i = min(np.int32(fz[n]), np.int32(reference.shape[0] - 2))
        j = min(np.int32(fy[n]), rows - np.int32(2))
        k = min(np.int32(fx[n]), columns - np.int32(2))
        # positions are at least 0; an unsigned index needs no question whether it counts from the end
        m = np.uint64(np.uint32((i * rows + j) * columns + k))
        fz[n] -= np.float32(i)
        fy[n] -= np.float32(j)
        fx[n] -= np.float32(k)
        a[n], b[n] = flat[m], flat[m + np.uint64(1)]
        c[n], d[n] = flat[m + by_row], flat[m + by_row + np.uint64(1)]
        m += by_plane
        e[n], f[n] = flat[m], flat[m + np.uint64(1)]
        g[n], h[n] = flat[m + by_row], flat[m + by_row + np.uint64(1)]
    for first, second in ((a, b), (c, d), (e, f), (g, h)):
        for n in range(count):
            second[n] -= first[n]
    for n in range(count):
        near[n] = a[n] + b[n] * fx[n] + (c[n] - a[n] + (d[n] - b[n]) * fx[n]) * fy[n]
    for n in range(count):
        far[n] = e[n] + f[n] * fx[n] + (g[n] - e[n] + (h[n] - f[n]) * fx[n]) * fy[n]
    for n in range(count):
        w[n] = inside[n] * (near[n] + (far[n] - near[n]) * fz[n])
    for n in range(count):
        # background on background carries no information
        dark = (value[n] < np.float32(0.02)) & (partial | (w[n] == 0))
        work[7, n] = np.float32(0) if dark else np.float32(1)
    for n in range(count):
        slope[n] = inside[n] * work[7, n] * (g1 + np.float32(2) * g2 * w[n])
    for n in range(count):
        dz[n] = slope[n] * (far[n] - near[n]) * np.float32(per_mm[0])
    for n in range(count):
        near_y, far_y = c[n] - a[n] + (d[n] - b[n]) * fx[n], g[n] - e[n] + (h[n] - f[n]) * fx[n]
        dy[n] = slope[n] * (near_y + (far_y - near_y) * fz[n]) * np.float32(per_mm[1])
    for n in range(count):
        near_x, far_x = b[n] + (d[n] - b[n]) * fy[n], f[n] + (h[n] - f[n]) * fy[n]
        dx[n] = slope[n] * (near_x + (far_x - near_x) * fz[n]) * np.float32(per_mm[2])
    for n in range(count):  # a turn moves p by turn x p
        work[0, n] = ay[n] * dx[n] - ax[n] * dy[n]
    for n in range(count):
        work[1, n] = ax[n] * dz[n] - az[n] * dx[n]
    for n in range(count):
        work[2, n] = az[n] * dy[n] - ay[n] * dz[n]
    for n in range(count):
        work[3, n] = az[n] * dz[n] + ay[n] * dy[n] + ax[n] * dx[n]
    for n in range(count):
        work[4, n] = dz[n]
    for n in range(count):
        work[5, n] = dy[n]
    for n in range(count):
        work[6, n] = dx[n]
    for n in range(count):
        work[8, n] = work[7, n] * w[n]
    for n in range(count):
        work[9, n] = work[8, n] * w[n]
    for n in range(count):
        work[10, n] = work[7, n] * (value[n] - g0) - g1 * work[8, n] - g2 * work[9, n]
    for u in range(UNKNOWNS + 1):
        for v in range(u, UNKNOWNS + 1):
            total = np.float32(0)
            for n in range(count):
                total += work[u, n] * work[v, n]
            sums[u, v] += total


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
    work: NDArray,
) -> float:
    """Fill the normal equations of (turn, log scale, shift, gain) at a map (3, 4) and return the squared error.

    Grids (2, 3) are origin and step in mm. The reference's value w at matrix @ x predicts the query as a parabola in w.
    `counted` says of how many rows of voxels one is taken, and whether what the query leaves black is left out. Some
    rows at a time, as for planar images: `work` (WORK, voxels) holds what is known of their voxels. Each loop but one
    writes a single row, in which the compiler finds no overlap, and vectorises it.
    """
    depth, height, width = query.shape
    every, partial = counted
    sums = np.zeros((UNKNOWNS + 1, UNKNOWNS + 1))
    per_mm = 1.0 / reference_grid[1]
    rows = max(1, work.shape[1] // width)
    count = np.int64(0)  # no 0, for which numba compiles once more
    for i in range(depth):
        z = query_grid[0, 0] + i * query_grid[1, 0]
        for j in range(i % every, height, every):
            y = query_grid[0, 1] + j * query_grid[1, 1]
            for axis in range(3):
                at = work[AT + axis, count : count + width]
                step = np.float32(matrix[axis, 2] * query_grid[1, 2])
                begin = np.float32(matrix[axis, 0] * z + matrix[axis, 1] * y + matrix[axis, 2] * query_grid[0, 2])
                for k in range(width):
                    at[k] = begin + np.float32(k) * step
            for k in range(width):
                work[VALUE, count + k] = query[i, j, k]
            count += width
            if count + width > rows * width:
                _add_voxels(int(count), reference, reference_grid, per_mm, matrix, gain, partial, work, sums)
                count = np.int64(0)
    if count:
        _add_voxels(int(count), reference, reference_grid, per_mm, matrix, gain, partial, work, sums)
    for u in range(UNKNOWNS):
        gradient[u] = sums[u, UNKNOWNS]
        for v in range(u, UNKNOWNS):
            normal[u, v] = normal[v, u] = sums[u, v]
    return sums[UNKNOWNS, UNKNOWNS]


@functools.cache
def load_first() -> None:
    """Load the inner kernels before those that hold a copy of them, as for planar images."""
    volume, grid, matrix, gain = np.zeros((2, 2, 2), np.float32), np.ones((2, 3)), np.eye(3, 4), np.ones(3)
    normal, right, work = np.zeros((11, 11)), np.zeros(UNKNOWNS), np.zeros((WORK, VOXELS), np.float32)
    _add_voxels(0, volume, grid, gain, matrix, gain, False, work, normal)
    _normal_equations(volume, grid, volume, grid, matrix, gain, (1, False), normal, right, work)


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
    work = np.empty((WORK, max(VOXELS, query.shape[2])), np.float32)
    best, best_gain = matrix.copy(), gain.copy()
    lowest = np.inf
    damping = 1e-3
    for _ in range(iterations + 1):
        error = _normal_equations(
            query, query_grid, reference, reference_grid, matrix, gain, counted, normal, gradient, work
        )
        scale = np.sqrt((matrix[:, 0] ** 2).sum())
        if not np.isfinite(error) or scale < SCALE_RANGE[0] or scale > SCALE_RANGE[1] or error > lowest * 1.5:
            matrix, gain = best.copy(), best_gain.copy()
            damping *= 30
            if damping > 1e3 or lowest == np.inf:
                break
            _normal_equations(
                query, query_grid, reference, reference_grid, matrix, gain, counted, normal, gradient, work
            )
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


@kernel()
def _best_starts(
    start: int,
    stop: int,
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
    for n in range(start, stop):
        p, s = n // count, n % count
        if errors[p, s] == np.inf:
            _copy(starts[p, s], matrices[p, s])
            continue
        pair, gain = (queries[first[p]], references[second[p]]), gains[p, s].copy()
        matrix, gain, errors[p, s] = _fit(
            pair[0], query_grid, pair[1], reference_grid, starts[p, s], gain, iterations, counted
        )
        _copy(matrix, matrices[p, s])
        for u in range(len(gain)):
            gains[p, s, u] = gain[u]


@kernel()
def _copy(source: NDArray, target: NDArray) -> None:
    """Copy a map (3, 4); an assignment of slices takes a second to compile."""
    for n in range(12):
        target[n // 4, n % 4] = source[n // 4, n % 4]


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

    Cost: about 17 ms a pair of 48 x 56 x 40 voxels of 4 mm with two starts, on one core, smoothing included.
    """
    if min(*queries.shape[1:], *references.shape[1:]) < 2:
        raise ValueError(f"expected volumes of at least 2 a side, got {queries.shape[1:]} and {references.shape[1:]}")
    load_first()
    first, second = (np.ascontiguousarray(numbers, np.int64) for numbers in pairs)
    matrices = np.ascontiguousarray(starts, np.float64)
    gains, errors = np.tile([0.0, 1.0, 0.0], (*matrices.shape[:2], 1)), np.zeros(matrices.shape[:2])
    for number, (side, iterations, every) in enumerate(zip(LEVELS_MM, ITERATIONS, ROWS)):
        if number and side < 0.75 * max(np.min(spacing[0]), np.min(spacing[1])):
            break  # there are no such voxels
        (query, query_grid), (reference, reference_grid) = (
            coarse_volumes(volumes, step, side) for volumes, step in zip((queries, references), spacing)
        )
        found = np.empty_like(matrices)
        given = query, query_grid, reference, reference_grid, first, second, matrices, iterations, (every, partial)
        in_parts(_best_starts, matrices.shape[0] * matrices.shape[1], *given, found, gains, errors)
        kept = np.argsort(errors, axis=1, kind="stable")[:, : KEPT if number == 0 else 1]
        matrices = np.take_along_axis(found, kept[..., None, None], 1)
        gains, errors = np.take_along_axis(gains, kept[..., None], 1), np.take_along_axis(errors, kept, 1)
        errors[errors > RIVAL * errors[:, :1]] = np.inf
    return matrices[:, 0]
