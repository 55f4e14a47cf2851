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

"""Sample volumes: at any place, on another grid, in larger voxels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .kernels import in_parts, kernel
from .smoothing import smoothed

__all__ = ["EDGE", "coarse_volumes", "resample_volumes", "sample"]

EDGE = 1e-3  # voxels outside a volume that are its edge: an identity is found to 1e-8
SMOOTHING = 0.5  # voxels of the result, Gaussian, before voxels are left out


@kernel(fastmath=True)
def sample(
    volume: NDArray, z: float | np.floating, y: float | np.floating, x: float | np.floating
) -> tuple[np.float32, np.float32, np.float32, np.float32]:
    """Trilinear value and its derivatives by z, y and x; zero outside, but for what rounding may have moved out."""
    depth, height, width = volume.shape
    nothing = np.float32(0)
    inside = -EDGE <= z <= depth - 1 + EDGE and -EDGE <= y <= height - 1 + EDGE and -EDGE <= x <= width - 1 + EDGE
    if not inside:
        return nothing, nothing, nothing, nothing
    z, y, x = min(max(z, 0.0), depth - 1.0), min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
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


@kernel()
def _resample_pairs(
    start: int,
    stop: int,
    queries_grid: NDArray,
    references: NDArray,
    reference_grid: NDArray,
    second: NDArray,
    matrices: NDArray,
    out: NDArray,
) -> None:
    """Fill (P, D, H, W) with each pair's reference at the query's voxels."""
    per_mm = 1.0 / reference_grid[1]
    for p in range(start, stop):
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
    second = np.asarray(second, np.int64)
    in_parts(_resample_pairs, len(second), grids[0], references, grids[1], second, matrices, out)
    return out


def _grid(shape: tuple[int, ...], spacing: NDArray) -> NDArray[np.float64]:
    """Return origin and step (2, 3) of a volume's voxels, in mm about its centre."""
    step = np.asarray(spacing, float)
    return np.stack([-(np.array(shape) - 1) / 2 * step, step])


def coarse_volumes(volumes: NDArray, spacing: NDArray, side: float) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Return volumes in voxels of about `side` mm, each of which stands for whole ones of the given, and their grid."""
    strides = np.maximum(1, np.round(side / np.asarray(spacing, float))).astype(int)
    strides = np.minimum(strides, np.maximum(1, (np.array(volumes.shape[1:]) - 1) // 3))
    smooth = smoothed(np.asarray(volumes, np.float32), SMOOTHING * strides)
    starts = [(n - 1) % stride // 2 for n, stride in zip(volumes.shape[1:], strides)]
    origin, step = _grid(volumes.shape[1:], spacing)
    cut = tuple(slice(start, None, stride) for start, stride in zip(starts, strides))
    return np.ascontiguousarray(smooth[(slice(None), *cut)]), np.stack([origin + starts * step, strides * step])
