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


"""Copies of a part of a training image: which square of an image decides, and images that such a part was put into."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..decision.statistic import Statistic
from ..images.subjects import starts_of_runs
from ..similarity.ssim_kernels import WINDOW

__all__ = ["Parts", "paste_part", "strongest_squares"]

EDGE = 1.0  # pixels; sigma of the seam of a pasted part
OBJECT = 0.1  # intensity above which a pixel belongs to the object
INSIDE = 0.7  # of its radius a part's centre lies at least inside the object


class Parts(NamedTuple):
    """Which row (U,) of the searched images decided for each unit, in which square (U, 3) of the verifier's grid, and
    the square's weight (U,)."""

    row: NDArray[np.int64]
    square: NDArray[np.int64]
    weight: NDArray[np.float64]

    @classmethod
    def of(cls, unit: NDArray, value: NDArray, square: NDArray, grid: NDArray) -> Parts:
        """Return the row of each unit with the largest value (Q,), and its square (Q,), a row of the grid."""
        order = np.lexsort((-value, unit))
        row = order[starts_of_runs(unit[order])] if len(unit) else order
        return cls(row, grid[square[row]], _weights(grid)[square[row]])


def _weights(grid: NDArray) -> NDArray[np.float64]:
    """Return what makes squares (W, 3) of different sides comparable: the chance that two strangers agree falls as a
    square grows, and with it the spread of the statistic, as one over the side that windows' centres fill."""
    filled = grid[:, 2] - WINDOW + 1
    return filled / filled.min()


def strongest_squares(
    squares: NDArray[np.float32], grid: NDArray, statistic: Statistic
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the number of the square (Q,) in which one candidate stands out most, and the weighted statistic (Q,).

    Args:
        squares: SSIM of each square of each candidate, (Q, k, W), -inf where it shows too little.
        grid: the squares, (W, 3).
        statistic: of the candidates in one square. Where it is -inf in all, the most alike square is taken.
    """
    queries, candidates, count = squares.shape
    values = statistic(squares.transpose(0, 2, 1).reshape(-1, candidates)).reshape(queries, count) * _weights(grid)
    alike = squares.max(1, initial=-np.inf)
    best = np.where(np.isneginf(values).all(1), alike.argmax(1), values.argmax(1))
    return best, np.take_along_axis(values, best[:, None], 1)[:, 0]


def paste_part(
    host: NDArray[np.float32], source: NDArray[np.float32], diameter: float, rng: np.random.RandomState
) -> NDArray[np.float32]:
    """Return an image (H, W) in [0, 1] with a disc, so many pixels wide, of another one on the same grid.

    Its centre is drawn where the disc lies in the object for the most part.
    """
    radius = diameter / 2
    inside = np.argwhere(ndimage.distance_transform_edt(host > OBJECT) > INSIDE * radius)
    row, column = inside[rng.randint(len(inside))] if len(inside) else np.array(host.shape) // 2
    y, x = np.ogrid[: host.shape[0], : host.shape[1]]
    weight = ndimage.gaussian_filter((np.hypot(y - row, x - column) < radius).astype(np.float32), EDGE)
    return weight * source + (1 - weight) * host
